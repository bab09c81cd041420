"""Count the clips that cannot be used, and refuse a data set with too many of them."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

logger = logging.getLogger(__name__)

MAX_SKIPPED_FRACTION = 0.01


@dataclass
class SkippedClips:
    """The clips of a data set that were read so far, and those among them that were skipped.

    Attributes:
        seen: Number of clips that were read, skipped ones included.
        reasons: For each skipped clip, its name and why it cannot be used: "clips-3.tar/000017.flac is silent".
    """

    seen: int = 0
    reasons: list[str] = field(default_factory=list)

    def __add__(self, other: "SkippedClips") -> "SkippedClips":
        return SkippedClips(self.seen + other.seen, self.reasons + other.reasons)

    def record(self, clip: str, problem: Exception | None = None) -> None:
        """Count a clip, as skipped if there is a `problem` with it."""
        self.seen += 1
        if problem is not None:
            self.reasons.append(f"{clip} {problem}")
            logger.warning("Skipped %s.", self.reasons[-1])

    def check(self, dataset: str, *, tolerated: int = 0, complete: bool = True) -> None:
        """Refuse a data set of which more than 1 % cannot be used.

        Args:
            dataset: Name of the data set, for the message.
            tolerated: So many clips may always be skipped.
            complete: Whether all clips were read. If not, the skipped fraction may exceed 1 % by three standard
                deviations of what is expected at 1 %, because the first clips may be worse than the rest.

        Raises:
            ValueError: Too many clips were skipped. The message names 20 of them.
        """
        most = MAX_SKIPPED_FRACTION * self.seen
        if not complete:
            most += 3 * math.sqrt(most)
        if complete and self.reasons:
            logger.warning("Skipped %d of %d clips of data set %s.", len(self.reasons), self.seen, dataset)
        if len(self.reasons) > max(most, tolerated):
            more = " …" if len(self.reasons) > 20 else ""
            raise ValueError(
                f"{len(self.reasons)} of {self.seen} clips of data set {dataset!r} cannot be used, more than "
                f"{MAX_SKIPPED_FRACTION:.0%}: {'; '.join(self.reasons[:20])}{more}. Repair or remove these clips."
            )

    def metadata(self) -> dict[str, str]:
        """The counts as metadata of a safetensors file."""
        return {"seen": str(self.seen), "skipped": json.dumps(self.reasons)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None) -> "SkippedClips":
        """The counts that `metadata` gave; zero for a file without them."""
        return cls(int((metadata or {}).get("seen", 0)), json.loads((metadata or {}).get("skipped", "[]")))

    def state_dict(self) -> dict[str, Any]:
        """The counts, for a checkpoint."""
        return {"seen": self.seen, "reasons": list(self.reasons)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from `state_dict()`."""
        self.seen, self.reasons = state["seen"], list(state["reasons"])
