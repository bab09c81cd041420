"""Teachers whose network is a closed-form denoiser: adapter, guidance and Heun solver against the exact trajectory."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm import preconditioning
from diffusers_soundctm.distillation import TeacherDenoiser, heun_solve, sample_teacher
from diffusers_soundctm.distillation.networks import Preconditioning
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample

SPREAD = 0.7  # standard deviation of the data


class GaussianNetwork(torch.nn.Module):
    """F of the exact denoiser of N(mean, SPREAD²) for any prediction type, from nothing but a network's arguments."""

    def __init__(self, settings: Preconditioning):
        super().__init__()
        self.settings = settings
        self.dtype_holder = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.calls = 0

    def sigma(self, timestep):
        if self.settings.prediction_type == "edm":
            return (4 * timestep).exp()
        knots, left = self.settings.log_sigmas.double(), timestep.floor().long().clamp(max=998)
        return (knots[left] + (timestep - left) * (knots[left + 1] - knots[left])).exp()

    def forward(self, model_input, timestep, mean):
        self.calls += 1
        kind, sigma_data = self.settings.prediction_type, self.settings.sigma_data
        sigma = self.sigma(timestep)
        z = model_input / per_sample(preconditioning.c_in(sigma, kind, sigma_data), model_input)
        variance = per_sample(sigma, z) ** 2
        denoised = (SPREAD**2 * z + variance * mean) / (SPREAD**2 + variance)
        skip = per_sample(preconditioning.c_skip(sigma, kind, sigma_data), z)
        return SimpleNamespace(
            sample=(denoised - skip * z) / per_sample(preconditioning.c_out(sigma, kind, sigma_data), z)
        )


@pytest.fixture(params=["edm", "epsilon", "v_prediction", "sample"])
def teacher(request):
    kind = request.param
    settings = Preconditioning(kind, 0.5, None if kind == "edm" else preconditioning.vp_log_sigmas())
    network = GaussianNetwork(settings)
    mean = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    both = {"mean": torch.cat([mean, torch.zeros_like(mean)])}
    # The denoiser is linear in the mean, so guidance away from mean 0 moves it to ω·mean.
    return TeacherDenoiser(network, settings, both, omega), per_sample(omega, mean).double() * mean, network


def exact(mean, start, sigma, target_sigma):
    ratio = ((SPREAD**2 + target_sigma**2) / (SPREAD**2 + sigma**2)).sqrt()
    return mean + per_sample(ratio, start) * (start - mean)


def test_second_order(teacher):
    denoise, mean, network = teacher
    start = mean + 50 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = []
    for steps in (32, 64):
        sigmas = karras_sigmas(steps, 0.05, 50.0).double()[:, None].expand(-1, 3)
        solved = heun_solve(denoise, start, sigmas)
        errors.append((solved - exact(mean, start, sigmas[0], sigmas[-1])).abs().max().item())
    assert errors[1] < 0.02
    assert 3.3 < errors[0] / errors[1] < 4.7
    # Two calls a step; the guidance halves share each.
    assert network.calls == 2 * (32 + 64)


def test_levels_of_their_own(teacher):
    denoise, mean, _ = teacher
    table = karras_sigmas(60, 0.05, 50.0).double()
    first = torch.tensor([0, 10, 30])
    sigmas = torch.stack([table[first + k] for k in range(31)])
    start = mean + sigmas[0][:, None, None] * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    solved = heun_solve(denoise, start.double(), sigmas)
    torch.testing.assert_close(solved, exact(mean, start, sigmas[0], sigmas[-1]), atol=0.03, rtol=0.01)


def test_sample_teacher_reaches_the_data(teacher):
    denoise, mean, _ = teacher
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sample = sample_teacher(denoise, noise, 40, sigma_min=0.05, sigma_max=80.0)
    edge = torch.full((3,), 80.0, dtype=torch.float64), torch.full((3,), 0.05, dtype=torch.float64)
    torch.testing.assert_close(sample, exact(mean, 80 * noise, *edge), atol=0.03, rtol=0.01)
