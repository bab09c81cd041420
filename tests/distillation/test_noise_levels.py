"""What a step draws, against the law and against the official code's own draws."""

import json
from pathlib import Path

import pytest
import torch

from diffusers_soundctm.distillation.noise_levels import (
    denoising_sigmas,
    heun_step_counts,
    lognormal_sigmas,
    sampler_step,
    start_indices,
    target_indices,
    teacher_level_rows,
)
from diffusers_soundctm.distillation.trajectories import Grid
from diffusers_soundctm.preconditioning import karras_sigmas

RECORD = json.loads((Path(__file__).parent.parent / "fixtures" / "golden" / "distributions.json").read_text())
DRAWS = 200_000


def agrees(values: torch.Tensor, record: dict) -> None:
    """Mean and quantiles of DRAWS of ours and the recorded ones, within five standard errors."""
    values = values.double()
    assert values.mean().item() == pytest.approx(record["mean"], abs=5 * record["std"] * (2 / DRAWS) ** 0.5 + 1e-9)
    for probability in ("0.05", "0.25", "0.5", "0.75", "0.95"):
        below = (values <= record["q"][probability]).double().mean().item()
        strictly_below = (values < record["q"][probability]).double().mean().item()
        assert strictly_below - 0.005 <= float(probability) <= below + 0.005


@pytest.mark.parametrize("steps", [1, 10, 39])
def test_indices_given_steps(steps):
    generator = torch.Generator().manual_seed(0)
    start = start_indices(torch.full((DRAWS,), steps), 40, generator)
    target = target_indices(start + steps, 40, generator)
    agrees(start, RECORD[f"t_index_given_h{steps}"])
    agrees(target, RECORD[f"s_index_given_h{steps}"])
    agrees(target - start - steps, RECORD[f"s_minus_u_given_h{steps}"])


def test_steps_and_sigmas():
    generator = torch.Generator().manual_seed(0)
    agrees(heun_step_counts(DRAWS, 40, generator), RECORD["heun_weighted_39"])
    agrees(denoising_sigmas(DRAWS, generator), RECORD["halflognormal_all"])
    agrees(lognormal_sigmas(DRAWS, generator), RECORD["lognormal"])


def test_power_of_the_law_of_step_counts():
    generator = torch.Generator().manual_seed(0)
    uniform = heun_step_counts(DRAWS, 18, generator, power=0.0)
    torch.testing.assert_close(
        uniform.bincount(minlength=18)[1:] / DRAWS, torch.full((17,), 1 / 17), atol=0.003, rtol=0
    )


def test_odd_batch_has_fewer_lognormal_sigmas():
    # The Karras curve at positions up to 0.7 stays above this level; ⌊3/2⌋ = 1 of the samples may lie below it.
    above = karras_sigmas(10)[7]
    sigmas = torch.stack([denoising_sigmas(3, torch.Generator().manual_seed(seed)) for seed in range(200)])
    assert (sigmas[:, 1:] >= above * 0.999).all()
    assert (sigmas[:, 0] < above).any()


def test_share_of_targets_at_sigma_min():
    generator = torch.Generator().manual_seed(0)
    target = target_indices(torch.full((DRAWS,), 10), 40, generator, sigma_min_rate=0.6)
    assert (target == 39).double().mean().item() == pytest.approx(0.6 + 0.4 / 30, abs=0.006)
    assert target.min() == 10


def test_reused_trajectories_keep_the_law_of_fresh_ones():
    def draw(reuse):
        grid = Grid(karras_sigmas(11), reuse=reuse)
        rows = []
        for seed in range(1500):
            generator = torch.Generator().manual_seed(seed)
            visited = grid.visited(4, generator)
            start, solved, target = grid.triple(visited, generator)
            samples = torch.arange(4)
            rows.append(torch.stack([visited[start, samples], visited[solved, samples], target]))
        return torch.cat(rows, 1)

    fresh, reused = draw(1), draw(8)
    for indices in (fresh, reused):
        assert (indices[0] < indices[1]).all()
        assert (indices[1] <= indices[2]).all()
        assert indices[2].max() == 11
    torch.testing.assert_close(fresh.double().mean(1), reused.double().mean(1), atol=0.2, rtol=0)
    torch.testing.assert_close(fresh.double().cov(), reused.double().cov(), atol=0.7, rtol=0.1)


def test_lognormal_sigmas_are_stratified():
    sigmas = lognormal_sigmas(64, torch.Generator().manual_seed(0), p_mean=0.0, p_std=1.0)
    quantiles = torch.special.ndtr(sigmas.double().log()).sort().values * 64
    assert torch.equal(quantiles.floor(), torch.arange(64.0, dtype=torch.float64))


def test_sampler_steps_are_those_of_1_2_4_8_and_16_step_samplers():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack(sampler_step(DRAWS, 17, generator), dim=1)
    wanted = {(i * 16 // n, (i + 1) * 16 // n): 1 / (5 * n) for n in (1, 2, 4, 8, 16) for i in range(n)}
    found, counts = pairs.unique(dim=0, return_counts=True)
    assert {tuple(pair) for pair in found.tolist()} == set(wanted)
    for pair, count in zip(found.tolist(), counts.tolist(), strict=True):
        assert count / DRAWS == pytest.approx(wanted[tuple(pair)], abs=0.004)


@pytest.mark.parametrize("scales", [2, 3, 10, 18, 40])
def test_sampler_steps_go_down_on_any_grid(scales):
    start, target = sampler_step(1000, scales, torch.Generator().manual_seed(0))
    assert (start >= 0).all() and (start < target).all() and (target < scales).all()


def test_half_of_the_teachers_levels_lie_near_the_middle():
    sigmas = karras_sigmas(17)[:-1, None].expand(-1, DRAWS)
    rows = {levels: teacher_level_rows(sigmas, torch.Generator().manual_seed(0), levels) for levels in
            ("uniform", "mixed")}  # fmt: skip
    near = {levels: sigmas[row, torch.arange(DRAWS)].log().abs() for levels, row in rows.items()}
    shares = {levels: (value < 1).double().mean().item() for levels, value in near.items()}
    uniform = (karras_sigmas(17)[:-1].log().abs() < 1).double().mean().item()
    assert shares["uniform"] == pytest.approx(uniform, abs=0.005)
    assert shares["mixed"] == pytest.approx(0.5 * uniform + 0.5 * 0.683, abs=0.06)  # the grid is coarse
    half = DRAWS // 2
    assert rows["mixed"][half:].double().mean() == pytest.approx(rows["uniform"].double().mean().item(), abs=0.05)
