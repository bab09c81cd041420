"""What objectives measure: latents and the log-mel and waveform that they decode to, each decoded on first use."""

import math
import numbers
import os
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.utils import logging
from torch.utils.checkpoint import checkpoint

from .. import audio

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

logger = logging.get_logger(__name__)

Reference = str | os.PathLike | tuple[torch.Tensor | np.ndarray, int]
SILENT_PEAK = 1e-4
OWN_MEL_BANDS = 64  # of the mels that are computed where the model has none


class Sound:
    """A batch of sounds as latents, log-mels and waveforms. Each is differentiable with respect to the previous one.

    Attributes:
        latents: z_0, (B, C, time, width), or (B, C, time) of an autoencoder of waveforms. None for recordings.
        mel: Log-mel (B, frames, n_mels), natural logarithm. It is computed from the waveform if the model has no mels.
        waveform: (B, samples), full scale 1, float32, the mean of the channels.
        sampling_rate: In Hz.
        front_end: The `LogMel` that turns waveforms into the mels of this model.
        readings: Name to curve of what `LatentHeads` read off noisy latents, or empty. Objectives prefer them.

    Args:
        latents: z_0, or None.
        decode_mel: Function from latents to the log-mel, float32. None for autoencoders of waveforms.
        decode_waveform: Function from the log-mel to the waveform, float32, or from latents if `decode_mel` is None.
        sampling_rate: In Hz.
        front_end: The `LogMel` of the model.
        num_samples: Number of samples after which the sound ends. What the latents hold beyond is ignored. None for
            the end of the latents.
    """

    def __init__(
        self,
        latents: torch.Tensor | None,
        decode_mel: Callable[[torch.Tensor], torch.Tensor] | None,
        decode_waveform: Callable[[torch.Tensor], torch.Tensor] | None,
        sampling_rate: int,
        front_end: audio.LogMel,
        num_samples: int | None = None,
    ):
        self.latents = latents
        self.sampling_rate, self.front_end = sampling_rate, front_end
        self.num_samples = num_samples
        self.readings: dict[str, torch.Tensor] = {}
        self._decode_mel, self._decode_waveform = decode_mel, decode_waveform

    @classmethod
    def of_latents(
        cls,
        pipe: "SoundCTMPipeline",
        latents: torch.Tensor,
        num_samples: int | None = None,
        checkpointing: bool = False,
    ) -> "Sound":
        """The sounds that `pipe` decodes latents to.

        Args:
            pipe: The pipeline whose decoders are used.
            latents: z_0, (B, C, time, width) or (B, C, time).
            num_samples: Number of samples after which the sound ends. None for the end of the latents.
            checkpointing: Whether the backward pass runs the decoders again instead of keeping their activations.

        Raises:
            ValueError: The pipeline has no autoencoder or no vocoder.
        """
        if not pipe.has_decoder:
            missing = "vae" if pipe.vae is None else "vocoder"
            raise ValueError(f"The pipeline has no `{missing}`, which control needs to decode latents; load it.")

        def decode_mel(latents: torch.Tensor) -> torch.Tensor:
            return pipe.decode_latents(latents)[:, 0].float()

        def decode_waveform(mel_or_latents: torch.Tensor) -> torch.Tensor:
            if pipe.encodes_waveforms:
                return pipe.decode_latents(mel_or_latents).mean(dim=1)
            return pipe.mel_spectrogram_to_waveform(mel_or_latents[:, None])[:, 0]

        if checkpointing:
            decode_mel = partial(checkpoint, decode_mel, use_reentrant=False)
            decode_waveform = partial(checkpoint, decode_waveform, use_reentrant=False)
        rate = pipe.sampling_rate
        if pipe.encodes_waveforms:
            decode_mel = None
            settings = {"sampling_rate": rate, "n_fft": _window_length(rate), "hop_length": rate // 100}
            settings["n_mels"] = OWN_MEL_BANDS
        else:
            settings = audio.mel_settings(pipe.vocoder.config)
        front_end = _front_end(latents.device, **settings)
        return cls(latents, decode_mel, decode_waveform, rate, front_end, num_samples)

    def of_waveform(self, waveform: torch.Tensor) -> "Sound":
        """Another sound, on the same device and with the same sampling rate and mel front end.

        Args:
            waveform: (B, samples) or (B, channels, samples), at this sound's sampling rate.
        """
        waveform = audio.as_samples(waveform)
        other = Sound(None, None, None, self.sampling_rate, self.front_end)
        waveform = waveform.mean(dim=1) if waveform.ndim == 3 else waveform
        other.waveform = waveform.to(self.front_end.window.device)
        return other

    @cached_property
    def _whole_mel(self) -> torch.Tensor:
        return self._decode_mel(self.latents)

    @cached_property
    def mel(self) -> torch.Tensor:
        """Log-mel (B, frames, n_mels)."""
        if self._decode_mel is None:
            return self.front_end(self.waveform)
        frames = None if self.num_samples is None else max(self.num_samples // self.front_end.hop_length, 1)
        return self._whole_mel[:, :frames]

    @cached_property
    def waveform(self) -> torch.Tensor:
        """Waveform (B, samples), the mean of the channels."""
        source = self.latents if self._decode_mel is None else self._whole_mel
        return self._decode_waveform(source)[:, : self.num_samples]

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.waveform if self.latents is None else self.latents)

    @property
    def num_frames(self) -> int:
        """Number of mel frames."""
        return self.readings["loudness"].shape[1] if self.readings else self.mel.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        device: Any = self.front_end.window.device
        return device

    @property
    def frames_per_second(self) -> float:
        """Mel frames per second."""
        return self.sampling_rate / self.front_end.hop_length

    @cached_property
    def mel_frequencies(self) -> torch.Tensor:
        """Center of gravity of each mel filter, in Hz, (n_mels,)."""
        bank = self.front_end.filterbank
        hertz = torch.linspace(0, self.sampling_rate / 2, len(bank), device=bank.device)
        return hertz @ bank / bank.sum(dim=0).clamp(min=1e-12)


class Recording:
    """A reference sound, from an audio file or a waveform. It is checked at once and resampled on use.

    Args:
        source: A file, or ((samples,) or (N, samples), sampling_rate).
        name: Name of the argument in error messages.

    Raises:
        TypeError: `source` is neither.
        ValueError: The recording is unreadable, empty, silent or not finite.
    """

    def __init__(self, source: Reference, name: str):
        if isinstance(source, (str, os.PathLike)):
            waveform, self.sampling_rate = audio.read_audio(source)
            waveform = waveform.mean(dim=0, keepdim=True)
        elif is_waveform_with_rate(source):
            waveform, self.sampling_rate = audio.as_samples(source[0], name).detach(), int(source[1])
            if self.sampling_rate < 1:
                raise ValueError(
                    f"`{name}` has the sampling rate {self.sampling_rate}; pass that of the waveform in Hz."
                )
            if waveform.ndim not in (1, 2) or waveform.shape[-1] == 0:
                raise ValueError(f"`{name}` has shape {tuple(waveform.shape)}; pass (samples,) or (N, samples).")
            waveform = waveform.reshape(-1, waveform.shape[-1])
        else:
            raise TypeError(f"`{name}` is a {type(source).__name__}; pass a file, or (waveform, sampling_rate).")
        if not waveform.isfinite().all():
            raise ValueError(f"`{name}` holds NaN or infinite samples; pass finite ones.")
        if (waveform.abs().amax(dim=-1) < SILENT_PEAK).any():
            raise ValueError(f"`{name}` is silent (peak below {SILENT_PEAK:g}); pass an audible recording.")
        self.waveform, self.name = waveform, name
        self._at_rate: dict[int, torch.Tensor] = {}

    def like(self, sound: Sound) -> Sound:
        """The recording at the sampling rate of `sound`, cut to its duration."""
        rate = sound.sampling_rate
        if rate not in self._at_rate:
            if rate != self.sampling_rate:
                logger.warning(f"`{self.name}` is resampled from {self.sampling_rate} to {rate} Hz, the model's rate.")
            self._at_rate[rate] = audio.resample(self.waveform, self.sampling_rate, rate)
        samples = sound.num_frames * sound.front_end.hop_length
        return sound.of_waveform(self._at_rate[rate][:, :samples])


def is_waveform_with_rate(source: Any) -> bool:
    """Whether `source` is a tuple (waveform, sampling_rate)."""
    if not (isinstance(source, tuple) and len(source) == 2):
        return False
    return isinstance(source[0], (torch.Tensor, np.ndarray)) and isinstance(source[1], numbers.Integral)


def repeat_rows(rows: torch.Tensor, sound: Sound, name: str) -> torch.Tensor:
    """Assign N rows of targets to a batch of B waveforms: each row to B / N neighbors, (N, ...) → (B, ...).

    This is the order of `num_waveforms_per_prompt`.

    Raises:
        ValueError: N does not divide B.
    """
    if sound.batch_size % len(rows):
        raise ValueError(
            f"`{name}` has {len(rows)} rows for {sound.batch_size} waveforms; pass one row, one per prompt or one per "
            "waveform."
        )
    return rows.repeat_interleave(sound.batch_size // len(rows), dim=0)


def to_model_audio(pipe: "SoundCTMPipeline", waveforms: torch.Tensor | np.ndarray, sampling_rate: int) -> torch.Tensor:
    """Convert waveforms to the sampling rate and number of channels of the model.

    Args:
        pipe: Determines the sampling rate and the channels.
        waveforms: (samples,), (N, samples) or (N, channels, samples).
        sampling_rate: Of `waveforms`, in Hz.

    Returns:
        (N, channels, samples), float32.

    Raises:
        ValueError: The waveforms have another shape or are empty or not finite, or the rate is not a positive integer.
    """
    waveforms = audio.as_samples(waveforms, "waveforms")
    if not 1 <= waveforms.ndim <= 3 or 0 in waveforms.shape or not waveforms.isfinite().all():
        raise ValueError(
            f"`waveforms` has shape {tuple(waveforms.shape)}; pass finite samples, (samples,), (N, samples) or "
            "(N, channels, samples), that are not empty."
        )
    if not isinstance(sampling_rate, numbers.Integral) or sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` is {sampling_rate!r}; pass the sampling rate of `waveforms` in Hz.")
    if waveforms.ndim < 3:
        waveforms = waveforms.reshape(-1, 1, waveforms.shape[-1])
    waveforms = audio.match_channels(waveforms, pipe.num_channels)
    if sampling_rate != pipe.sampling_rate:
        logger.warning(f"`waveforms` are resampled from {sampling_rate} to {pipe.sampling_rate} Hz, the model's rate.")
    return audio.resample(waveforms, sampling_rate, pipe.sampling_rate)


def output_gain(pipe: "SoundCTMPipeline", waveforms: torch.Tensor) -> torch.Tensor:
    """Factor that brings the model's version of given waveforms to their level, (N, channels, samples) → (N, 1, 1).

    Mel models encode and generate everything at one peak. Autoencoders of waveforms keep the level.
    """
    peak = waveforms.abs().amax(dim=(1, 2), keepdim=True)
    return torch.ones_like(peak) if pipe.encodes_waveforms else peak / audio.TRAINING_PEAK


def decode_waveform(pipe: "SoundCTMPipeline", latents: torch.Tensor) -> torch.Tensor:
    """Decode latents z_0 (B, C, time, ...) to waveforms (B, channels, samples), up to the end of the last position."""
    decoded = pipe.decode_latents(latents)
    return decoded if pipe.encodes_waveforms else pipe.mel_spectrogram_to_waveform(decoded)


@lru_cache(maxsize=4)
def _front_end(device: torch.device, **settings: Any) -> audio.LogMel:
    # Cached tensors that were made in inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        return audio.LogMel(**settings).to(device)


def _window_length(sampling_rate: int) -> int:
    """Largest power of two within 64 ms, the window length of the 16 kHz models."""
    return 2 ** int(math.log2(0.064 * sampling_rate))
