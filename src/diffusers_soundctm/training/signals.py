"""What ends a training run early, without loss: a signal of the cluster, or steps whose gradient is not finite.

Also what a run counts on the way, which checkpoints hold.
"""

import signal
from argparse import Namespace
from collections.abc import Callable, Mapping
from types import FrameType

import torch
from accelerate import Accelerator
from tqdm import tqdm

# Said after a checkpoint that a signal asked for, with the number of steps.
STOPPED = "Stopped by a signal after {0} steps; checkpoint-{0} goes on from here."


class StopSignal:
    """Within this context SIGTERM and SIGUSR1 do not end the process but set `requested`."""

    def __init__(self):
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def checkpoint(self, accelerator: Accelerator, done: int, args: Namespace, save: Callable[[int], object]) -> bool:
        """After step `done`, `save(done)` on the main process if `args.checkpointing_steps` or a signal asks for it.

        All processes of the run call this after the same step.

        Returns:
            Whether the run ends here, before `args.max_train_steps`, because one of its processes was told to stop.
        """
        requested = torch.tensor(float(self.requested), device=accelerator.device)
        told = accelerator.reduce(requested, "sum").item() > 0
        ends = told and done < args.max_train_steps
        if accelerator.is_main_process and (ends or done % args.checkpointing_steps == 0):
            save(done)
            if ends:
                tqdm.write(STOPPED.format(done))
        return ends

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class SkippedSteps:
    """Counts steps that were skipped because their gradient was not finite.

    Args:
        limit: so many in a row end the run.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.total = 0
        self.in_a_row = 0

    def record(self, skipped: bool) -> None:
        """Take note of a step.

        Raises:
            FloatingPointError: the limit is reached; the message says what to do.
        """
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.total += skipped
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f"{self.limit} steps in a row had a loss or gradient that is not finite, so training does not recover. "
                "Resume from the last checkpoint with a smaller --learning_rate, --max_grad_norm 1, or "
                "--mixed_precision no (or bf16 in place of fp16)."
            )

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total = state["total"]


class RunningLosses(dict):
    """name → exponential mean of a loss."""

    def record(self, losses: Mapping[str, float], weight: float) -> None:
        """Move the means towards these losses by `weight`."""
        for name, loss in losses.items():
            self[name] = (1 - weight) * self.get(name, loss) + weight * loss

    state_dict = dict.copy
    load_state_dict = dict.update
