"""Sketches: the curves of a voice or another recording, as the target of a sound."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .. import audio
from .curves import Curve, smooth
from .measures import LOWEST_DB, spectral_centroid, waveform_level
from .objectives import IntensityObjective, SpectralCentroidObjective, WeightedSum
from .pitch import AUDIBLE_DB, PITCH_RANGE, PitchObjective, track_pitch
from .sound import Recording, Sound

POINTS_PER_SECOND = {"loudness": 10, "brightness": 10, "pitch": 25, "confidence": 25}
MAX_POINTS = {"loudness": 64, "brightness": 64, "pitch": 128, "confidence": 128}  # files keep sketches in 2000 bytes
SMOOTHING = 0.2  # seconds, of loudness and brightness; syllables are longer
_RATE = 16000  # at which recordings are measured
# Distances that count alike: a loudness off by 3 dB, a brightness off by half an octave, and a pitch one nat off.
WEIGHTS = {"loudness": 1 / 3**2, "brightness": 1 / 0.5**2, "pitch": 1.0}


def sketch_curves(waveform: torch.Tensor | np.ndarray, sampling_rate: int, pitch: bool = True) -> dict[str, np.ndarray]:
    """Measure the curves of a recording.

    The recording is scaled to the peak of the clips that models are trained on, so that a quiet microphone does not
    make a quiet sound. Where it is silent, the brightness is interpolated.

    Args:
        waveform: (samples,), (channels, samples) or (1, channels, samples).
        sampling_rate: In Hz.
        pitch: Whether to track the pitch.

    Returns:
        Curves (points,), 10 or, of the pitch, 25 per second, at most 64 or 128. They are evenly spaced
        from the start to the end: `loudness` in dB, `brightness` and `pitch` in Hz, `confidence` of the pitch, 0 to 1.

    Raises:
        TypeError: `waveform` is no array.
        ValueError: `waveform` is empty, silent or not finite.
    """
    waveform = audio.as_samples(waveform)
    waveform = waveform.reshape(-1, waveform.shape[-1]).mean(dim=0, keepdim=True)
    recording = Recording((waveform, sampling_rate), "waveform")
    waveform = audio.peak_normalize(audio.resample(recording.waveform, sampling_rate, _RATE))
    seconds = waveform.shape[1] / _RATE
    sound = Sound(None, None, None, _RATE, audio.LogMel(_RATE)).of_waveform(waveform)
    width = SMOOTHING * sound.frames_per_second
    level = 10 * smooth(10 ** (waveform_level(sound) / 10), width).log10()
    audible = np.flatnonzero(level[0] > level.max() - AUDIBLE_DB)
    octaves = np.interp(np.arange(level.shape[1]), audible, spectral_centroid(sound)[0].numpy()[audible])
    octaves = smooth(torch.from_numpy(octaves).float()[None], width)
    curves = {"loudness": level.clamp(LOWEST_DB, 0), "brightness": octaves}
    if pitch:
        curves["pitch"], curves["confidence"] = track_pitch(sound)
    points = {name: min(max(round(seconds * POINTS_PER_SECOND[name]), 2), MAX_POINTS[name]) for name in curves}
    curves = {name: _spread(curve, points[name]) for name, curve in curves.items()}
    curves["brightness"] = 2 ** curves["brightness"]
    if pitch:
        curves["pitch"] = (2 ** curves["pitch"]).clip(*PITCH_RANGE)
    return curves


class SketchObjective(WeightedSum):
    """Follow the loudness, the brightness and the pitch of a sketch, each of which can be left out.

    Arrays are spread over the duration of the sound. A sketch of another duration is stretched.

    Args:
        loudness: Target in dB, as for `IntensityObjective`. None does not control the loudness.
        brightness: Target in Hz, as for `SpectralCentroidObjective`, or None.
        pitch: Target in Hz, as for `PitchObjective`, or None.
        confidence: Of the pitch, as for `PitchObjective`.
        domain: Where loudness and pitch are measured, "mel" or "waveform", see `IntensityObjective`.

    Attributes:
        parts: Name to objective of each curve that is controlled.

    Raises:
        ValueError: There is no curve, or one is out of range.
        TypeError: A curve has an unsupported form.

    Example:
        >>> sketch = SketchObjective.from_audio(*audio.read_audio("voice.wav"))
        >>> pipe("a growling monster", num_inference_steps=8, callback_on_step_end=LossGuidance(sketch)).audios
    """

    def __init__(
        self,
        loudness: Curve | None = None,
        brightness: Curve | None = None,
        pitch: Curve | None = None,
        confidence: Any = None,
        domain: str = "mel",
    ):
        self.parts: dict[str, Any] = {}
        if loudness is not None:
            self.parts["loudness"] = IntensityObjective(loudness, domain, SMOOTHING)
        if brightness is not None:
            self.parts["brightness"] = SpectralCentroidObjective(brightness, SMOOTHING)
        if pitch is not None:
            self.parts["pitch"] = PitchObjective(pitch, confidence, domain)
        if not self.parts:
            raise ValueError("A sketch needs a curve; pass `loudness`, `brightness` or `pitch`.")
        super().__init__([(WEIGHTS[name], part) for name, part in self.parts.items()])

    @classmethod
    def from_audio(
        cls,
        waveform: torch.Tensor | np.ndarray,
        sampling_rate: int,
        loudness: bool = True,
        brightness: bool = True,
        pitch: bool = True,
        domain: str = "mel",
    ) -> "SketchObjective":
        """Take the curves of a recording, for example of a voice that imitates the sound.

        Args:
            waveform: (samples,), (channels, samples) or (1, channels, samples).
            sampling_rate: In Hz.
            loudness: Whether to follow its loudness.
            brightness: Whether to follow its brightness.
            pitch: Whether to follow its pitch, where it has one.
            domain: See above.

        Raises:
            TypeError: `waveform` is no array.
            ValueError: `waveform` is empty, silent or not finite, or nothing is to be followed.
        """
        wanted = {"loudness": loudness, "brightness": brightness, "pitch": pitch, "confidence": pitch}
        return cls.of_curves(sketch_curves(waveform, sampling_rate, pitch), wanted, domain)

    @classmethod
    def of_curves(
        cls, curves: Mapping[str, Sequence[float] | np.ndarray], wanted: Mapping[str, bool], domain: str = "mel"
    ) -> "SketchObjective":
        """Follow those of the `curves` of `sketch_curves` that are `wanted`. A voice without a pitch has no target."""
        kept = {name: torch.as_tensor(curve).float() for name, curve in curves.items() if wanted.get(name)}
        return cls(**kept, domain=domain)


def _spread(curve: torch.Tensor, points: int) -> np.ndarray:
    """Return a curve (1, frames) at `points` evenly spaced times."""
    curve = torch.nn.functional.interpolate(curve[:, None].float(), points, mode="linear", align_corners=True)
    return curve[0, 0].numpy()
