"""Target curves over time: drawn, computed or measured on a recording."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..audio import to_tensor
from .sound import Recording, Reference, Sound, is_waveform_with_rate

Curve = (
    Callable[[torch.Tensor], torch.Tensor]
    | Mapping[float, float]
    | Sequence[tuple[float, float]]
    | torch.Tensor
    | np.ndarray
    | Reference
)


class TargetCurve:
    """A curve over time in one of its forms.

    Attributes:
        recording: The recording whose own curve is the target, or None.
        values: The values of an array, (n,) or (N, n), or None.

    Args:
        curve: One of

            - points (seconds to value), as a mapping or a list of pairs. Straight lines connect them, and the curve is
              constant before the first and after the last.
            - a function of a tensor of seconds (frames,) that returns as many values.
            - an array of two or more values, (n,), or one row per waveform, (N, n), spread evenly over the duration.
            - a recording, as a file or as (waveform, sampling_rate).
        check: Raises `ValueError` for a tensor of values that are not finite or out of range.

    Raises:
        TypeError: `curve` has none of these forms.
        ValueError: Its points, values or samples cannot be used.
    """

    def __init__(self, curve: Curve, check: Callable[[torch.Tensor], None]):
        self._check = check
        self._points = self._function = self.values = self.recording = None
        if isinstance(curve, (str, os.PathLike)) or is_waveform_with_rate(curve):
            self.recording = Recording(curve, "curve")
        elif callable(curve) and not isinstance(curve, torch.Tensor):
            self._function = curve
        elif isinstance(curve, Mapping) or _is_pairs(curve):
            # Sorted by time alone: two points at the same time are a step, in the given order.
            pairs: Any = curve.items() if isinstance(curve, Mapping) else curve
            points = sorted(pairs, key=lambda point: point[0])
            self._points = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
            times = self._points[:, 0]
            if len(points) == 0 or not times.isfinite().all() or times.min() < 0:
                raise ValueError("`curve` needs points (seconds, value) at finite times of 0 or more.")
            check(self._points[:, 1])
        else:
            try:
                values = to_tensor(curve, "curve")
            except TypeError as error:
                raise TypeError(
                    f"`curve` is a {type(curve).__name__}; pass points, a function, an array or a recording."
                ) from error
            if values.is_complex():
                raise TypeError("`curve` holds complex numbers; pass real ones.")
            self.values = values.float()
            if self.values.ndim not in (1, 2) or self.values.shape[-1] < 2:
                raise ValueError(f"`curve` has shape {tuple(self.values.shape)}; pass (n,) or (N, n) with n ≥ 2.")
            check(self.values)

    def at_frames(self, sound: Sound) -> torch.Tensor:
        """Return the values at the mel frames of `sound`, (N, frames). Not for recordings.

        Raises:
            ValueError: Points lie beyond the end of the sound, or the function returns another shape.
        """
        frames = sound.num_frames
        duration = frames / sound.frames_per_second
        seconds = torch.arange(frames) / sound.frames_per_second
        if self._points is not None:
            if self._points[-1, 0] > duration + 1e-3:
                raise ValueError(
                    f"`curve` has a point at {self._points[-1, 0]:g} s, but the sound lasts {duration:g} s; give "
                    "times in seconds within the sound."
                )
            return torch.from_numpy(np.interp(seconds, *self._points.T.numpy())).float()[None]
        if self._function is not None:
            values = to_tensor(self._function(seconds), "curve").float()
            if values.shape != seconds.shape:
                name = getattr(self._function, "__name__", type(self._function).__name__)
                raise ValueError(
                    f"`curve` {name} returned shape {tuple(values.shape)} for {frames} times; return one value per "
                    "time."
                )
            self._check(values)
            return values[None]
        rows = self.values.reshape(-1, 1, self.values.shape[-1])
        return torch.nn.functional.interpolate(rows, frames, mode="linear", align_corners=True)[:, 0]


def smooth(curve: torch.Tensor, width: float) -> torch.Tensor:
    """Average a curve (B, frames) under a Hann window of `width` frames. The ends are extended by their values."""
    half = min(round(width / 2), curve.shape[1] - 1)
    if half < 1:
        return curve
    kernel = torch.hann_window(2 * half + 3, periodic=False, device=curve.device)[1:-1]
    padded = torch.nn.functional.pad(curve[:, None], (half, half), mode="replicate")
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def _is_pairs(curve: Any) -> bool:
    return isinstance(curve, (list, tuple)) and all(
        isinstance(point, (list, tuple)) and len(point) == 2 for point in curve
    )
