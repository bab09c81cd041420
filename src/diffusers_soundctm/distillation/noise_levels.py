"""Distributions of the noise levels of a training step.

Every draw is for the batch of all processes, from one CPU generator that depends on the seed and the step alone. A
resumed run and any number of processes therefore draw the same batches.
"""

import torch

from ..preconditioning import karras_sigma

SAMPLER_STEPS = (1, 2, 4, 8, 16)


def lognormal_sigmas(
    batch_size: int, generator: torch.Generator, p_mean: float = -1.2, p_std: float = 1.2
) -> torch.Tensor:
    """Draw σ = exp(N(p_mean, p_std²)), (B,), as EDM does, one from each of B equally likely strata."""
    strata = torch.randperm(batch_size, generator=generator)
    quantiles = (strata + torch.rand(batch_size, generator=generator, dtype=torch.float64)) / batch_size
    return (p_mean + p_std * torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6))).exp().float()


def heun_step_counts(num_draws: int, num_scales: int, generator: torch.Generator, power: float = 1.0) -> torch.Tensor:
    """Draw the number k of Heun steps from t to u, P(k) ∝ k^power for k = 1 … N−1; (num_draws,)."""
    weights = torch.arange(1.0, num_scales) ** power
    return torch.multinomial(weights, num_draws, replacement=True, generator=generator) + 1


def start_indices(num_steps: torch.Tensor, num_scales: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the grid index i of t, one per sample, i ~ U{0 … N−1−k}, given k (B,)."""
    return (torch.rand(len(num_steps), generator=generator) * (num_scales - num_steps)).long()


def target_indices(
    solved: torch.Tensor, num_scales: int, generator: torch.Generator, sigma_min_rate: float = 0.0
) -> torch.Tensor:
    """Draw the grid index j of s, one per sample, j ~ U{i+k … N−1}, given i + k (B,).

    With probability `sigma_min_rate`, j is N−1, the level σ_min.
    """
    position, at_end = torch.rand(2, len(solved), generator=generator)
    uniform = solved + (position * (num_scales - solved)).long()
    return torch.where(at_end < sigma_min_rate, num_scales - 1, uniform)


def denoising_sigmas(
    batch_size: int,
    generator: torch.Generator,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    p_mean: float = -1.2,
    p_std: float = 1.2,
) -> torch.Tensor:
    """Draw σ' of denoising score matching, (B,).

    ⌊B/2⌋ of them are exp(N(p_mean, p_std²)). The others lie on the Karras curve, at positions uniform in [0, 0.7].
    """
    normal = torch.randn(batch_size // 2, generator=generator)
    position = 0.7 * torch.rand(batch_size - batch_size // 2, generator=generator)
    return torch.cat([(p_mean + p_std * normal).exp(), karras_sigma(position, sigma_min, sigma_max, rho)])


def teacher_level_rows(sigmas: torch.Tensor, generator: torch.Generator, levels: str = "mixed") -> torch.Tensor:
    """Draw the levels at which g is trained against the teacher.

    Noise levels of about 1 to 5 decide the error of many steps, so "mixed" draws more of them.

    Args:
        sigmas: The levels of each sample's trajectory, (P, B).
        generator: Source of the draws.
        levels: "uniform": all P levels are equally likely. "mixed": ⌊B/2⌋ samples take the level nearest to
            exp(N(0, 1)), the others a uniform one.

    Returns:
        Rows of `sigmas`, (B,).
    """
    num_levels, batch_size = sigmas.shape
    uniform = (torch.rand(batch_size, generator=generator) * num_levels).long()
    if levels == "uniform":
        return uniform
    log_sigma = torch.randn(batch_size, generator=generator)
    nearest = (sigmas.log() - log_sigma).abs().argmin(dim=0)
    return torch.where(torch.arange(batch_size) < batch_size // 2, nearest, uniform)


def sampler_step(batch_size: int, num_scales: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a random step of an n-step sampler, n one of 1, 2, 4, 8, 16.

    The sampler's levels are rounded to the grid of N levels. They lie on it if n divides N − 1.

    Returns:
        Grid indices of t and of s, each (B,).
    """
    counts = torch.tensor([count for count in SAMPLER_STEPS if count < num_scales])
    which, position = torch.rand(2, batch_size, generator=generator)
    count = counts[(which * len(counts)).long()]
    step = (position * count).long()
    intervals = num_scales - 1
    return (step * intervals / count).round().long(), ((step + 1) * intervals / count).round().long()
