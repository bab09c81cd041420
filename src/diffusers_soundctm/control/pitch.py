"""Pitch as a differentiable measure and as an objective, and the pitch of recordings."""

import math
from functools import lru_cache

import numpy as np
import torch

from .curves import Curve, TargetCurve
from .measures import waveform_level
from .objectives import CurveObjective
from .sound import Sound, repeat_rows

PITCH_RANGE = (65.0, 1560.0)  # Hz, of measured pitches
BINS_PER_OCTAVE = 48
TOLERANCE = 50 / 1200  # octaves: a quarter tone, within which a pitch counts as met
LEAP_PENALTY, LARGEST_PENALTY = 8.0, 8.0  # nats, of each octave between two frames, and of the largest leap
AUDIBLE_DB = 40.0  # below the loudest frame; quieter ones have no pitch and no brightness of their own
VOICED = 0.5  # smallest confidence of a frame that counts as voiced
_PRIMES = (1, 2, 3, 5, 7, 11, 13)
_HIGHEST_HZ = 5000.0
_TEMPERATURE = 0.02  # of the softmax over saliences, whose largest is 0.5 to 0.9 for a harmonic sound
_OCTAVES = (1.0, -1.0, math.log2(3), -math.log2(3), 2.0, -2.0)  # errors of pitch trackers


def pitch_bins() -> torch.Tensor:
    """Return the candidates of the pitch, in octaves above 1 Hz, (bins,)."""
    low, high = (math.log2(hertz) for hertz in PITCH_RANGE)
    return low + torch.arange(math.ceil((high - low) * BINS_PER_OCTAVE)) / BINS_PER_OCTAVE


def pitch_logits(sound: Sound, domain: str = "waveform") -> torch.Tensor:
    """Return log-probabilities of pitches up to a constant, (B, frames, bins), from their harmonic salience.

    The salience of SWIPE′ (Camacho and Harris, 2008): the cosine between the square root of the magnitude spectrum and
    a kernel with positive lobes at the prime harmonics of a candidate and negative ones between. Multiples and
    fractions of the pitch have a lower salience than the pitch itself.

    Args:
        sound: What is measured.
        domain: "mel" or "waveform".
    """
    rate, filters = sound.sampling_rate, sound.front_end.filterbank
    if domain == "mel":
        spectrum = (sound.mel.exp() / filters.sum(dim=0)).clamp(min=1e-8).sqrt()
        kernels = _kernels(len(filters), rate) @ (filters / filters.sum(dim=0)).cpu()
    else:
        n_fft = 2 * sound.front_end.n_fft
        magnitude = _magnitudes(sound, n_fft)
        spectrum = magnitude.clamp(min=1e-8).sqrt()
        kernels = _kernels(n_fft // 2 + 1, rate)
    kernels = torch.nn.functional.normalize(kernels.to(spectrum.device), dim=1)
    return torch.nn.functional.normalize(spectrum, dim=-1) @ kernels.T / _TEMPERATURE


def most_likely_pitch(logits: torch.Tensor) -> torch.Tensor:
    """Return the pitch with the largest logit, refined by a parabola, in octaves above 1 Hz: (..., bins) → (...)."""
    best = logits.argmax(dim=-1, keepdim=True).clamp(1, logits.shape[-1] - 2)
    before, peak, after = (logits.gather(-1, best + shift) for shift in (-1, 0, 1))
    shift = 0.5 * (before - after) / (before - 2 * peak + after).clamp(max=-1e-6)
    return pitch_bins()[0].item() + (best + shift.clamp(-0.5, 0.5))[..., 0] / BINS_PER_OCTAVE


def track_pitch(sound: Sound) -> tuple[torch.Tensor, torch.Tensor]:
    """Track the pitch of recordings of one voice or instrument: the most likely path that does not leap.

    Args:
        sound: The recordings.

    Returns:
        Pitch in octaves above 1 Hz (B, frames), and its confidence, 0 to 1, (B, frames): the probability that the pitch
        lies within a quarter tone, 0 in frames that are 40 dB quieter than the loudest one.
    """
    logits = pitch_logits(sound)
    bins = torch.arange(logits.shape[-1], device=logits.device)
    leap = (LEAP_PENALTY * (bins[:, None] - bins).abs() / BINS_PER_OCTAVE).clamp(max=LARGEST_PENALTY)
    score, best = logits[:, 0], []
    for frame in logits.unbind(dim=1)[1:]:
        arrived, before = (score[:, :, None] - leap).max(dim=1)
        score = arrived + frame
        best.append(before)
    path = [score.argmax(dim=-1)]
    for before in reversed(best):
        path.append(before.gather(1, path[-1][:, None])[:, 0])
    path = torch.stack(path[::-1], dim=1)
    near = (bins - path[..., None]).abs() <= 1
    pitch = most_likely_pitch(logits.masked_fill(~near, logits.min() - 1))
    level = waveform_level(sound)
    audible = level > level.amax(dim=1, keepdim=True) - AUDIBLE_DB
    return pitch, (-pitch_loss(logits, pitch)).exp() * audible


class PitchObjective(CurveObjective):
    """Pitch: the negative logarithm of the probability that it lies within a quarter tone of the curve, in nats.

    The probability is a softmax over the harmonic salience of `pitch_logits`. `measure` returns the most likely pitch
    in octaves above 1 Hz.

    Args:
        curve: Target in Hz, 65 to 1560, see `CurveObjective`. A recording's own pitch is tracked.
        confidence: Weight of each frame, 0 to 1, in the forms (n,) or (N, n) of `curve`: frames below 0.5 are unvoiced
            and do not count. None weights all frames by 1. A recording has its own.
        domain: "waveform" resolves the harmonics of all pitches and runs the vocoder. "mel" is cheap, and coarse below
            200 Hz, where mel bands are as wide as the distance of the harmonics.

    Raises:
        TypeError: `curve` has an unsupported form.
        ValueError: An argument is out of range.
    """

    unit = "octaves"
    quantities = frozenset({"pitch"})

    def __init__(self, curve: Curve, confidence: torch.Tensor | np.ndarray | None = None, domain: str = "waveform"):
        if domain not in ("mel", "waveform"):
            raise ValueError(f"`domain` is {domain!r}; choose 'mel' or 'waveform'.")
        self.domain = domain
        super().__init__(curve, smoothing=0)
        self.confidence = None if confidence is None else TargetCurve(confidence, _check_confidence)

    def target(self, sound: Sound) -> torch.Tensor:
        """Return the target of each waveform in octaves above 1 Hz, (B, frames)."""
        if self.curve.recording is None:
            return super().target(sound).log2()
        return repeat_rows(track_pitch(self.curve.recording.like(sound))[0], sound, "curve")

    def weight(self, sound: Sound) -> torch.Tensor:
        """Return the confidence of the target, 0 where it is unvoiced, (B, frames)."""
        if self.curve.recording is not None:
            weight = repeat_rows(track_pitch(self.curve.recording.like(sound))[1], sound, "curve")
        elif self.confidence is None:
            return torch.ones_like(self.target(sound))
        else:
            weight = repeat_rows(self.confidence.at_frames(sound).to(sound.device), sound, "confidence")
        return torch.where(weight < VOICED, 0, weight)

    def error(self, sound: Sound) -> torch.Tensor:
        """Return the mean absolute distance over voiced frames in octaves, (B,)."""
        return self._mean(self._distance(sound).abs(), (self.weight(sound) > 0).float())

    def within(self, sound: Sound) -> torch.Tensor:
        """Return the share of the voiced frames whose pitch is within 50 cents of the target, (B,)."""
        return self._mean((self._distance(sound).abs() <= TOLERANCE).float(), (self.weight(sound) > 0).float())

    def octave_errors(self, sound: Sound) -> torch.Tensor:
        """Return the share of the voiced frames whose pitch is within 50 cents of 2, 3 or 4 times the target, or of
        these fractions of it, (B,)."""
        distance = self._distance(sound)[..., None] - torch.tensor(_OCTAVES, device=sound.device)
        wrong = (distance.abs() <= TOLERANCE).any(dim=-1).float()
        return self._mean(wrong, (self.weight(sound) > 0).float())

    def __call__(self, sound: Sound) -> torch.Tensor:
        logits, target = self._logits(sound), self.target(sound)
        frames = min(logits.shape[1], target.shape[1])
        return self._mean(pitch_loss(logits[:, :frames], target[:, :frames]), self.weight(sound))

    def measure(self, sound: Sound) -> torch.Tensor:
        """Return the most likely pitch, (B, frames), in octaves above 1 Hz."""
        return most_likely_pitch(self._logits(sound))

    def _logits(self, sound: Sound) -> torch.Tensor:
        return sound.readings["pitch"] if sound.readings else pitch_logits(sound, self.domain)

    def _mean(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        weight = weight[:, : values.shape[1]]
        return (weight * values[:, : weight.shape[1]]).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)

    def _check(self, values: torch.Tensor) -> None:
        super()._check(values)
        low, high = PITCH_RANGE
        if values.min() < low or values.max() > high:
            raise ValueError(
                f"`curve` goes from {values.min():g} to {values.max():g}; pass pitches in Hz, {low:g} to {high:g}."
            )


def pitch_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return −log P(|pitch − target| ≤ a quarter tone): (B, frames, bins) and (B, frames) in octaves → (B, frames)."""
    near = (pitch_bins().to(target.device) - target[..., None]).abs() <= TOLERANCE
    return logits.logsumexp(dim=-1) - logits.masked_fill(~near, -math.inf).logsumexp(dim=-1)


def _check_confidence(values: torch.Tensor) -> None:
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("`confidence` has values outside of 0 to 1.")


def _magnitudes(sound: Sound, n_fft: int) -> torch.Tensor:
    """Magnitude spectra (B, frames, bins) at the mel frames."""
    hop, window = sound.front_end.hop_length, torch.hann_window(n_fft, device=sound.waveform.device)
    spectrum = torch.stft(sound.waveform, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    power = torch.view_as_real(spectrum).square().sum(dim=-1) + 1e-12
    return power.sqrt().transpose(1, 2)[:, : sound.num_frames]


@lru_cache(maxsize=4)
def _kernels(num_bins: int, sampling_rate: int) -> torch.Tensor:
    """Kernels of SWIPE′ over linear frequency, (candidates, num_bins)."""
    with torch.inference_mode(False):
        hertz = torch.linspace(0, sampling_rate / 2, num_bins)
        ratio = hertz / 2 ** pitch_bins()[:, None]
        kernels = torch.zeros_like(ratio)
        for prime in _PRIMES:
            distance = (ratio - prime).abs()
            lobe = (2 * math.pi * ratio).cos()
            kernels += torch.where(distance < 0.25, lobe, torch.where(distance < 0.75, lobe / 2, 0))
        envelope = torch.where((hertz > 0) & (hertz <= _HIGHEST_HZ), hertz.clamp(min=1).rsqrt(), 0)
        return kernels * envelope
