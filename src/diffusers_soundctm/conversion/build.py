"""Build a model from tensors, whose names and shapes must all match."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedConfig


def build(
    model_class: type, config: Mapping[str, Any] | PreTrainedConfig, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """Build a model that uses `tensors` without copying them, in eval mode.

    Args:
        model_class: class of diffusers or transformers.
        config: its configuration.
        tensors: name → tensor, exactly those of the model.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    with init_empty_weights():
        of_transformers = isinstance(config, PreTrainedConfig)
        model = model_class(config) if of_transformers else model_class.from_config(dict(config))
    fill(model, tensors)
    return model.eval()


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Assign `tensors` to a model on the meta device; raise `ValueError` as `build` does."""
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if problems:
        raise ValueError(
            f"The checkpoint does not match its configuration as a {type(model).__name__}; take both from the same "
            "release.\n  " + "\n  ".join(problems)
        )
    model.load_state_dict(tensors, assign=True)


def needed(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Return the tensor `name`, from whose shape the configuration follows; raise `ValueError` if there is none."""
    if name not in tensors:
        raise ValueError(f"The checkpoint is missing {name}; pass a complete checkpoint of the expected model.")
    return tensors[name]


def count_layers(names: Iterable[str], layers: str) -> int:
    """Count the different numbers that follow `layers` in `names`, as in `layers.0.weight`."""
    return len({match.group(1) for name in names if (match := re.match(rf"{re.escape(layers)}\.(\d+)\.", name))})
