"""Heun's method for the teacher's probability-flow ODE, dz/dt = (z − D(z; t))/t."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch

from ..preconditioning import karras_sigmas, per_sample


def heun_trajectory(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], sample: torch.Tensor, sigmas: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield the points of a trajectory at `sigmas`, each with its slope dz/dt.

    The first point is `sample`. The last one has no slope (None). Arguments as for `heun_solve`.
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
    """Integrate the ODE with K Heun steps, without gradients. Each is second-order and calls `denoise` twice.

    Args:
        denoise: The estimate D(z, σ) of z_0, from (B, ...) and (B,) to (B, ...).
        sample: z at sigmas[0], (B, ...), float32.
        sigmas: Noise levels per sample, (K + 1, B), positive and decreasing.

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
    """Generate latents with a teacher.

    Args:
        denoise: The teacher's D(z, σ), see `heun_solve`.
        noise: Standard normal noise, (B, ...).
        num_steps: Heun steps on the Karras curve.
        sigma_min: Noise level of the result.
        sigma_max: Noise level of the start.
        rho: Exponent of the Karras curve.

    Returns:
        Latents at σ_min, (B, ...).
    """
    sigmas = karras_sigmas(num_steps, sigma_min, sigma_max, rho).to(noise.device)
    return heun_solve(denoise, sigmas[0] * noise, sigmas[:, None].expand(-1, len(noise)))
