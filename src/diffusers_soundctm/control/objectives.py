"""What a sound should be like, as differentiable losses: one value per waveform, 0 when the objective is met.

An objective is any function of a `Sound` that returns a tensor (B,). The classes of this module can also be weighted
and added: `IntensityObjective(curve) + 0.5 * OnsetObjective(drums)`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .curves import Curve, TargetCurve, smooth
from .masks import Spans, masked_mean, over_time, parse_latents, parse_mask, parse_spans, span_mask
from .measures import LOWEST_DB, band_mask, mel_level, onset_strength, spectral_centroid, waveform_level
from .sound import SILENT_PEAK, Recording, Reference, Sound, repeat_rows


def evaluate(objective: Callable[[Sound], torch.Tensor], sound: Sound) -> torch.Tensor:
    """Return `objective(sound)` as float32 (B,), after a check of its type and shape.

    Raises:
        TypeError: The objective returns no tensor.
        ValueError: The tensor does not have the shape (B,).
    """
    loss = objective(sound)
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"`objective` {name_of(objective)} returned a {type(loss).__name__}; return a tensor (B,).")
    if loss.shape != (sound.batch_size,):
        raise ValueError(
            f"`objective` {name_of(objective)} returned shape {tuple(loss.shape)} for {sound.batch_size} waveforms; "
            "return one number per waveform, for example a mean over all dimensions but the first."
        )
    return loss.float()


def name_of(objective: Callable) -> str:
    """Name of an objective in messages."""
    return getattr(objective, "__name__", type(objective).__name__)


def quantities_of(objective: Callable) -> frozenset[str]:
    """Names of the readings that stand for all that an objective measures, or "decoded sound" if none do."""
    return getattr(objective, "quantities", frozenset({"decoded sound"}))


class Objective:
    """Base class of objectives: `objective(sound)` returns a loss (B,). `+` and `*` combine objectives.

    Attributes:
        quantities: Names of the readings of `LatentHeads` that suffice for it.
    """

    quantities: frozenset[str] = frozenset({"decoded sound"})

    def __call__(self, sound: Sound) -> torch.Tensor:
        raise NotImplementedError

    def __add__(self, other: Callable[[Sound], torch.Tensor]) -> "Objective":
        return WeightedSum([(1.0, self), (1.0, other)])

    def __mul__(self, weight: float) -> "Objective":
        return WeightedSum([(float(weight), self)])

    def __radd__(self, other: Callable[[Sound], torch.Tensor] | int) -> "Objective":
        return self if other == 0 else self + other  # `sum` starts with 0

    __rmul__ = __mul__


class WeightedSum(Objective):
    """Σ weight·objective(sound) over (weight, objective) pairs. The sound is decoded once for all of them."""

    def __init__(self, terms: Sequence[tuple[float, Callable[[Sound], torch.Tensor]]]):
        self.terms = list(terms)
        self.quantities = frozenset().union(*(quantities_of(objective) for _, objective in self.terms))

    @property
    def __name__(self) -> str:
        return " + ".join(f"{weight:g}·{name_of(objective)}" for weight, objective in self.terms)

    def __call__(self, sound: Sound) -> torch.Tensor:
        total: Any = sum(weight * evaluate(objective, sound) for weight, objective in self.terms)
        return total


# Curves over time


class CurveObjective(Objective):
    """Mean squared distance between a measured curve and a target curve, in the square of the curve's unit.

    Args:
        curve: The target, one of

            - points (seconds to value), as a mapping or a list of pairs. Straight lines connect them, and the curve is
              constant before the first and after the last.
            - a function of a tensor of seconds (frames,) that returns as many values.
            - an array of two or more values, (n,), or one row per waveform, (N, n), spread evenly over the duration.
            - a recording whose own curve is the target: a file, or ((samples,) or (N, samples), sampling_rate). It is
              resampled to the model's rate. Where it ends, the comparison ends.

            N is the batch size or divides it. In that case each row is the target of that many neighbors.
        smoothing: Width of the Hann window that both curves are averaged with, in seconds; 0 for none.

    Raises:
        TypeError: `curve` has none of these forms.
        ValueError: `curve` is not finite, out of range, silent or unreadable. Points beyond the end of the sound raise
            it at the first call.
    """

    unit = ""

    def __init__(self, curve: Curve, smoothing: float = 0.2):
        if not 0 <= smoothing < float("inf"):
            raise ValueError(f"`smoothing` is {smoothing}; pass a width in seconds, 0 for none.")
        self.smoothing = smoothing
        self.curve = TargetCurve(curve, self._check)

    def measure(self, sound: Sound) -> torch.Tensor:
        """Return the smoothed curve of the sound itself, (B, frames), in the curve's unit."""
        (quantity,) = self.quantities
        curve = sound.readings[quantity] if quantity in sound.readings else self._measure(sound)
        return self._smooth(curve, self.smoothing * sound.frames_per_second)

    def target(self, sound: Sound) -> torch.Tensor:
        """Return the smoothed target curve of each waveform, (B, frames). It is shorter if a recording ends earlier."""
        if self.curve.recording is not None:
            return repeat_rows(self.measure(self.curve.recording.like(sound)), sound, "curve")
        target = repeat_rows(self.curve.at_frames(sound).to(sound.device), sound, "curve")
        return self._smooth(target, self.smoothing * sound.frames_per_second)

    def error(self, sound: Sound) -> torch.Tensor:
        """Return the mean absolute distance between the curves (B,), in the curve's unit."""
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
            raise ValueError("`curve` holds NaN or infinite values; pass finite ones.")


class IntensityObjective(CurveObjective):
    """Short-time loudness: the root mean square under each mel frame's window, in dB. 0 dB is a full-scale square wave.

    The curve is smoothed as power, as loudness meters do, so that gaps, as between a bird's chirps, may stay.

    Args:
        curve: Target in dB, −100 to 0, see `CurveObjective`.
        domain: "mel" estimates the loudness from the mel, as if each band held noise. This is cheap, accurate to about
            2 dB on noise, and too low for single tones. "waveform" is exact and runs the vocoder. For models whose
            autoencoder decodes to waveforms, "waveform" is the better choice, because they have no vocoder.
        smoothing: Width of the Hann window, in seconds.

    Raises:
        TypeError: `curve` has an unsupported form.
        ValueError: An argument is out of range.
    """

    unit = "dB"
    quantities = frozenset({"loudness"})

    def __init__(self, curve: Curve, domain: str = "mel", smoothing: float = 1.0):
        if domain not in ("mel", "waveform"):
            raise ValueError(f"`domain` is {domain!r}; choose 'mel' or 'waveform'.")
        self.domain = domain
        super().__init__(curve, smoothing)

    def _measure(self, sound: Sound) -> torch.Tensor:
        return mel_level(sound) if self.domain == "mel" else waveform_level(sound)

    def _smooth(self, curve: torch.Tensor, width: float) -> torch.Tensor:
        return 10 * smooth(10 ** (curve / 10), width).log10()

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.max() > 0 or values.min() < LOWEST_DB:
            raise ValueError(
                f"`curve` goes from {values.min():g} to {values.max():g}; pass dB relative to full scale, from "
                f"{LOWEST_DB:g} to 0 (an amplitude a is 20·log10(a))."
            )


class BandEnergyObjective(IntensityObjective):
    """`IntensityObjective` of one frequency band, measured on the mel.

    Args:
        curve: Target in dB, see `CurveObjective`.
        band: Lower and upper edge, in Hz.
        smoothing: Width of the Hann window, in seconds.

    Raises:
        TypeError: `curve` has an unsupported form.
        ValueError: An argument is out of range.
    """

    quantities = Objective.quantities

    def __init__(self, curve: Curve, band: tuple[float, float], smoothing: float = 1.0):
        self.band = _parse_band(band)
        super().__init__(curve, "mel", smoothing)

    def _measure(self, sound: Sound) -> torch.Tensor:
        return mel_level(sound, band_mask(sound, self.band))


class SpectralCentroidObjective(CurveObjective):
    """Brightness: the magnitude-weighted mean frequency of each mel frame, compared in octaves.

    `measure` returns octaves above 1 Hz, log2(Hz).

    Args:
        curve: Target in Hz, 20 or more, see `CurveObjective`.
        smoothing: Width of the Hann window, in seconds.
    """

    unit = "octaves"
    quantities = frozenset({"brightness"})

    def target(self, sound: Sound) -> torch.Tensor:
        target = super().target(sound)
        return target if self.curve.recording is not None else target.log2()

    def _measure(self, sound: Sound) -> torch.Tensor:
        return spectral_centroid(sound)

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.min() < 20:
            raise ValueError(f"`curve` goes down to {values.min():g}; pass frequencies in Hz, 20 or more.")


class OnsetObjective(CurveObjective):
    """Rhythm: how fast the log-mel rises, averaged over bands.

    Only the shape of the curve counts: the loss is 1 − correlation, from 0 to 2.

    Args:
        curve: A recording whose rhythm is the target, or any curve of 0 or more, see `CurveObjective`.
        smoothing: Width of the Hann window, in seconds.
    """

    unit = "correlation"
    quantities = frozenset({"onsets"})

    def __init__(self, curve: Curve, smoothing: float = 0.05):
        super().__init__(curve, smoothing)
        if self.curve.values is not None and (self.curve.values.std(dim=-1) == 0).any():
            raise ValueError("`curve` is constant; a rhythm needs a curve that changes.")

    def _measure(self, sound: Sound) -> torch.Tensor:
        return onset_strength(sound)

    def error(self, sound: Sound) -> torch.Tensor:
        """Return the loss itself, (B,)."""
        return self(sound)

    def __call__(self, sound: Sound) -> torch.Tensor:
        measured, target = self.measure(sound), self.target(sound)
        frames = min(measured.shape[1], target.shape[1])
        pair = [curve[:, :frames] - curve[:, :frames].mean(dim=1, keepdim=True) for curve in (measured, target)]
        return 1 - torch.nn.functional.cosine_similarity(*pair, dim=1, eps=1e-6)

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        if values.min() < 0:
            raise ValueError(f"`curve` goes down to {values.min():g}; pass onset strengths of 0 or more.")


# Matches


class LoopObjective(Objective):
    """Mean squared difference of the log-mels on both sides of the point where a loop's end meets its start.

    The mean of the last frames is compared with the mean of the first, and the last frame with the first.

    Args:
        seconds: Duration of each end that is compared.

    Raises:
        ValueError: `seconds` is not positive. At the first call: the sound is shorter than both ends.
    """

    def __init__(self, seconds: float = 0.1):
        if not 0 < seconds < float("inf"):
            raise ValueError(f"`seconds` is {seconds}; pass a positive duration.")
        self.seconds = seconds

    def __call__(self, sound: Sound) -> torch.Tensor:
        frames = max(round(self.seconds * sound.frames_per_second), 2)
        if 2 * frames > sound.mel.shape[1]:
            duration = sound.mel.shape[1] / sound.frames_per_second
            raise ValueError(
                f"`seconds` is {self.seconds}, but the sound lasts {duration:g} s; pass less than half of that."
            )
        start, end = sound.mel[:, :frames], sound.mel[:, -frames:]
        level = end.mean(dim=1) - start.mean(dim=1)
        step = end[:, -1] - start[:, 0]
        return (level.square() + step.square()).mean(dim=-1) / 2


class EmbeddingSimilarityObjective(Objective):
    """1 − cosine similarity, from 0 to 2, between the sound's embedding and a target embedding.

    Args:
        embed: Differentiable function `embed(waveform (B, samples), sampling_rate)` that returns (B, D), for example a
            `ClapEmbedding`.
        target: (D,) or (N, D), for example CLAP's embedding of a text or of another sound.

    Raises:
        TypeError: `embed` is not callable.
        ValueError: `target` is zero, not finite or of another shape.
    """

    def __init__(self, embed: Callable[[torch.Tensor, int], torch.Tensor], target: torch.Tensor):
        if not callable(embed):
            raise TypeError(f"`embed` is a {type(embed).__name__}; pass a function (waveform, sampling_rate) → (B, D).")
        if target.ndim not in (1, 2) or not target.isfinite().all() or (target.norm(dim=-1) == 0).any():
            raise ValueError(
                f"`target` has shape {tuple(target.shape)}; pass finite embeddings (D,) or (N, D) that are not zero."
            )
        self.embed, self.embedding = embed, target.reshape(-1, target.shape[-1])

    def __call__(self, sound: Sound) -> torch.Tensor:
        embedding = self.embed(sound.waveform, sound.sampling_rate).float()
        target = repeat_rows(self.embedding.to(embedding), sound, "target")
        return 1 - torch.nn.functional.cosine_similarity(embedding, target, dim=-1)


class MelMatchObjective(Objective):
    """Mean squared distance of log-mels, in nepers², within a frequency band and spans of time.

    With `band=(0, cutoff)` this is bandwidth extension. With the spans around a hole it is inpainting.

    Args:
        reference: The sound to match: a file, or ((samples,) or (N, samples), sampling_rate). Where it ends, the
            comparison ends. Its level counts: the models were trained at a peak of 0.5.
        band: Lower and upper edge, in Hz. None for all frequencies.
        spans: (start, end) pairs in seconds. None for the whole duration.

    Raises:
        TypeError: `reference` has an unsupported form.
        ValueError: `reference` is silent or unreadable, or a band or span is empty.
    """

    def __init__(self, reference: Reference, band: tuple[float, float] | None = None, spans: Spans | None = None):
        self.reference = Recording(reference, "reference")
        self.band = None if band is None else _parse_band(band)
        self.spans = None if spans is None else parse_spans(spans)

    def __call__(self, sound: Sound) -> torch.Tensor:
        target = repeat_rows(self.reference.like(sound).mel, sound, "reference")
        frames = min(sound.mel.shape[1], target.shape[1])
        weight = span_mask(self.spans, frames, sound.frames_per_second).to(target.device)[:, None]
        if self.band is not None:
            weight = weight * band_mask(sound, self.band)
        return masked_mean((sound.mel[:, :frames] - target[:, :frames]).square(), weight)


class WaveformMatchObjective(Objective):
    """Mean squared distance of waveforms, relative to the mean square of the reference.

    It is 0 for a match and 1 for silence. Phases count. If they need not match, `MelMatchObjective` is an easier
    target.

    Args:
        reference: The sound to match, see `MelMatchObjective`.
        spans: (start, end) pairs in seconds. None for the whole duration.

    Raises:
        TypeError: `reference` has an unsupported form.
        ValueError: `reference` is silent or unreadable, or a span is empty.
    """

    def __init__(self, reference: Reference, spans: Spans | None = None):
        self.reference = Recording(reference, "reference")
        self.spans = None if spans is None else parse_spans(spans)

    def __call__(self, sound: Sound) -> torch.Tensor:
        target = repeat_rows(self.reference.like(sound).waveform, sound, "reference")
        samples = min(sound.waveform.shape[1], target.shape[1])
        weight = span_mask(self.spans, samples, sound.sampling_rate).to(target.device)
        target = target[:, :samples]
        distance = masked_mean((sound.waveform[:, :samples] - target).square(), weight)
        return distance / masked_mean(target.square(), weight).clamp(min=SILENT_PEAK**2)


class LatentMatchObjective(Objective):
    """Mean squared distance of latents under a mask over time: inpainting and continuation without a decoder.

    Args:
        latents: z_0 to match, (N, C, time, ...), from `pipe.encode_audio`. N is the batch size or divides it.
        mask: Weight of each latent position, (time,), 0 or more. None weights all of them by 1.

    Raises:
        ValueError: `latents` or `mask` have an unsupported shape or values that are not finite.
    """

    def __init__(self, latents: torch.Tensor, mask: torch.Tensor | None = None):
        self.target = parse_latents(latents)
        self.mask = torch.ones(latents.shape[2]) if mask is None else parse_mask(mask, latents.shape[2])

    def __call__(self, sound: Sound) -> torch.Tensor:
        if sound.latents is None or sound.latents.shape[1:] != self.target.shape[1:]:
            shape = None if sound.latents is None else tuple(sound.latents.shape[1:])
            raise ValueError(
                f"`latents` has shape (N, *{tuple(self.target.shape[1:])}), but the sound's is {shape}; encode a "
                "sound of the same duration."
            )
        target = repeat_rows(self.target.to(sound.latents.device), sound, "latents")
        weight = over_time(self.mask, target)
        return masked_mean((sound.latents.float() - target).square(), weight)


def _parse_band(band: tuple[float, float]) -> tuple[float, float]:
    if len(band) != 2 or not 0 <= band[0] < band[1]:
        raise ValueError(f"`band` is {band}; pass (lower, upper) in Hz with 0 ≤ lower < upper.")
    return band
