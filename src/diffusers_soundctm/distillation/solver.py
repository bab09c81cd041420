"""Heun's method along the teacher's probability-flow ODE, dz/dt = (z − D(z; t))/t."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch

from ..preconditioning import karras_sigmas, per_sample


def heun_trajectory(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], sample: torch.Tensor, sigmas: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """The points of a trajectory at `sigmas` one by one, `sample` first, each with dz/dt there, which the last lacks.

    Arguments as `heun_solve`.
    """
    for t, u in pairwise(sigmas):
        step = per_sample(u - t, sample)
        slope = (sample - denoise(sample, t)) / per_sample(t, sample)
        yield sample, slope
        euler = sample + step * slope
        slope_at_u = (euler - denoise(euler, u)) / per_sample(u, sample)
        sample = sample + step * (slope + slope_at_u) / 2
    yield sample, None


@torch.no_grad()
def heun_solve(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], sample: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """Follow the ODE down K Heun steps: two calls of `denoise` each, second-order accurate, no gradient.

    Args:
        denoise: D(z, σ): (B, ...) and (B,) → (B, ...), the estimate of z_0.
        sample: z at sigmas[0], (B, ...), float32.
        sigmas: (K + 1, B), positive noise levels of every sample, decreasing.

    Returns:
        z at sigmas[-1], (B, ...).
    """
    for point, _ in heun_trajectory(denoise, sample, sigmas):
        sample = point
    return sample


def sample_teacher(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    noise: torch.Tensor,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> torch.Tensor:
    """Latents from a teacher: `num_steps` Heun steps from σ_max·`noise`, unit Gaussian (B, ...), to σ_min."""
    sigmas = karras_sigmas(num_steps, sigma_min, sigma_max, rho).to(noise.device)
    return heun_solve(denoise, sigmas[0] * noise, sigmas[:, None].expand(-1, len(noise)))
