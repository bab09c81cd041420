"""Which noise levels a training step works at: every distribution of section "Distillation", on one generator.

All draws of a step are for the whole batch of all processes and come from one CPU generator that the seed and the step
determine. So a run continues exactly where it stopped, and any number of processes draws the same batch.
"""

import torch


def step_generator(seed: int, step: int) -> torch.Generator:
    """CPU generator of all draws of `step`."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def clip_indices(num_clips: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """Clips of `step`, (batch_size,): an endless stream of shuffled epochs, cut into batches."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_clips
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        shuffled = torch.randperm(num_clips, generator=step_generator(seed + 1, epoch))
        indices[epochs == epoch] = shuffled[positions[epochs == epoch] % num_clips]
    return indices


def lognormal_sigmas(
    batch_size: int, generator: torch.Generator, p_mean: float = -1.2, p_std: float = 1.2
) -> torch.Tensor:
    """σ = exp(N(p_mean, p_std²)), (B,): EDM's, one from each of B equally likely strata."""
    strata = torch.randperm(batch_size, generator=generator)
    quantiles = (strata + torch.rand(batch_size, generator=generator, dtype=torch.float64)) / batch_size
    return (p_mean + p_std * torch.special.ndtri(quantiles.clamp(1e-6, 1 - 1e-6))).exp().float()
