"""Measurements over time, differentiable: level, brightness and onsets of each mel frame of a `Sound`."""

import torch

from .sound import Sound

LOWEST_DB = -100.0


def mel_level(sound: Sound, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Estimate the level of each frame from the mel, in dB relative to full scale, (B, frames).

    By Parseval's theorem, with E|X|² = 4/π·(E|X|)² as for noise, and mels as mean magnitudes under filters of unit
    area.

    Args:
        sound: What is measured.
        mask: Weights of the mel bands, (n_mels,). None weights all of them by 1.
    """
    front_end = sound.front_end
    filters = front_end.filterbank
    # Where filters overlap, a transform bin belongs to each in proportion to its response.
    response = filters / _filter_peaks(sound)
    bins = (response / response.sum(dim=1, keepdim=True).clamp(min=1e-6)).sum(dim=0)
    magnitude = sound.mel.exp() / filters.sum(dim=0)
    bins = bins if mask is None else bins * mask
    power = 2 * (4 / torch.pi) * magnitude.square() @ bins
    return decibels(power / (front_end.n_fft * front_end.window.square().sum()))


def waveform_level(sound: Sound) -> torch.Tensor:
    """Root mean square of the waveform under each frame's window, in dB relative to full scale, (B, frames)."""
    hop_length, window = sound.front_end.hop_length, sound.front_end.window.square()
    half = len(window) // 2
    power = torch.nn.functional.pad(sound.waveform[:, None], (half, half), mode="reflect").square()
    kernel = (window / window.sum())[None, None]
    power = torch.nn.functional.conv1d(power, kernel, stride=hop_length)[:, 0]
    return decibels(power[:, : sound.waveform.shape[-1] // hop_length])


def spectral_centroid(sound: Sound) -> torch.Tensor:
    """Magnitude-weighted mean frequency of each mel frame, in octaves above 1 Hz, (B, frames)."""
    weight = sound.mel.exp() / _filter_peaks(sound)
    return ((weight @ sound.mel_frequencies) / weight.sum(dim=-1)).log2()


def onset_strength(sound: Sound) -> torch.Tensor:
    """Rise of the log-mel since the previous frame, averaged over bands; 0 where it falls, (B, frames)."""
    rise = sound.mel.diff(dim=1, prepend=sound.mel[:, :1])
    return torch.nn.functional.relu(rise).mean(dim=-1)


def band_mask(sound: Sound, band: tuple[float, float]) -> torch.Tensor:
    """1 for the mel bands whose center lies in `band`, else 0, (n_mels,).

    Args:
        sound: Determines the mel bands.
        band: Lower and upper edge, in Hz.

    Raises:
        ValueError: No mel band lies in `band`.
    """
    mask = (sound.mel_frequencies >= band[0]) & (sound.mel_frequencies < band[1])
    if not mask.any():
        raise ValueError(
            f"`band` {band} in Hz contains no mel band below {sound.sampling_rate / 2:g} Hz; widen or lower it."
        )
    return mask.float()


def decibels(power: torch.Tensor) -> torch.Tensor:
    """10·log10 of a mean square, with a floor of −100 dB that keeps the gradient finite at silence."""
    return 10 * (power + 10 ** (LOWEST_DB / 10)).log10()


def _filter_peaks(sound: Sound) -> torch.Tensor:
    return sound.front_end.filterbank.amax(dim=0)
