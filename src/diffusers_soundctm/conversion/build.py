"""Give a model its tensors only if every name and shape fits."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedConfig


def build(
    model_class: type, config: Mapping[str, Any] | PreTrainedConfig, tensors: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    """`model_class` of `config` with exactly `tensors`, which it takes over without copying them, in eval mode.

    Raises:
        ValueError: lists every missing, unexpected and mis-shaped tensor.
    """
    with init_empty_weights():
        of_transformers = isinstance(config, PreTrainedConfig)
        model = model_class(config) if of_transformers else model_class.from_config(dict(config))
    fill(model, tensors)
    return model.eval()


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Assign `tensors` to `model`, made on the meta device; `ValueError` as `build`."""
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
            f"The checkpoint does not fit its configuration as a {type(model).__name__}; take both from the same "
            "release.\n  " + "\n  ".join(problems)
        )
    model.load_state_dict(tensors, assign=True)


def needed(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """The tensor `name`, whose shape the configuration follows from; `ValueError` if there is none."""
    if name not in tensors:
        raise ValueError(f"The checkpoint does not fit: missing {name}. It is of another model, or not whole.")
    return tensors[name]


def count_layers(names: Iterable[str], layers: str) -> int:
    """How many numbers follow `layers` in `names`, as in `layers.0.weight`."""
    return len({match.group(1) for name in names if (match := re.match(rf"{re.escape(layers)}\.(\d+)\.", name))})
