"""What a creator asks of a sound, as differentiable losses: one value a sample, 0 when it is met.

An objective is any function of a `Sound` that returns a tensor (B,); a plain function will do. The classes here can be
weighted and added, `IntensityObjective(curve) + 0.5 * OnsetObjective(drums)`.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from diffusers.utils import logging

from .. import audio
from .sound import Sound

logger = logging.get_logger(__name__)

LOWEST_DB = -100.0
SILENT_PEAK = 1e-4

Reference = str | os.PathLike | tuple[torch.Tensor | np.ndarray, int]
Curve = (
    Callable[[torch.Tensor], torch.Tensor]
    | Mapping[float, float]
    | Sequence[tuple[float, float]]
    | torch.Tensor
    | np.ndarray
    | Reference
)


def evaluate(objective: Callable[[Sound], torch.Tensor], sound: Sound) -> torch.Tensor:
    """`objective(sound)`, float32 (B,), after checking that this is what it returned.

    Raises:
        TypeError, ValueError: no tensor of shape (B,); the message names the objective.
    """
    loss = objective(sound)
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"`objective` {name_of(objective)} returned a {type(loss).__name__}; return a tensor (B,).")
    if loss.shape != (sound.batch_size,):
        raise ValueError(
            f"`objective` {name_of(objective)} returned shape {tuple(loss.shape)} for {sound.batch_size} sounds; "
            "return one number a sample, for instance a mean over all dimensions but the first."
        )
    return loss.float()


def name_of(objective: Callable) -> str:
    """How messages call an objective."""
    return getattr(objective, "__name__", type(objective).__name__)


class Objective:
    """Base of the objectives: `objective(sound) → loss (B,)`, with `+` and `weight *` to combine them."""

    def __call__(self, sound: Sound) -> torch.Tensor:
        raise NotImplementedError

    def __add__(self, other: Callable[[Sound], torch.Tensor]) -> "Objective":
        return WeightedSum([(1.0, self), (1.0, other)])

    def __mul__(self, weight: float) -> "Objective":
        return WeightedSum([(float(weight), self)])

    def __radd__(self, other: Callable[[Sound], torch.Tensor] | int) -> "Objective":
        return self if other == 0 else self + other  # `sum` begins with 0

    __rmul__ = __mul__


class WeightedSum(Objective):
    """Σ weight·objective(sound) of (weight, objective) pairs; the sound is decoded once for all of them."""

    def __init__(self, terms: Sequence[tuple[float, Callable[[Sound], torch.Tensor]]]):
        self.terms = list(terms)

    @property
    def __name__(self) -> str:
        return " + ".join(f"{weight:g}·{name_of(objective)}" for weight, objective in self.terms)

    def __call__(self, sound: Sound) -> torch.Tensor:
        return sum(weight * evaluate(objective, sound) for weight, objective in self.terms)


# Curves over time


class CurveObjective(Objective):
    """Mean squared distance between a measured curve and a target curve, in the square of the curve's unit.

    Args:
        curve: the target, one of
            - points (seconds → value): a mapping, or a list of pairs; straight lines between them, held at the ends;
            - a function of a tensor of seconds (frames,) that returns as many values;
            - an array of two or more values, (n,) or one row a sample (N, n), spread evenly over the sound;
            - a recording whose own curve is taken: a file, or a waveform ((samples,) or (N, samples)) and its rate,
              resampled to the model's; where it ends, the target ends.
            N is the batch size, or divides it: then each row is the target of that many neighbours.
        smoothing: width in seconds of the Hann window that both curves are averaged with; 0 for none.

    Raises:
        TypeError, ValueError: `curve` is none of these, not finite, out of the unit's range, silent or unreadable; the
            message says which. Points beyond the end of the sound are found out at the first call.
    """

    unit = ""

    def __init__(self, curve: Curve, smoothing: float = 0.2):
        if not 0 <= smoothing < float("inf"):
            raise ValueError(f"`smoothing` is {smoothing}; give a width in seconds, 0 for none.")
        self.smoothing = smoothing
        self._points = self._function = self._values = self._reference = None
        if isinstance(curve, (str, os.PathLike)) or _is_waveform_with_rate(curve):
            self._reference = Recording(curve, "curve")
        elif callable(curve) and not isinstance(curve, torch.Tensor):
            self._function = curve
        elif isinstance(curve, Mapping) or _is_pairs(curve):
            # By time alone: two points at one time are a step, in the order that they are given in.
            points = sorted(curve.items() if isinstance(curve, Mapping) else curve, key=lambda point: point[0])
            self._points = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
            times = self._points[:, 0]
            if len(points) == 0 or not times.isfinite().all() or times.min() < 0:
                raise ValueError("`curve` needs points (seconds, value) at finite times of 0 or more.")
            self._check(self._points[:, 1])
        else:
            try:
                self._values = torch.as_tensor(curve, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(
                    f"`curve` is a {type(curve).__name__}; give points, a function, an array or a recording."
                ) from error
            if self._values.ndim not in (1, 2) or self._values.shape[-1] < 2:
                raise ValueError(f"`curve` has shape {tuple(self._values.shape)}; give (n,) or (N, n) with n ≥ 2.")
            self._check(self._values)

    def measure(self, sound: Sound) -> torch.Tensor:
        """The sound's own curve (B, frames), smoothed, in the curve's unit."""
        return self._smooth(self._measure(sound), self.smoothing * sound.frames_per_second)

    def target(self, sound: Sound) -> torch.Tensor:
        """The target curve of each sample, smoothed alike: (B, frames), shorter if a recording ends."""
        if self._reference is not None:
            return per_sample(self.measure(self._reference.like(sound)), sound, "curve")
        frames, device = sound.mel.shape[1], sound.mel.device
        seconds = torch.arange(frames) / sound.frames_per_second
        if self._points is not None:
            if self._points[-1, 0] > frames / sound.frames_per_second + 1e-3:
                raise ValueError(
                    f"`curve` goes on until {self._points[-1, 0]:g} s, but the sound has "
                    f"{frames / sound.frames_per_second:g} s; times are in seconds."
                )
            target = torch.from_numpy(np.interp(seconds, *self._points.T.numpy())).float()[None]
        elif self._function is not None:
            target = torch.as_tensor(self._function(seconds), dtype=torch.float32)
            if target.shape != seconds.shape:
                raise ValueError(
                    f"`curve` {name_of(self._function)} returned shape {tuple(target.shape)} for {frames} times; "
                    "return one value a time."
                )
            self._check(target)
            target = target[None]
        else:
            rows = self._values.reshape(-1, 1, self._values.shape[-1])
            target = torch.nn.functional.interpolate(rows, frames, mode="linear", align_corners=True)[:, 0]
        target = per_sample(target.to(device), sound, "curve")
        return self._smooth(target, self.smoothing * sound.frames_per_second)

    def error(self, sound: Sound) -> torch.Tensor:
        """Mean absolute distance between the curves (B,), in the curve's unit."""
        return self._distance(sound).abs().mean(dim=1)

    def __call__(self, sound: Sound) -> torch.Tensor:
        return self._distance(sound).square().mean(dim=1)

    def _distance(self, sound: Sound) -> torch.Tensor:
        measured, target = self.measure(sound), self.target(sound)
        frames = min(measured.shape[1], target.shape[1])
        return measured[:, :frames] - target[:, :frames]

    def _smooth(self, curve: torch.Tensor, width: float) -> torch.Tensor:
        return smooth(curve, width)

    def _measure(self, sound: Sound) -> torch.Tensor:
        raise NotImplementedError

    def _check(self, values: torch.Tensor) -> None:
        if not values.isfinite().all():
            raise ValueError("`curve` holds NaN or infinite values; give finite ones.")


class IntensityObjective(CurveObjective):
    """Short-time loudness, the root mean square of each mel frame's window in dB; 0 dB is a full-scale square wave.

    It is smoothed as power, like loudness meters do: the gaps between a bird's chirps do not have to be filled.

    On the mel, the loudness is estimated from the mean magnitude in each band, as if the band held noise: cheap, within
    about 2 dB on noise, too low for lone tones. On the waveform it is exact, at the price of the vocoder; models whose
    autoencoder makes waveforms have none, choose "waveform" there.

    Args:
        curve: target in dB, −100 to 0; see `CurveObjective`.
        domain: "mel" or "waveform".
        smoothing: width of the Hann window in seconds.
    """

    unit = "dB"

    def __init__(self, curve: Curve, domain: str = "mel", smoothing: float = 1.0):
        if domain not in ("mel", "waveform"):
            raise ValueError(f"`domain` is {domain!r}; choose 'mel' or 'waveform'.")
        self.domain = domain
        super().__init__(curve, smoothing)

    def _measure(self, sound: Sound) -> torch.Tensor:
        if self.domain == "mel":
            return band_level(sound)
        window = sound.front_end.window.square()
        half = len(window) // 2
        power = torch.nn.functional.pad(sound.waveform[:, None], (half, half), mode="reflect").square()
        kernel = (window / window.sum())[None, None]
        power = torch.nn.functional.conv1d(power, kernel, stride=sound.front_end.hop_length)[:, 0]
        return decibels(power[:, : sound.waveform.shape[-1] // sound.front_end.hop_length])

    def _smooth(self, curve: torch.Tensor, width: float) -> torch.Tensor:
        return 10 * smooth(10 ** (curve / 10), width).log10()

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.max() > 0 or values.min() < LOWEST_DB:
            raise ValueError(
                f"`curve` goes from {values.min():g} to {values.max():g}; give dB relative to full scale, between "
                f"{LOWEST_DB:g} and 0 (an amplitude a is 20·log10(a))."
            )


class BandEnergyObjective(IntensityObjective):
    """`IntensityObjective` of one band of frequencies alone, measured on the mel.

    Args:
        curve: target in dB; see `CurveObjective`.
        band: lower and upper edge in Hz.
    """

    def __init__(self, curve: Curve, band: tuple[float, float], smoothing: float = 1.0):
        self.band = _checked_band(band)
        super().__init__(curve, "mel", smoothing)

    def _measure(self, sound: Sound) -> torch.Tensor:
        return band_level(sound, _band_mask(sound, self.band))


class SpectralCentroidObjective(CurveObjective):
    """Brightness: the magnitude-weighted mean frequency of each mel frame, compared in octaves.

    `measure` is in octaves above 1 Hz, log2(Hz).

    Args:
        curve: target in Hz, 20 or more; see `CurveObjective`.
    """

    unit = "octaves"

    def target(self, sound: Sound) -> torch.Tensor:
        target = super().target(sound)
        return target if self._reference is not None else target.log2()

    def _measure(self, sound: Sound) -> torch.Tensor:
        weight = sound.mel.exp() / _filter_peaks(sound)
        return ((weight @ sound.mel_frequencies) / weight.sum(dim=-1)).log2()

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.min() < 20:
            raise ValueError(f"`curve` goes down to {values.min():g}; give frequencies in Hz, 20 or more.")


class OnsetObjective(CurveObjective):
    """Rhythm: how fast the log-mel rises, averaged over bands. Only the shape counts: loss = 1 − correlation, 0 to 2.

    Args:
        curve: a recording whose rhythm is taken, or any non-negative curve; see `CurveObjective`.
    """

    unit = "correlation"

    def __init__(self, curve: Curve, smoothing: float = 0.05):
        super().__init__(curve, smoothing)
        if self._values is not None and (self._values.std(dim=-1) == 0).any():
            raise ValueError("`curve` is constant; a rhythm needs a curve that changes.")

    def _measure(self, sound: Sound) -> torch.Tensor:
        rise = sound.mel.diff(dim=1, prepend=sound.mel[:, :1])
        return torch.nn.functional.relu(rise).mean(dim=-1)

    def error(self, sound: Sound) -> torch.Tensor:
        """The loss itself."""
        return self(sound)

    def __call__(self, sound: Sound) -> torch.Tensor:
        measured, target = self.measure(sound), self.target(sound)
        frames = min(measured.shape[1], target.shape[1])
        pair = [curve[:, :frames] - curve[:, :frames].mean(dim=1, keepdim=True) for curve in (measured, target)]
        return 1 - torch.nn.functional.cosine_similarity(*pair, dim=1, eps=1e-6)

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.min() < 0:
            raise ValueError(f"`curve` goes down to {values.min():g}; onset strengths are 0 or more.")


class LoopObjective(Objective):
    """End joins start: mean squared difference of the log-mels on either side of the join.

    The mean of the last frames is compared with that of the first, and the last frame with the first.

    Args:
        seconds: how much of each end is looked at.
    """

    def __init__(self, seconds: float = 0.1):
        if not 0 < seconds < float("inf"):
            raise ValueError(f"`seconds` is {seconds}; give a positive length.")
        self.seconds = seconds

    def __call__(self, sound: Sound) -> torch.Tensor:
        frames = max(round(self.seconds * sound.frames_per_second), 2)
        if 2 * frames > sound.mel.shape[1]:
            raise ValueError(f"`seconds` is {self.seconds}; the sound is too short for two such ends.")
        start, end = sound.mel[:, :frames], sound.mel[:, -frames:]
        level = end.mean(dim=1) - start.mean(dim=1)
        step = end[:, -1] - start[:, 0]
        return (level.square() + step.square()).mean(dim=-1) / 2


class EmbeddingSimilarityObjective(Objective):
    """1 − cosine similarity, 0 to 2, between the sound's embedding and a target, by a model of your choice.

    Args:
        embed: differentiable `embed(waveform (B, samples), sampling_rate) → (B, dimensions)`, for instance CLAP's audio
            tower behind its own resampling.
        target: (dimensions,) or (N, dimensions), for instance CLAP's embedding of a text or of another sound.
    """

    def __init__(self, embed: Callable[[torch.Tensor, int], torch.Tensor], target: torch.Tensor):
        if not callable(embed):
            raise TypeError(f"`embed` is a {type(embed).__name__}; pass a function (waveform, sampling_rate) → (B, D).")
        if target.ndim not in (1, 2) or not target.isfinite().all() or (target.norm(dim=-1) == 0).any():
            raise ValueError(f"`target` of shape {tuple(target.shape)} must be finite, not zero, (D,) or (N, D).")
        self.embed, self.embedding = embed, target.reshape(-1, target.shape[-1])

    def __call__(self, sound: Sound) -> torch.Tensor:
        embedding = self.embed(sound.waveform, sound.sampling_rate).float()
        target = per_sample(self.embedding.to(embedding), sound, "target")
        return 1 - torch.nn.functional.cosine_similarity(embedding, target, dim=-1)


# Matches with a given sound


class MelMatchObjective(Objective):
    """Mean squared distance of log-mels (in nepers²), in a band and in spans of time; the rest is left to the model.

    With `band=(0, f_c)` this is bandwidth extension, with the spans around a hole it is inpainting.

    Args:
        reference: the sound to match, a file, or a waveform ((samples,) or (N, samples)) and its rate; where it ends,
            the match ends. Its level counts: the models were trained at a peak of 0.5.
        band: lower and upper edge in Hz; None for all.
        spans: (start, end) pairs in seconds; None for all.
    """

    def __init__(
        self,
        reference: Reference,
        band: tuple[float, float] | None = None,
        spans: Sequence[tuple[float, float]] | None = None,
    ):
        self.reference = Recording(reference, "reference")
        self.band = None if band is None else _checked_band(band)
        self.spans = None if spans is None else checked_spans(spans)

    def __call__(self, sound: Sound) -> torch.Tensor:
        target = per_sample(self.reference.like(sound).mel, sound, "reference")
        frames = min(sound.mel.shape[1], target.shape[1])
        weight = span_mask(self.spans, frames, sound.frames_per_second).to(target.device)[:, None]
        if self.band is not None:
            weight = weight * _band_mask(sound, self.band)
        return _masked_mean((sound.mel[:, :frames] - target[:, :frames]).square(), weight)


class WaveformMatchObjective(Objective):
    """Mean squared distance of waveforms, relative to the reference's mean square: 1 for silence, 0 when they agree.

    Phases count. Where they need not, `MelMatchObjective` is the easier target.

    Args:
        reference, spans: see `MelMatchObjective`.
    """

    def __init__(self, reference: Reference, spans: Sequence[tuple[float, float]] | None = None):
        self.reference = Recording(reference, "reference")
        self.spans = None if spans is None else checked_spans(spans)

    def __call__(self, sound: Sound) -> torch.Tensor:
        target = per_sample(self.reference.like(sound).waveform, sound, "reference")
        samples = min(sound.waveform.shape[1], target.shape[1])
        weight = span_mask(self.spans, samples, sound.sampling_rate).to(target.device)
        target = target[:, :samples]
        distance = _masked_mean((sound.waveform[:, :samples] - target).square(), weight)
        return distance / _masked_mean(target.square(), weight).clamp(min=SILENT_PEAK**2)


class LatentMatchObjective(Objective):
    """Mean squared distance of latents under a mask over time: inpainting and continuation without a decoder.

    Args:
        latents: z_0 to match, (N, C, time, ...), as `pipe.encode_audio` gives them; N is the batch or divides it.
        mask: (time,), how much each latent position counts, 0 or more; None for all alike.
    """

    def __init__(self, latents: torch.Tensor, mask: torch.Tensor | None = None):
        self.target = checked_latents(latents)
        self.mask = torch.ones(latents.shape[2]) if mask is None else checked_mask(mask, latents.shape[2])

    def __call__(self, sound: Sound) -> torch.Tensor:
        if sound.latents is None or sound.latents.shape[1:] != self.target.shape[1:]:
            shape = None if sound.latents is None else tuple(sound.latents.shape[1:])
            raise ValueError(f"`latents` has shape {tuple(self.target.shape[1:])}, the sound's is {shape}.")
        target = per_sample(self.target.to(sound.latents.device), sound, "latents")
        weight = over_time(self.mask, target)
        return _masked_mean((sound.latents.float() - target).square(), weight)


# Measurements


def band_level(sound: Sound, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Level of each mel frame in dB (B, frames), of the bands that `mask` (n_mels,) weighs, all when it is None.

    Parseval, with E|X|² = 4/π·(E|X|)² for noise and filters of unit area as weights of the mean magnitude.
    """
    front_end = sound.front_end
    filters = front_end.filterbank
    # Where filters overlap, a transform bin belongs to each in the proportion of its response.
    response = filters / _filter_peaks(sound)
    bins = (response / response.sum(dim=1, keepdim=True).clamp(min=1e-6)).sum(dim=0)
    magnitude = sound.mel.exp() / filters.sum(dim=0)
    bins = bins if mask is None else bins * mask
    power = 2 * (4 / torch.pi) * magnitude.square() @ bins
    return decibels(power / (front_end.n_fft * front_end.window.square().sum()))


def decibels(power: torch.Tensor) -> torch.Tensor:
    """10·log10 of a mean square, not below −100 dB; its gradient stays finite at silence."""
    return 10 * (power + 10 ** (LOWEST_DB / 10)).log10()


def smooth(curve: torch.Tensor, width: float) -> torch.Tensor:
    """Average (B, frames) under a Hann window of `width` frames, the ends held."""
    half = min(round(width / 2), curve.shape[1] - 1)
    if half < 1:
        return curve
    kernel = torch.hann_window(2 * half + 3, periodic=False, device=curve.device)[1:-1]
    padded = torch.nn.functional.pad(curve[:, None], (half, half), mode="replicate")
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def per_sample(rows: torch.Tensor, sound: Sound, name: str) -> torch.Tensor:
    """Targets (N, ...) given to a batch of B: each row to B / N neighbours, the order of `num_waveforms_per_prompt`.

    Raises:
        ValueError: N does not divide B.
    """
    if sound.batch_size % len(rows):
        raise ValueError(
            f"`{name}` has {len(rows)} rows for {sound.batch_size} sounds; pass one for all, one a prompt or one a "
            "sound."
        )
    return rows.repeat_interleave(sound.batch_size // len(rows), dim=0)


class Recording:
    """A reference: an audio file, or a waveform and its rate; checked at once, brought to a model's rate when used."""

    def __init__(self, source: Reference, name: str):
        if isinstance(source, (str, os.PathLike)):
            waveform, self.sampling_rate = audio.read_audio(source)
            waveform = waveform.mean(dim=0, keepdim=True)
        elif _is_waveform_with_rate(source):
            waveform, self.sampling_rate = torch.as_tensor(source[0]).detach().float(), source[1]
            if waveform.ndim not in (1, 2) or waveform.shape[-1] == 0:
                raise ValueError(f"`{name}` has shape {tuple(waveform.shape)}; give (samples,) or (N, samples).")
            waveform = waveform.reshape(-1, waveform.shape[-1])
        else:
            raise TypeError(f"`{name}` is a {type(source).__name__}; give a file, or (waveform, sampling_rate).")
        if not waveform.isfinite().all():
            raise ValueError(f"`{name}` holds NaN or infinite samples; give finite ones.")
        if (waveform.abs().amax(dim=-1) < SILENT_PEAK).any():
            raise ValueError(f"`{name}` is silent (peak below {SILENT_PEAK:g}); give a recording with sound in it.")
        self.waveform, self.name = waveform, name
        self._at_rate: dict[int, torch.Tensor] = {}

    def like(self, sound: Sound) -> Sound:
        """The recording at the rate of `sound`, cut to its length."""
        rate = sound.sampling_rate
        if rate not in self._at_rate:
            if rate != self.sampling_rate:
                logger.warning(f"`{self.name}` is resampled from {self.sampling_rate} to {rate} Hz, the model's rate.")
            self._at_rate[rate] = audio.resample(self.waveform, self.sampling_rate, rate)
        samples = sound.mel.shape[1] * sound.front_end.hop_length
        return sound.of_waveform(self._at_rate[rate][:, :samples])


def checked_spans(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """`spans` as a list of (start, end) pairs in seconds.

    Raises:
        ValueError: there are none, or one is empty, negative or not finite.
    """
    try:
        pairs = [(start, end) for start, end in spans]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(not 0 <= start < end < float("inf") for start, end in pairs):
        raise ValueError(f"`spans` is {spans}; give (start, end) pairs in seconds with 0 ≤ start < end.")
    return pairs


def checked_latents(latents: torch.Tensor) -> torch.Tensor:
    """Latents of a given sound, (N, C, time, ...), as float32; `ValueError` if they are no batch or not finite."""
    if latents.ndim < 3 or not latents.isfinite().all():
        raise ValueError(f"`latents` of shape {tuple(latents.shape)} must be finite and a batch, (N, C, time, width).")
    return latents.float()


def over_time(values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Values (time,), shaped to multiply latents (B, C, time, ...)."""
    return values.to(latents).reshape(-1, *[1] * (latents.ndim - 3))


def checked_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
    """`mask` (length,) as float32.

    Raises:
        ValueError: another length, values that are negative or not finite, or only zeros.
    """
    mask = torch.as_tensor(mask, dtype=torch.float32)
    if mask.shape != (length,):
        raise ValueError(f"`mask` has shape {tuple(mask.shape)}; this sound needs ({length},).")
    if not mask.isfinite().all() or (mask < 0).any():
        raise ValueError("`mask` holds values below 0, NaN or infinite ones; 1 counts, 0 does not.")
    if not mask.any():
        raise ValueError("`mask` is empty: it is 0 everywhere; mark what should count.")
    return mask


def span_mask(spans: Sequence[tuple[float, float]] | None, length: int, rate: float) -> torch.Tensor:
    """1 inside the spans (in seconds), 0 outside: (length,), with `rate` entries a second; all 1 without spans.

    Raises:
        ValueError: no entry lies inside.
    """
    if spans is None:
        return torch.ones(length)
    mask = torch.zeros(length)
    for start, end in spans:
        mask[round(start * rate) : round(end * rate)] = 1
    if not mask.any():
        raise ValueError(f"`spans` {spans} in seconds mark nothing of {length / rate:g} s; move or widen them.")
    return mask


def _masked_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Mean of values (B, ...) under a weight that broadcasts against them: (B,)."""
    weight = weight.expand_as(values)
    return (values * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)


def _filter_peaks(sound: Sound) -> torch.Tensor:
    return sound.front_end.filterbank.amax(dim=0)


def _band_mask(sound: Sound, band: tuple[float, float]) -> torch.Tensor:
    """1 for the mel bands whose centre lies in `band`, (n_mels,)."""
    mask = (sound.mel_frequencies >= band[0]) & (sound.mel_frequencies < band[1])
    if not mask.any():
        raise ValueError(f"`band` {band} in Hz holds no mel band below {sound.sampling_rate / 2:g} Hz; widen it.")
    return mask.float()


def _checked_band(band: tuple[float, float]) -> tuple[float, float]:
    if len(band) != 2 or not 0 <= band[0] < band[1]:
        raise ValueError(f"`band` is {band}; give (lower, upper) in Hz with 0 ≤ lower < upper.")
    return band


def _is_pairs(curve: object) -> bool:
    return isinstance(curve, (list, tuple)) and all(
        isinstance(point, (list, tuple)) and len(point) == 2 for point in curve
    )


def _is_waveform_with_rate(source: object) -> bool:
    if not (isinstance(source, tuple) and len(source) == 2):
        return False
    return isinstance(source[0], (torch.Tensor, np.ndarray)) and isinstance(source[1], int)
