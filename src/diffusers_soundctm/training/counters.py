"""What a run counts on its way, and its checkpoints hold: skipped steps, mean losses, and a stream's skipped clips."""

from collections.abc import Mapping
from typing import Any

from accelerate.utils import gather_object

from ..data.streams import WaveformData, merged


class SkippedSteps:
    """Counts the steps that were skipped because their gradient was not finite.

    Args:
        limit: Number of consecutive skipped steps that ends the run.

    Attributes:
        total: Skipped steps of the run, also across stops.
        in_a_row: Consecutive skipped steps up to now.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.total = 0
        self.in_a_row = 0

    def record(self, skipped: bool) -> None:
        """Count one step.

        Raises:
            FloatingPointError: The limit is reached.
        """
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.total += skipped
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f"{self.limit} steps in a row had a loss or gradient that is not finite, so training does not recover. "
                "Resume from the last checkpoint with a smaller --learning_rate, --max_grad_norm 1, or "
                "--mixed_precision no (or bf16 instead of fp16)."
            )

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total = state["total"]


class RunningLosses(dict):
    """Name to the exponential mean of a loss."""

    def record(self, losses: Mapping[str, float], weight: float) -> None:
        """Move the means toward these losses by `weight`."""
        for name, loss in losses.items():
            self[name] = (1 - weight) * self.get(name, loss) + weight * loss

    state_dict = dict.copy
    load_state_dict = dict.update


class StreamCounts:
    """The counts of a stream's skipped clips, of all processes together, as an entry of a checkpoint."""

    def __init__(self, data: WaveformData):
        self.data = data

    def state_dict(self) -> dict[str, Any]:
        """All processes call this together."""
        return merged(gather_object([self.data.state_dict()]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.data.load_state_dict(state)
