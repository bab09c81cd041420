"""A student that is the guided teacher has no error and the guidance asked for; others have what they were given."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.diagnostics import LEVELS, TrajectoryComparison, solve_teacher
from diffusers_soundctm.preconditioning import karras_sigmas

EDM = Preconditioning("edm", 0.5)
STD = 0.5


class Gaussian(torch.nn.Module):
    """The exact denoiser of N(mean, 0.5²) in EDM's output; guided by ω and with an error where it is a student."""

    def __init__(self, error: float = 0.0, strength: float = 1.0):
        super().__init__()
        self.holder = torch.nn.Parameter(torch.zeros(()))
        self.error, self.strength = error, strength

    def forward(self, sample, timestep, mean, timestep_cond=None):
        sigma = (4 * torch.as_tensor(timestep)).exp().reshape(-1, 1)
        z = sample * (sigma**2 + 0.25).sqrt()
        if timestep_cond is not None:
            mean = mean * timestep_cond[:, 1:] * self.strength
        denoised = (z * STD**2 + mean * sigma**2) / (STD**2 + sigma**2) + self.error
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        return SimpleNamespace(sample=(denoised - c_skip * z) / c_out)


def comparison(student: Gaussian) -> TrajectoryComparison:
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    mean = torch.full((4, 1), 0.3)
    compared = TrajectoryComparison()
    for half in (slice(0, 2), slice(2, 4)):
        some = {"mean": mean[half]}
        both = {"mean": torch.cat([mean[half], 0 * mean[half]])}
        compared.add(Denoiser(student, EDM), solve_teacher(Gaussian(), EDM, noise[half], some, both))
    return compared


def test_the_guided_teacher_itself_has_no_error():
    found = comparison(Gaussian())
    sigmas = karras_sigmas(40)[list(LEVELS)].tolist()
    assert list(found.estimate_error) == pytest.approx(sigmas)
    assert max(found.estimate_error.values()) < 1e-4
    assert all(value == pytest.approx(omega, rel=1e-3) for (omega, _), value in found.effective_guidance.items())
    # Euler steps of the exact denoiser: more of them are closer to the solution.
    errors = list(found.distance.values())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.3 * errors[0]


def test_lost_guidance_and_errors_are_measured():
    weak = comparison(Gaussian(strength=0.8)).effective_guidance
    assert all(value == pytest.approx(0.8 * omega, rel=1e-3) for (omega, _), value in weak.items())
    wrong = comparison(Gaussian(error=0.1))
    assert min(wrong.estimate_error.values()) > 0.05
    t, s = next(iter(wrong.jump_error))  # at high noise, where one jump of the exact denoiser is nearly exact
    assert wrong.jump_error[t, s] == pytest.approx(0.1 * (t**2 + 0.25) ** 0.5 / (0.5 * t), rel=0.02)
