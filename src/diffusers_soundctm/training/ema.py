"""The EMA of a network's weights, which is the model that training gives."""

import copy

import torch


def ema_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A frozen copy of `model` in evaluation mode, for `ema_update`."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def ema_update(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Update the EMA in place: average ← decay·average + (1 − decay)·model, for all parameters."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def warmed_up_decay(decay: float, step: int) -> float:
    """`decay`, limited to (1 + step)/(10 + step), so that the EMA forgets the initial weights."""
    return min(decay, (1 + step) / (10 + step))
