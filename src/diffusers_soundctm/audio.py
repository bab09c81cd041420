"""Waveforms outside the models: the log-mel front end, resampling, levels, and audio files."""

import math
import numbers
import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from transformers.audio_utils import mel_filter_bank

from .audio_files import LONGEST_WAV_TAG as LONGEST_WAV_TAG
from .audio_files import check_format, edge_fades, write_samples
from .audio_files import read_tags as read_tags

logger = logging.get_logger(__name__)

LOG_FLOOR = 1e-5
TRAINING_PEAK = 0.5
# (sampling_rate, hop_length) to the settings of AudioLDM's front ends, which its HiFi-GAN configurations do not hold.
_AUDIOLDM_MELS = {
    (16000, 160): {"n_fft": 1024, "fmin": 0.0, "fmax": 8000.0},
    (48000, 480): {"n_fft": 2048, "fmin": 20.0, "fmax": 24000.0},
}


# Signed types by the sample that stands for 1. WAV files keep 8 bits unsigned, around 128. Wider types have no
# convention: an array of int64 usually comes from a list of numbers of any range.
_FULL_SCALE = {torch.int8: 2**7, torch.uint8: 2**7, torch.int16: 2**15, torch.int32: 2**31}


def as_samples(samples: torch.Tensor | np.ndarray, name: str = "waveform") -> torch.Tensor:
    """Convert samples of any dtype to float32 with full scale 1. Float samples keep their values.

    Integers are scaled by the full scale of their type: int8 by 2^7, uint8 by 2^7 around 128, int16 by 2^15 and int32
    by 2^31. The gradient of float samples is kept.

    Args:
        samples: Samples, in any shape.
        name: Name of the argument in error messages.

    Raises:
        TypeError: The samples are complex, boolean or of an integer type without a full scale, or are not numbers.
    """
    samples = to_tensor(samples, name)
    if samples.dtype.is_floating_point:
        return samples.float()
    if samples.dtype not in _FULL_SCALE:
        dtype = str(samples.dtype).removeprefix("torch.")
        raise TypeError(
            f"`{name}` has the dtype {dtype}, which has no full scale; pass float samples within ±1, or int16."
        )
    centered = samples.float() - (128 if samples.dtype == torch.uint8 else 0)
    return centered / _FULL_SCALE[samples.dtype]


def to_tensor(values: Any, name: str) -> torch.Tensor:
    """Return numbers as a tensor. Arrays that torch refuses are copied: reversed ones, and those in another byte order.

    Args:
        values: A tensor, an array, or a list of numbers.
        name: Name of the argument in error messages.

    Raises:
        TypeError: `values` are not numbers.
    """
    try:
        if isinstance(values, np.ndarray):
            values = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"`{name}` is of the type {kind}; pass a tensor or an array of numbers.") from error


def mel_filterbank(
    sampling_rate: int = 16000, n_fft: int = 1024, n_mels: int = 64, fmin: float = 0.0, fmax: float | None = None
) -> torch.Tensor:
    """Slaney mel filters of unit area, float32 (n_fft // 2 + 1, n_mels).

    Args:
        sampling_rate: In Hz.
        n_fft: Length of the Fourier transform, in samples.
        n_mels: Number of mel bands.
        fmin: Lower edge of the lowest band, in Hz.
        fmax: Upper edge of the highest band, in Hz. None means half the sampling rate.
    """
    return torch.from_numpy(_filterbank(sampling_rate, n_fft, n_mels, fmin, fmax)).float()


@lru_cache(maxsize=8)
def _filterbank(sampling_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> np.ndarray:
    fmax = sampling_rate / 2 if fmax is None else fmax
    return mel_filter_bank(n_fft // 2 + 1, n_mels, fmin, fmax, sampling_rate, norm="slaney", mel_scale="slaney")


def mel_settings(vocoder_config: Mapping[str, Any] | Any | None) -> dict[str, Any]:
    """The arguments of `LogMel` that give the mels that a vocoder was trained with.

    Args:
        vocoder_config: Configuration of an `ISTFTVocoder` or a `SpeechT5HifiGan`, as a mapping or as the model's
            `config`. None means the 16 kHz AudioLDM vocoder.

    Raises:
        ValueError: The configuration has no `n_fft`, and AudioLDM has no front end of its sampling rate and hop length.
    """
    if vocoder_config is None:
        return {"sampling_rate": 16000, "hop_length": 160, "n_mels": 64, **_AUDIOLDM_MELS[16000, 160]}
    config = vocoder_config if isinstance(vocoder_config, Mapping) else vocoder_config.to_dict()
    sampling_rate = config["sampling_rate"]
    hop_length = config.get("hop_length") or math.prod(config["upsample_rates"])
    settings = {"sampling_rate": sampling_rate, "hop_length": hop_length, "n_mels": config["model_in_dim"]}
    if "n_fft" in config:
        return settings | {"n_fft": config["n_fft"]}
    if (sampling_rate, hop_length) not in _AUDIOLDM_MELS:
        known = ", ".join(f"{rate} Hz with hop {hop}" for rate, hop in _AUDIOLDM_MELS)
        raise ValueError(
            f"The vocoder's configuration has no `n_fft`, and its sampling rate {sampling_rate} Hz with hop length "
            f"{hop_length} is not a known combination ({known}); add the `n_fft` of its training to the configuration."
        )
    return settings | _AUDIOLDM_MELS[sampling_rate, hop_length]


class LogMel(torch.nn.Module):
    """ln max(|STFT| · filters, 1e-5): the log-mel spectrogram that mel autoencoders encode.

    The Hann window of `n_fft` samples is centered on every `hop_length`-th sample, and the waveform is reflected at
    its ends. The transform is differentiable. The defaults are those of AudioLDM and of the embedded model.

    Args:
        sampling_rate: In Hz.
        n_fft: Length of the window and of the Fourier transform, in samples.
        hop_length: Samples per mel frame.
        n_mels: Number of mel bands.
        fmin: Lower edge of the lowest band, in Hz.
        fmax: Upper edge of the highest band, in Hz. None means half the sampling rate.
    """

    def __init__(
        self,
        sampling_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 160,
        n_mels: int = 64,
        fmin: float = 0.0,
        fmax: float | None = None,
    ):
        super().__init__()
        self.sampling_rate, self.n_fft, self.hop_length, self.n_mels = sampling_rate, n_fft, hop_length, n_mels
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filterbank", mel_filterbank(sampling_rate, n_fft, n_mels, fmin, fmax), persistent=False)

    @classmethod
    def for_vocoder(cls, vocoder_config: Mapping[str, Any] | Any | None) -> "LogMel":
        """The front end of the mels that a vocoder reads, see `mel_settings`.

        Args:
            vocoder_config: Configuration of a vocoder. None means the 16 kHz AudioLDM vocoder.

        Raises:
            ValueError: The configuration has no `n_fft`, and AudioLDM has no front end of its sampling rate and hop
                length.
        """
        return cls(**mel_settings(vocoder_config))

    def forward(self, waveform: torch.Tensor, center: bool = True) -> torch.Tensor:
        """Compute the log-mel of a waveform.

        Args:
            waveform: (..., samples), full scale 1, see `as_samples`.
            center: Whether frames are centered on their samples. If False, the caller has padded the ends, and there
                is one frame per window that lies inside the waveform.

        Returns:
            (..., samples // hop_length, n_mels), natural logarithm, float32.

        Raises:
            ValueError: The waveform is too short to reflect its ends.
        """
        needed = self.n_fft // 2 + 1 if center else self.n_fft
        if waveform.shape[-1] < needed:
            raise ValueError(
                f"`waveform` has {waveform.shape[-1]} samples; the mel front end needs {needed}: pad it with zeros."
            )
        flat = as_samples(waveform).reshape(-1, waveform.shape[-1])
        spectrum = torch.stft(flat, self.n_fft, self.hop_length, window=self.window, center=center, return_complex=True)
        if center:
            # The centered transform has one frame more than the waveform has hops.
            spectrum = spectrum[..., : waveform.shape[-1] // self.hop_length]
        mel = spectrum.abs().transpose(-1, -2) @ self.filterbank
        return mel.clamp(min=LOG_FLOOR).log().reshape(*waveform.shape[:-1], *mel.shape[-2:])


def log_mel(waveform: torch.Tensor, **settings: float | None) -> torch.Tensor:
    """Apply `LogMel(**settings)` once, on the waveform's device: (..., samples) → (..., frames, n_mels)."""
    return LogMel(**settings).to(waveform.device)(waveform)


def peak_normalize(waveform: torch.Tensor, peak: float = TRAINING_PEAK) -> torch.Tensor:
    """Scale each waveform (..., samples) to the peak `peak`, 0.5 as in training. Silence stays silent."""
    waveform = as_samples(waveform)
    return waveform * (peak / waveform.abs().amax(dim=-1, keepdim=True).clamp(min=LOG_FLOOR))


def limit_peak(waveform: torch.Tensor, peak: float = 1.0) -> torch.Tensor:
    """Scale down the waveforms (..., samples) whose peak exceeds `peak`. Others are returned unchanged."""
    waveform = as_samples(waveform)
    largest = waveform.abs().amax(dim=-1, keepdim=True)
    return torch.where(largest > peak, waveform * (peak / largest.clamp(min=peak)), waveform)


def leave_headroom(waveform: torch.Tensor, headroom_db: float = 1.0) -> torch.Tensor:
    """Scale a waveform (channels, samples) down as a whole if its peak is less than `headroom_db` below full scale."""
    waveform = as_samples(waveform)
    return limit_peak(waveform.reshape(1, -1), 10 ** (-headroom_db / 20)).reshape(waveform.shape)


def fade_edges(waveform: torch.Tensor, sampling_rate: int, seconds: float = 0.005) -> torch.Tensor:
    """Fade the first and the last `seconds` of waveforms (..., samples) in and out, so that their edges do not click.

    The fades are halves of a Hann window, and each lasts at most half of the waveform.
    """
    waveform = as_samples(waveform)
    gain = edge_fades(waveform.shape[-1], sampling_rate, seconds)
    return waveform * torch.from_numpy(gain).to(waveform.device)


def excess_db(waveform: torch.Tensor, peak: float = 1.0) -> torch.Tensor:
    """By how many dB `limit_peak` scales waveforms (..., samples) down, (...). 0 if they do not exceed `peak`."""
    return 20 * (as_samples(waveform).abs().amax(dim=-1) / peak).clamp(min=1.0).log10()


def resample(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resample (..., samples) from `from_rate` to `to_rate` Hz with soxr, on the CPU and without gradient."""
    waveform = as_samples(waveform)
    for rate in (from_rate, to_rate):
        check_rate(rate)
    if from_rate == to_rate:
        return waveform
    import soxr

    flat = waveform.detach().cpu().reshape(-1, waveform.shape[-1])
    resampled = torch.from_numpy(soxr.resample(flat.T.numpy(), from_rate, to_rate)).T.contiguous()
    return resampled.reshape(*waveform.shape[:-1], -1).to(waveform.device)


def check_rate(sampling_rate: Any, name: str = "sampling_rate") -> None:
    """Raise `ValueError`, with the name of the argument, unless `sampling_rate` is a positive integer."""
    if not isinstance(sampling_rate, numbers.Integral) or isinstance(sampling_rate, bool) or sampling_rate < 1:
        raise ValueError(f"`{name}` is {sampling_rate!r}; pass a sampling rate in Hz, for example 44100.")


def true_peak(waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Peak of waveforms (..., samples) between the samples as well, by fourfold oversampling as in ITU-R BS.1770."""
    waveform = as_samples(waveform)
    between = resample(waveform, sampling_rate, 4 * sampling_rate).abs().amax(dim=-1)
    return torch.maximum(between, waveform.abs().amax(dim=-1))


def measure_loudness(waveform: torch.Tensor, sampling_rate: int) -> float:
    """Integrated loudness (ITU-R BS.1770) of a waveform in LUFS.

    Args:
        waveform: (channels, samples) or (samples,), up to five channels, at least 0.1 s.
        sampling_rate: In Hz.

    Raises:
        ValueError: The waveform is too short, silent or not finite, or has too many channels.
    """
    import pyloudnorm

    check_rate(sampling_rate)
    waveform = as_samples(waveform)
    channels = waveform.detach().cpu().reshape(-1, waveform.shape[-1])
    if not channels.isfinite().all():
        raise ValueError("`waveform` holds NaN or infinite samples; pass finite ones.")
    if not 1 <= len(channels) <= 5 or channels.shape[-1] < 0.1 * sampling_rate:
        raise ValueError(f"`waveform` has shape {tuple(waveform.shape)}; pass 1 to 5 channels of at least 0.1 s.")
    # The meter's blocks last 0.4 s, less for shorter waveforms.
    meter = pyloudnorm.Meter(sampling_rate, block_size=min(0.4, (channels.shape[-1] - 1) / sampling_rate))
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # of silent blocks
        measured = meter.integrated_loudness(channels.T.double().numpy())
    if not math.isfinite(measured):
        raise ValueError("`waveform` is silent, so it has no loudness; pass an audible waveform.")
    return measured


def highest_loudness(waveform: torch.Tensor, sampling_rate: int, max_true_peak: float = -1.0) -> float:
    """Loudness in LUFS that a waveform has when it is scaled until its true peak is at the limit.

    Args:
        waveform: As in `measure_loudness`.
        sampling_rate: In Hz.
        max_true_peak: Limit of the true peak in dBTP, 0 or less.

    Raises:
        ValueError: As in `measure_loudness`, or `max_true_peak` is out of range.
    """
    if not max_true_peak <= 0:
        raise ValueError(f"`max_true_peak` is {max_true_peak}; choose 0 dBTP or less.")
    measured = measure_loudness(waveform, sampling_rate)
    return measured + max_true_peak - 20 * math.log10(true_peak(waveform, sampling_rate).max().item())


def normalize_loudness(
    waveform: torch.Tensor, sampling_rate: int, loudness: float, max_true_peak: float = -1.0
) -> torch.Tensor:
    """Scale a waveform to an integrated loudness (ITU-R BS.1770), as far as its peaks allow.

    The waveform is scaled as a whole, not compressed. If its true peak would exceed the limit, it stays quieter and a
    warning is logged.

    Args:
        waveform: As in `measure_loudness`.
        sampling_rate: In Hz.
        loudness: Target in LUFS, −70 to 0. Usual values are −23 in broadcast and −16 or −14 in streaming.
        max_true_peak: Limit of the true peak in dBTP, 0 or less.

    Raises:
        ValueError: An argument is out of range, or the waveform is silent or not finite.
    """
    check_loudness(loudness, "`loudness`")
    highest = highest_loudness(waveform, sampling_rate, max_true_peak)
    if loudness > highest:
        logger.warning(
            f"The loudness is {highest:.1f} LUFS instead of {loudness:g}: the true peak is at its limit of "
            f"{max_true_peak:g} dBTP."
        )
    change = min(loudness, highest) - measure_loudness(waveform, sampling_rate)
    return as_samples(waveform) * 10 ** (change / 20)


def check_loudness(loudness: float, name: str) -> None:
    """Raise `ValueError`, with the name of the argument, unless `loudness` is within −70 to 0 LUFS."""
    if not -70 <= loudness <= 0:
        raise ValueError(f"{name} is {loudness}; choose -70 to 0 LUFS, for example -23 for broadcast.")


def match_channels(waveform: torch.Tensor, num_channels: int) -> torch.Tensor:
    """Convert (..., channels, samples) to `num_channels`: unchanged if it has as many, else the mean, repeated."""
    waveform = as_samples(waveform)
    if waveform.shape[-2] == num_channels:
        return waveform
    mono = waveform.mean(dim=-2, keepdim=True)
    return mono.expand(*mono.shape[:-2], num_channels, mono.shape[-1])


def is_waveform_autoencoder(vae: torch.nn.Module | None) -> bool:
    """Whether an autoencoder encodes waveforms, not mels.

    These are `AutoencoderDAC`, `AutoencoderOobleck`, `AutoencoderSAME` and `LongCatAudioDiTVae`.
    """
    return vae is not None and any(
        name in vae.config for name in ("downsampling_ratios", "encoder_strides", "downsampling_ratio")
    )


def waveform_hop_length(config: Any) -> int:
    """Samples per latent position of an autoencoder of waveforms, by its configuration."""
    if "encoder_strides" in config:  # AutoencoderSAME
        return config["patch_size"] * math.prod(config["encoder_strides"])
    if "downsampling_ratio" in config:  # LongCatAudioDiTVae
        return config["downsampling_ratio"]
    return math.prod(config["downsampling_ratios"])


def waveform_format(config: Any) -> tuple[int, int]:
    """Channels and sampling rate (Hz) of an autoencoder of waveforms, by its configuration."""
    if "downsampling_ratio" in config:  # LongCatAudioDiTVae
        return config["in_channels"], config["sample_rate"]
    return config.get("audio_channels", 1), config["sampling_rate"]


def read_audio(path: str | os.PathLike, sampling_rate: int | None = None) -> tuple[torch.Tensor, int]:
    """Read an audio file.

    Args:
        path: A WAV, FLAC, OGG or MP3 file.
        sampling_rate: Rate to resample to, in Hz. None keeps that of the file.

    Returns:
        The waveform (channels, samples), float32 within ±1, and its sampling rate.

    Raises:
        ValueError: The file is missing, is not audio, or has no samples.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise ValueError(f"`path` {str(path)!r} cannot be read: {error}; pass a WAV, FLAC, OGG or MP3 file.") from error
    if len(samples) == 0:
        raise ValueError(f"`path` {str(path)!r} has no samples; pass a file with audio.")
    waveform = torch.from_numpy(samples.T.copy())
    if sampling_rate is None:
        return waveform, rate
    return resample(waveform, rate, sampling_rate), sampling_rate


def write_audio(
    path: str | os.PathLike,
    waveform: torch.Tensor | np.ndarray,
    sampling_rate: int,
    tags: Mapping[str, str] | None = None,
    bits: int = 16,
) -> Path:
    """Write a WAV or FLAC file completely or not at all. The extension determines the format.

    A waveform that exceeds full scale is scaled down as a whole, with a warning that says by how many dB. It is never
    clipped.

    Args:
        path: Name of the file. Its folder must exist.
        waveform: (samples,) or (channels, samples), full scale 1, see `as_samples`.
        sampling_rate: In Hz.
        tags: Metadata. The keys are those of soundfile: title, copyright, software, artist, comment, date, album,
            license, tracknumber and genre. In a WAV file, each text is cut to 2000 bytes with a warning. FLAC has no
            limit.
        bits: Bits per sample, 16 or 24.

    Returns:
        `path`.

    Raises:
        TypeError: The samples have a dtype without a full scale.
        ValueError: The extension, shape, sampling rate, bits or a tag is unsupported, or a sample is not finite.
        OSError: `path` is a folder or a device, or its folder does not exist or is not writable.
    """
    path = Path(path)
    waveform = as_samples(waveform).detach().cpu()
    if waveform.dim() not in (1, 2) or waveform.shape[-1] == 0:
        check_format(path, 1, sampling_rate, tags, bits)
        raise ValueError(f"`waveform` has shape {tuple(waveform.shape)}; pass (samples,) or (channels, samples).")
    waveform = waveform.reshape(-1, waveform.shape[-1])
    check_format(path, len(waveform), sampling_rate, tags, bits)
    if not waveform.isfinite().all():
        raise ValueError("`waveform` holds NaN or infinite samples; nothing was written. Pass finite samples.")
    excess = excess_db(waveform.reshape(-1)).item()
    if excess >= 0.05:
        logger.warning(f"`waveform` exceeds full scale and is turned down by {excess:.1f} dB as a whole.")
    write_samples(path, limit_peak(waveform.reshape(1, -1)).reshape(waveform.shape).numpy(), sampling_rate, tags, bits)
    return path
