"""Training on several processes. Each computes its rows of a batch, with whole networks (DDP) or sharded ones (FSDP2).

Checkpoints hold whole tensors in both cases, so that any number of processes of either kind can resume them.
"""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model

from .ema import ema_copy


def process_rows(train_batch_size: int, accelerator: Accelerator) -> slice:
    """The rows of a batch that this process computes.

    Args:
        train_batch_size: Rows of all processes together.
        accelerator: The processes of the run.

    Raises:
        ValueError: The batch is not divisible by the number of processes.
    """
    processes = accelerator.num_processes
    if train_batch_size % processes:
        raise ValueError(
            f"--train_batch_size {train_batch_size} counts the clips of all processes; give a multiple of {processes}."
        )
    share = train_batch_size // processes
    return slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)


class Networks:
    """The student, its EMA and the optimizer, distributed over processes as the launch configuration says.

    Args:
        accelerator: The processes of the run.
        student: The network to train.
        optimizer: Optimizer of its parameters.

    Attributes:
        model: The student to call.
        average: Its EMA, distributed in the same way.
        optimizer: The prepared optimizer.
    """

    def __init__(self, accelerator: Accelerator, student: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.sharded = accelerator.is_fsdp2
        self.average = ema_copy(student)
        self._whole = ema_copy(student) if self.sharded and accelerator.is_main_process else None
        if self.sharded:
            # FSDP2's own mixed precision would round the network's inputs, noise levels among them; autocast does not.
            accelerator.state.fsdp_plugin.mixed_precision_policy = None
        self.model, self.optimizer = accelerator.prepare(student, optimizer)
        if self.sharded:
            self.average = fsdp2_prepare_model(accelerator, self.average)
            # Otherwise only a backward pass, which the EMA never has, would shard its weights again.
            self.average.set_reshard_after_forward(True)
        else:
            self.average.to(accelerator.device)

    def state(self, student: torch.nn.Module) -> dict[str, Any]:
        """Their entries in a checkpoint. All processes call the `state_dict`s together."""
        parts = {"unet": student, "ema": self.average, "optimizer": self.optimizer}
        return {name: Sharded(part) for name, part in parts.items()} if self.sharded else parts

    def whole_average(self) -> torch.nn.Module | None:
        """The EMA in one piece, or None on processes that only help to gather it. All processes call this together."""
        if not self.sharded:
            return self.average
        weights = whole(self.average.state_dict())
        if self._whole is not None:
            self._whole.load_state_dict(weights)
        return self._whole


class Sharded:
    """Gives a module or optimizer of sharded parameters the `state_dict` of a whole one."""

    def __init__(self, part: torch.nn.Module | torch.optim.Optimizer):
        self.part = part

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors on the main process, None instead of tensors on the others."""
        return whole(self.part.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a whole state, of which each process takes its shards."""
        if isinstance(self.part, torch.nn.Module):
            own = self.part.state_dict()
            self.part.load_state_dict({name: _share(value, own.get(name)) for name, value in state.items()})
            return
        parameters = [parameter for group in self.part.param_groups for parameter in group["params"]]
        moments = {index: _share(value, parameters[index]) for index, value in state["state"].items()}
        self.part.load_state_dict({**state, "state": moments})


def whole(value: Any) -> Any:
    """`value` with its sharded tensors gathered on the CPU of the main process."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if not hasattr(value, "full_tensor"):
        return value
    full = value.full_tensor()
    return full.cpu() if torch.distributed.get_rank() == 0 else None


def _share(value: Any, like: torch.Tensor) -> Any:
    """`value` with those of its tensors that have the shape of `like` sharded in the same way."""
    from torch.distributed.tensor import distribute_tensor

    if isinstance(value, dict):
        return {key: _share(item, like) for key, item in value.items()}
    if not hasattr(like, "full_tensor") or not hasattr(value, "shape") or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
