"""Optimizers of training, by name, and the step they take."""

import math
from collections.abc import Iterable
from importlib.util import find_spec

import torch
from accelerate import Accelerator

OPTIMIZERS = ("radam", "adamw")


def make_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    name: str = "radam",
    learning_rate: float = 8e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    epsilon: float = 1e-8,
    use_8bit: bool = False,
) -> torch.optim.Optimizer:
    """RAdam (the paper's) or AdamW; `use_8bit` keeps AdamW's moments in 8 bits, with bitsandbytes."""
    check_optimizer(name, use_8bit)
    settings = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay, "eps": epsilon}
    if use_8bit:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **settings)
    return {"radam": torch.optim.RAdam, "adamw": torch.optim.AdamW}[name](parameters, **settings)


def check_optimizer(name: str, use_8bit: bool) -> None:
    """Raise `ValueError` for an unknown or unavailable optimizer."""
    if name not in OPTIMIZERS:
        raise ValueError(f"`optimizer` is {name!r}; choose one of {', '.join(OPTIMIZERS)}.")
    if use_8bit and name != "adamw":
        raise ValueError(f"`use_8bit_adam` goes with --optimizer adamw, not {name}.")
    if use_8bit and find_spec("bitsandbytes") is None:
        raise ValueError("`use_8bit_adam` needs bitsandbytes and a GPU: pip install bitsandbytes, or leave it out.")


def step_if_finite(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    max_grad_norm: float = math.inf,
) -> bool:
    """Clip the gradient of `parameters` to `max_grad_norm` and take the step; returns False where it was skipped.

    A step is skipped on all processes if the gradient is not finite on one.
    """
    finite = bool(accelerator.clip_grad_norm_(parameters, max_grad_norm).isfinite())
    if finite or accelerator.scaler is not None:  # a scaler has to see overflows, and skips the step itself
        optimizer.step()
    return finite


def scaler_state(accelerator: Accelerator) -> dict[str, torch.amp.GradScaler]:
    """What fp16 training has to find again when it resumes, as an entry of the checkpoint's state."""
    return {} if accelerator.scaler is None else {"scaler": accelerator.scaler}
