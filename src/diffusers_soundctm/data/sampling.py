"""Draws that depend on the seed and the step alone, so that a resumed run and any number of processes repeat them."""

import torch


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """CPU generator of the draws of `step`; `stream` tells different kinds of draws apart."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 8 + stream) % 2**63)


def clip_indices(num_clips: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """Clips of `step`, (batch_size,): an endless stream of shuffled epochs, cut into batches."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_clips
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        shuffled = torch.randperm(num_clips, generator=step_generator(seed, epoch, stream=7))
        indices[epochs == epoch] = shuffled[positions[epochs == epoch] % num_clips]
    return indices
