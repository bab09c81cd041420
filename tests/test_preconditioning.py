"""The affine maps invert the prediction of each kind of network, and c_noise matches the teacher."""

import pytest
import torch
from diffusers import DDIMScheduler

import golden
from diffusers_soundctm import preconditioning as pre

SIGMA_DATA = 0.25


def perfect_output(prediction_type: str, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Output of a network that knows `clean` and `noise`, from the definition of each prediction type."""
    sigma = sigma.reshape(-1, 1, 1, 1)
    signal, spread = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    if prediction_type == "edm":
        variance = sigma**2 + SIGMA_DATA**2
        skip, out = SIGMA_DATA**2 / variance, sigma * SIGMA_DATA / variance.sqrt()
        return (clean - skip * (clean + sigma * noise)) / out
    return {
        "epsilon": noise,
        "v_prediction": signal * noise - spread * clean,
        "sample": clean,
        "flow": noise - clean,
        "inverted_flow": clean - noise,
    }[prediction_type]


@pytest.mark.parametrize("prediction_type", pre.PREDICTION_TYPES)
def test_perfect_network_denoises_and_jumps_exactly(prediction_type):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 8, 6, 5, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.7, 9.0, 80.0], dtype=torch.float64)
    target = torch.tensor([0.04, 0.7, 0.05, 3.0], dtype=torch.float64)
    noisy = clean + sigma.reshape(-1, 1, 1, 1) * noise

    output = perfect_output(prediction_type, clean, noise, sigma)
    estimate = pre.denoised(output, noisy, sigma, prediction_type, SIGMA_DATA)

    torch.testing.assert_close(estimate, clean, rtol=1e-9, atol=1e-9)
    # The trajectory of a single clean point is a straight line: the same noise with a smaller factor.
    torch.testing.assert_close(
        pre.jump(estimate, noisy, sigma, target), clean + target.reshape(-1, 1, 1, 1) * noise, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("prediction_type", [kind for kind in pre.PREDICTION_TYPES if kind not in pre.FLOW_TYPES])
def test_network_input_has_unit_variance(prediction_type):
    sigma = torch.tensor([0.04, 1.0, 80.0])
    spread = SIGMA_DATA if prediction_type == "edm" else 1.0
    torch.testing.assert_close(
        pre.c_in(sigma, prediction_type, SIGMA_DATA) * (sigma**2 + spread**2).sqrt(), torch.ones(3)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_get_float32_arithmetic(dtype):
    output, sample = torch.ones(1, 1, 2, 2, dtype=dtype), torch.full((1, 1, 2, 2), 0.5)
    estimate = pre.denoised(output, sample, 80.0, "epsilon")
    assert estimate.dtype == torch.float32 and estimate.unique().item() == 0.5 - 80
    assert torch.equal(pre.jump(estimate, sample, 80.0, 80.0), sample)


@pytest.mark.parametrize("beta_schedule", pre.BETA_SCHEDULES)
def test_noise_table_is_the_teachers(beta_schedule):
    teacher = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule=beta_schedule)
    log_sigmas = pre.vp_log_sigmas(beta_schedule=beta_schedule)
    expected = ((1 - teacher.alphas_cumprod.double()) / teacher.alphas_cumprod.double()).sqrt().log().float()
    # The cosine schedule ends at 1 − β = 0.001, where the float32 betas of diffusers lose digits.
    torch.testing.assert_close(log_sigmas, expected, rtol=1e-3, atol=1e-4)

    steps = torch.tensor([0.0, 1.0, 250.25, 998.5, 999.0])
    sigma = pre.noise_level(steps, "epsilon", log_sigmas)
    torch.testing.assert_close(pre.c_noise(sigma, "epsilon", log_sigmas), steps, rtol=0, atol=1e-3)
    assert pre.c_noise(torch.tensor([1e-5, 1e8]), "epsilon", log_sigmas).tolist() == [0, 999]


def test_trained_betas_take_precedence():
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(pre.vp_log_sigmas(trained_betas=betas.tolist()), pre.vp_log_sigmas())


def test_edm_conditioning_and_its_inverse():
    sigma = torch.tensor([0.002, 1.0, 80.0])
    torch.testing.assert_close(pre.c_noise(sigma), sigma.log() / 4)
    torch.testing.assert_close(pre.noise_level(pre.c_noise(sigma)), sigma)


@pytest.mark.parametrize(("prediction_type", "noise_time"), [("flow", 1.0), ("inverted_flow", 0.0)])
def test_flow_networks_see_the_interpolation_and_its_time(prediction_type, noise_time):
    clean, noise = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    time = torch.tensor([0.002, 0.1, 0.5, 0.957, 0.998], dtype=torch.float64)  # the share of noise
    sigma = time / (1 - time)
    noisy = clean + sigma[:, None] * noise
    seen = pre.per_sample(pre.c_in(sigma, prediction_type), noisy) * noisy
    torch.testing.assert_close(seen, torch.lerp(clean, noise, time[:, None]))
    timestep = pre.c_noise(sigma, prediction_type)
    torch.testing.assert_close(timestep, (1 - noise_time) + (2 * noise_time - 1) * time)
    torch.testing.assert_close(pre.noise_level(timestep, prediction_type), sigma)
    rounded = pre.noise_level(pre.c_noise(sigma.float(), prediction_type), prediction_type)
    torch.testing.assert_close(rounded, sigma.float(), rtol=1e-4, atol=0)


def test_karras_tables_match_the_reference():
    tables = {name: table for name, table in golden.read("samplers.safetensors").items() if name.startswith("sigmas.")}
    assert tables
    for table in tables.values():
        # The official code computes in float32 with an error of 2e-7 at the ends and 1.6e-6 at 40 intervals.
        torch.testing.assert_close(pre.karras_sigmas(len(table) - 2), table[:-1], rtol=2e-6, atol=0)


def test_karras_curve_is_exact_at_its_ends_and_decreases():
    sigmas = pre.karras_sigmas(39)
    assert sigmas.dtype == torch.float32 and (sigmas.diff() < 0).all()
    assert torch.equal(sigmas[[0, -1]], torch.tensor([80.0, 0.002]))
    torch.testing.assert_close(pre.karras_sigma(torch.tensor([0.0, 1 / 3, 1.0])), sigmas[[0, 13, 39]])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"beta_schedule": "cosine"}, "beta_schedule"),
        ({"trained_betas": [0.1, 1.0]}, "trained_betas"),
        ({"beta_start": 0.0}, "beta_start"),
    ],
)
def test_bad_betas_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        pre.vp_log_sigmas(**arguments)


def test_unknown_prediction_type_is_named():
    with pytest.raises(ValueError, match="score"):
        pre.denoised(torch.zeros(1, 1), torch.zeros(1, 1), 1.0, "score")
