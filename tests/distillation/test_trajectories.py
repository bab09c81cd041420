"""Which solved trajectories an update looks at."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm.data.sampling import clip_indices
from diffusers_soundctm.distillation.denoisers import Preconditioning, TeacherDenoiser
from diffusers_soundctm.distillation.solver import heun_solve
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample

REUSE, BATCH = 3, 8


class NumberedClips:
    """Clip n is the constant n, its prompt n + 1 tokens of the value n."""

    latent_shape = (1, 2)

    def __len__(self):
        return 1000

    def order(self, batch_size, number, seed):
        return clip_indices(len(self), batch_size, number, seed)

    def draw(self, clips, rows, caption_dropout, generator):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.full((1 + n,), 1.0 * n) for n in clips[rows].tolist()], True)
        latents = clips[rows].float()[:, None, None].expand(-1, 1, 2)
        return lambda device: (
            latents,
            {"tokens": tokens, "mask": None},
            {"tokens": torch.cat([tokens, 0 * tokens]), "mask": None},
        )


class Shrinking(torch.nn.Module):
    """A teacher that counts its calls."""

    def __init__(self):
        super().__init__()
        self.dtype_holder = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, sample, timestep, tokens, mask):
        self.calls += 1
        return SimpleNamespace(sample=-sample)


@pytest.fixture
def stream():
    def build(rows=slice(0, BATCH), reuse=REUSE, denoising_target="data", **settings):
        grid = Grid(karras_sigmas(5), reuse=reuse, **settings)
        return TripleStream(
            NumberedClips(),
            Shrinking(),
            Preconditioning("edm", 0.5),
            grid,
            batch_size=BATCH,
            rows=rows,
            seed=0,
            denoising_target=denoising_target,
        )

    return build


def test_an_update_mixes_the_last_solved_batches(stream):
    stream, served = stream(), {}
    for step in range(40 * REUSE):
        _, noisy = stream.at(step)
        clips, newest = noisy.clean[:, 0, 0].long().tolist(), step // REUSE
        orders = [stream.data.order(BATCH, n, 0).tolist() for n in range(max(0, newest - REUSE + 1), newest + 1)]
        assert all(clip in {order[row] for order in orders} for row, clip in enumerate(clips))
        for clip in clips:
            served[clip] = served.get(clip, 0) + 1
    heun_calls = 2 * 5
    assert stream.teacher.calls == 40 * heun_calls  # one batch solved every K updates, none twice
    settled = [served.get(clip, 0) for n in range(REUSE, 36) for clip in stream.data.order(BATCH, n, 0).tolist()]
    assert sum(settled) / len(settled) == pytest.approx(REUSE, abs=0.3)


def test_points_clean_latents_and_prompts_stay_together(stream):
    triples, noisy = stream().at(7 * REUSE + 1)
    for clip, tokens in zip(noisy.clean[:, 0, 0].tolist(), triples.network_kwargs["tokens"], strict=True):
        assert tokens[: int(clip) + 1].eq(clip).all()
        assert tokens[int(clip) + 1 :].eq(0).all()
    assert triples.network_kwargs["mask"] is None
    assert (triples.solved_sigma < triples.sigma).all()


def test_the_solver_goes_on_to_the_target(stream):
    stream = stream(solve_to_target=True, target_sigma_min_rate=0.3)
    triples, _ = stream.at(7 * REUSE + 1)
    assert triples.solved_sigma is None
    teacher = TeacherDenoiser(Shrinking(), stream.preconditioning, {"tokens": None, "mask": None}, torch.ones(1))
    levels = stream.grid.sigmas
    for row in range(BATCH):
        start, end = (levels.eq(sigma[row]).nonzero().item() for sigma in (triples.sigma, triples.target_sigma))
        alone = heun_solve(teacher, triples.start[row, None], levels[start : end + 1, None])
        torch.testing.assert_close(triples.solved[row, None], alone)


def test_solving_to_the_target_needs_whole_trajectories():
    with pytest.raises(ValueError, match="`reuse` > 1"):
        Grid(karras_sigmas(5), solve_to_target=True)


def test_an_unknown_target_of_score_matching_is_refused(stream):
    with pytest.raises(ValueError, match=r"'clips'.*data, teacher"):
        stream(denoising_target="clips")


@pytest.mark.parametrize("reuse", [1, REUSE])
def test_score_matching_can_be_trained_against_the_guided_teacher(stream, reuse):
    stream = stream(reuse=reuse, denoising_target="teacher")
    triples, noisy = stream.at(4 * reuse)
    point = noisy.clean + per_sample(noisy.sigma, noisy.noise) * noisy.noise
    condition = {name: None for name in triples.network_kwargs}
    teacher = TeacherDenoiser(Shrinking(), stream.preconditioning, condition, triples.guidance_scale)
    torch.testing.assert_close(noisy.clean, teacher(point, noisy.sigma), rtol=1e-4, atol=1e-4)
    assert len(noisy.sigma.unique()) > 1 or reuse == 1
    assert noisy.sigma.min() > stream.grid.sigmas[-1]


@pytest.mark.parametrize("denoising_target", ["data", "teacher"])
@pytest.mark.parametrize("reuse", [1, REUSE])
def test_a_batch_is_a_function_of_the_step(stream, reuse, denoising_target):
    """After a restart, and for every number of processes."""
    running, step = stream(reuse=reuse, denoising_target=denoising_target), 4 * reuse
    for earlier in range(step):
        running.at(earlier)
    whole, noisy = running.at(step)
    for rows in (slice(0, BATCH), slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        part, part_noisy = stream(rows, reuse, denoising_target).at(step)
        for name in ("start", "sigma", "solved", "solved_sigma", "target_sigma", "guidance_scale"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows])
        assert torch.equal(part_noisy.clean, noisy.clean[rows])


def test_sampler_steps_are_solved_to_their_target(stream):
    batch = stream(sampler_rate=1.0, solve_to_target=True)
    sigmas = karras_sigmas(5)
    pairs = set()
    for step in range(40):
        triples, _ = batch.at(step)
        assert triples.solved_sigma is None
        indices = [[(sigmas - sigma).abs().argmin().item() for sigma in row] for row in
                   (triples.sigma, triples.target_sigma)]  # fmt: skip
        pairs |= set(zip(*indices, strict=True))
    # One, two and four steps over five intervals, rounded to the grid.
    assert pairs == {(0, 5), (0, 2), (2, 5), (0, 1), (1, 2), (2, 4), (4, 5)}


@pytest.mark.parametrize("setting", [{"sampler_rate": 0.5}, {"solve_to_target": True}, {"sampler_rate": -1.0}])
def test_parts_of_trajectories_have_no_sampler_steps(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        Grid(karras_sigmas(5), reuse=1, **setting)
