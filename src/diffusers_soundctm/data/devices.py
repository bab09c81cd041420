"""Lend a device to frozen models for as long as they are needed."""

import contextlib
from collections.abc import Iterator, Sequence

import torch


@contextlib.contextmanager
def moved(models: Sequence[torch.nn.Module], device: torch.device | str) -> Iterator[None]:
    """Move models to a device while the block runs, then back, and release the memory that torch keeps on a GPU.

    So a run that finds everything in its cache, such as a resumed one, needs as much memory as one that does not.

    Args:
        models: Models with parameters.
        device: Where they are needed.
    """
    homes = [next(model.parameters()).device for model in models]
    for model in models:
        model.to(device)
    try:
        yield
    finally:
        for model, home in zip(models, homes, strict=True):
            model.to(home)
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
