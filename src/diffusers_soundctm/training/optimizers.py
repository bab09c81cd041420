"""Optimizers by name, and a step that is skipped if the gradient is not finite."""

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
    """Make an optimizer.

    Args:
        parameters: What it trains.
        name: "radam", the paper's, or "adamw".
        learning_rate: Learning rate.
        betas: Decays of the first and second moment.
        weight_decay: Weight decay.
        epsilon: Added to the denominator.
        use_8bit: Whether AdamW keeps its moments in 8 bits; needs bitsandbytes.

    Raises:
        ValueError: The optimizer is unknown or unavailable.
    """
    check_optimizer(name, use_8bit)
    settings = {"lr": learning_rate, "betas": betas, "weight_decay": weight_decay, "eps": epsilon}
    if use_8bit:
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **settings)
    return {"radam": torch.optim.RAdam, "adamw": torch.optim.AdamW}[name](parameters, **settings)


def check_optimizer(name: str, use_8bit: bool) -> None:
    """Raise `ValueError` if an optimizer is unknown or unavailable."""
    if name not in OPTIMIZERS:
        raise ValueError(f"`optimizer` is {name!r}; choose one of {', '.join(OPTIMIZERS)}.")
    if use_8bit and name != "adamw":
        raise ValueError(f"`use_8bit_adam` does not support --optimizer {name}; pass --optimizer adamw.")
    if use_8bit and find_spec("bitsandbytes") is None:
        raise ValueError("`use_8bit_adam` needs bitsandbytes and a GPU: pip install bitsandbytes, or leave it out.")


def step_if_finite(
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[torch.nn.Parameter],
    max_grad_norm: float = math.inf,
) -> bool:
    """Clip the gradient of `parameters` and take an optimizer step, unless the gradient is not finite.

    A step is skipped on all processes if the gradient is not finite on one of them.

    Args:
        accelerator: The processes of the run.
        optimizer: Optimizer of `parameters`.
        parameters: What is trained.
        max_grad_norm: Norm to which a larger gradient is scaled.

    Returns:
        Whether the gradient was finite.
    """
    finite = bool(accelerator.clip_grad_norm_(parameters, max_grad_norm).isfinite())
    if finite or accelerator.scaler is not None:  # a scaler has to see overflows, and skips the step itself
        optimizer.step()
    return finite


def scaler_state(accelerator: Accelerator) -> dict[str, torch.amp.GradScaler]:
    """The loss scaler of fp16 training as an entry of a checkpoint's state; empty for other precisions."""
    return {} if accelerator.scaler is None else {"scaler": accelerator.scaler}
