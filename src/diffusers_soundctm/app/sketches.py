"""The sketch of a sound as plain values: curves taken from a voice, which a recipe keeps and browsers may edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..control import SketchObjective, Sound, sketch_curves
from ..control.pitch import PITCH_RANGE, VOICED
from .validators import is_list, number

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

CURVES = ("loudness", "brightness", "pitch")
POINTS = (2, 128)
RANGES = {
    "loudness": ("dB", -100.0, 0.0, 1),
    "brightness": ("Hz", 20.0, 24000.0, 0),
    "pitch": ("Hz", 0.0, PITCH_RANGE[1], 0),
}  # unit, smallest and largest value, decimals that are kept


@dataclass(frozen=True)
class Sketch:
    """Curves that a sound follows, each evenly spaced over it. An empty one is not followed.

    Args:
        loudness: In dB, −100 to 0.
        brightness: In Hz, 20 to 24000.
        pitch: In Hz, 65 to 1560, and 0 where there is none.

    Raises:
        ValueError: There is no curve, or one has the wrong length or a value out of range.
    """

    loudness: tuple[float, ...] = ()
    brightness: tuple[float, ...] = ()
    pitch: tuple[float, ...] = ()

    def __post_init__(self):
        for name, (unit, low, high, decimals) in RANGES.items():
            curve = getattr(self, name)
            if not curve:
                object.__setattr__(self, name, ())
                continue
            if not is_list(curve) or not POINTS[0] <= len(curve) <= POINTS[1]:
                raise ValueError(f"The {name} of the sketch needs {POINTS[0]} to {POINTS[1]} values; record it again.")
            values = (number(f"A value of the {name} ({unit})", value, low, high) for value in curve)
            object.__setattr__(self, name, tuple(round(value, decimals) for value in values))
        if any(0 < value < PITCH_RANGE[0] for value in self.pitch):
            raise ValueError(f"The pitch of the sketch goes below {PITCH_RANGE[0]:g} Hz; sing or draw it higher.")
        if not self.followed:
            raise ValueError("Nothing of the sketch is followed; switch on its loudness, brightness or pitch.")

    @classmethod
    def taken(cls, waveform: torch.Tensor, sampling_rate: int, wanted: Sequence[str] = CURVES) -> "Sketch":
        """Return the `wanted` curves of a recording (channels, samples).

        Raises:
            ValueError: The recording is silent, or nothing is wanted.
        """
        return cls.of_curves(sketch_curves(waveform, sampling_rate, "pitch" in wanted), wanted)

    @classmethod
    def of_curves(cls, curves: Mapping[str, Sequence[float]], wanted: Sequence[str]) -> "Sketch":
        """Return the `wanted` ones of the curves of `control.sketch_curves`."""
        kept = {name: curves[name] for name in CURVES if name in wanted and name in curves}
        if "pitch" in kept:
            kept["pitch"] = np.where(np.asarray(curves["confidence"]) < VOICED, 0, kept["pitch"])
        return cls(**{name: tuple(float(value) for value in curve) for name, curve in kept.items()})

    @property
    def followed(self) -> list[str]:
        """Names of the curves that are followed."""
        return [name for name in CURVES if getattr(self, name)]

    def objective(self, domain: str = "mel") -> SketchObjective:
        """Return the objective of the curves."""
        return SketchObjective(**self.arguments(), domain=domain)

    def arguments(self) -> dict[str, list[float]]:
        """Return the arguments of `SketchObjective`. Where there is no pitch, it is interpolated without confidence."""
        curves = {name: list(getattr(self, name)) for name in self.followed}
        if "pitch" in curves:
            pitch = np.asarray(curves["pitch"])
            voiced = np.flatnonzero(pitch) if pitch.any() else np.arange(len(pitch))
            filled = np.interp(np.arange(len(pitch)), voiced, pitch[voiced].clip(PITCH_RANGE[0]))
            curves["pitch"], curves["confidence"] = filled.round(1).tolist(), np.sign(pitch).tolist()
        return curves

    def report(self, pipe: "SoundCTMPipeline", waveform: torch.Tensor) -> str:
        """Return in a few words how well a waveform (channels, samples) follows the curves."""
        sound = Sound.of_latents(pipe, torch.zeros(1, 1, 1, 1)).of_waveform(waveform[None].cpu())
        parts = self.objective("waveform").parts
        texts = []
        if "loudness" in parts:
            texts.append(f"loudness {parts['loudness'].error(sound).item():.1f} dB off")
        if "brightness" in parts:
            texts.append(f"brightness {parts['brightness'].error(sound).item():.1f} octaves off")
        if "pitch" in parts:
            voiced = (parts["pitch"].weight(sound) > 0).any()
            met = f"met in {parts['pitch'].within(sound).item():.0%} of the voiced time" if voiced else "not heard"
            texts.append(f"pitch {met}")
        return ", ".join(texts)
