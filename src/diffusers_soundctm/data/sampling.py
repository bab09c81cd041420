"""Random draws that depend on the seed and the step alone.

A resumed run and any number of processes therefore repeat the same draws.
"""

import torch


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """Return the generator of a step's random draws.

    Args:
        seed: Of the run.
        step: Optimization step, or another number that is counted up.
        stream: 0 to 7, one per independent kind of draw.

    Returns:
        A generator on the CPU.
    """
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 8 + stream) % 2**63)


def clip_indices(num_clips: int, batch_size: int, step: int, seed: int) -> torch.Tensor:
    """Return the clips of a step's batch, from an endless sequence of shuffled epochs.

    Args:
        num_clips: Size of the data set.
        batch_size: Of all processes together.
        step: Number of the batch.
        seed: Of the run.

    Returns:
        Indices of clips, (batch_size,), int64.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // num_clips
    indices = torch.empty_like(positions)
    for epoch in epochs.unique().tolist():
        shuffled = torch.randperm(num_clips, generator=step_generator(seed, epoch, stream=7))
        indices[epochs == epoch] = shuffled[positions[epochs == epoch] % num_clips]
    return indices
