"""What objectives measure: latents, and the log-mel and waveform they decode to, each decoded when first asked for."""

import math
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.utils import logging
from torch.utils.checkpoint import checkpoint

from .. import audio

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

logger = logging.get_logger(__name__)

OWN_MEL_BANDS = 64  # of what is measured where the model itself has no mels


class Sound:
    """A batch of sounds, seen as latents, log-mels or waveforms; differentiable from each to the next.

    Attributes:
        latents: z_0 (B, C, time, width), or (B, C, time) of waveforms; None for a sound that was recorded.
        mel: log-mel (B, frames, n_mels), natural logarithm; of the waveform where the model has no mels of its own.
        waveform: (B, samples), full scale 1, float32; the mean of the channels.
        sampling_rate: samples a second.
        front_end: the `LogMel` that takes this model's waveforms to its mels.

    Args:
        decode_mel, decode_waveform: latents → log-mel and log-mel → waveform, all float32. Without `decode_mel`,
            latents → waveform.
        num_samples: where the sound ends; what the latents hold beyond is not looked at. None: at their end.
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
        self._decode_mel, self._decode_waveform = decode_mel, decode_waveform

    @classmethod
    def of_latents(
        cls,
        pipe: "SoundCTMPipeline",
        latents: torch.Tensor,
        num_samples: int | None = None,
        checkpointing: bool = False,
    ) -> "Sound":
        """What `pipe` decodes `latents` (B, C, time, width) or (B, C, time) to.

        With `checkpointing`, the backward pass runs the decoders again instead of keeping their activations.

        Raises:
            ValueError: `pipe` has no autoencoder or no vocoder.
        """
        if not pipe.has_decoder:
            missing = "vae" if pipe.vae is None else "vocoder"
            raise ValueError(f"The pipeline has no `{missing}`; control listens to the decoded sound: load it.")

        def decode_mel(latents: torch.Tensor) -> torch.Tensor:
            return pipe.decode_latents(latents)[:, 0].float()

        def decode_waveform(mel_or_latents: torch.Tensor) -> torch.Tensor:
            if pipe.encodes_waveforms:
                return pipe.decode_latents(mel_or_latents).mean(dim=1)
            return pipe.mel_spectrogram_to_waveform(mel_or_latents[:, None].to(pipe.vae.dtype))[:, 0]

        if checkpointing:
            decode_mel = partial(checkpoint, decode_mel, use_reentrant=False)
            decode_waveform = partial(checkpoint, decode_waveform, use_reentrant=False)
        rate = pipe.sampling_rate
        if pipe.encodes_waveforms:
            decode_mel = None
            front_end = _front_end(rate, rate // 100, OWN_MEL_BANDS, latents.device, _window_length(rate))
        else:
            front_end = _front_end(rate, pipe.hop_length, pipe.vocoder.config.model_in_dim, latents.device)
        return cls(latents, decode_mel, decode_waveform, rate, front_end, num_samples)

    def of_waveform(self, waveform: torch.Tensor) -> "Sound":
        """Another sound, (B, samples) or (B, channels, samples), at the rate, on the device and behind the mel front
        end of this one.
        """
        other = Sound(None, None, None, self.sampling_rate, self.front_end)
        waveform = waveform.mean(dim=1) if waveform.ndim == 3 else waveform
        other.waveform = waveform.to(self.front_end.window.device)
        return other

    @cached_property
    def _whole_mel(self) -> torch.Tensor:
        return self._decode_mel(self.latents)

    @cached_property
    def mel(self) -> torch.Tensor:
        if self._decode_mel is None:
            return self.front_end(self.waveform)
        frames = None if self.num_samples is None else max(self.num_samples // self.front_end.hop_length, 1)
        return self._whole_mel[:, :frames]

    @cached_property
    def waveform(self) -> torch.Tensor:
        source = self.latents if self._decode_mel is None else self._whole_mel
        return self._decode_waveform(source)[:, : self.num_samples]

    @property
    def batch_size(self) -> int:
        return len(self.waveform if self.latents is None else self.latents)

    @property
    def frames_per_second(self) -> float:
        return self.sampling_rate / self.front_end.hop_length

    @cached_property
    def mel_frequencies(self) -> torch.Tensor:
        """Centre of gravity of each mel filter in Hz, (n_mels,)."""
        bank = self.front_end.filterbank
        hertz = torch.linspace(0, self.sampling_rate / 2, len(bank), device=bank.device)
        return hertz @ bank / bank.sum(dim=0).clamp(min=1e-12)


def as_heard_by(pipe: "SoundCTMPipeline", waveforms: torch.Tensor | np.ndarray, sampling_rate: int) -> torch.Tensor:
    """A given sound, (samples,), (N, samples) or (N, channels, samples), at the model's rate and with its channels:
    float32 (N, channels, samples).

    Raises:
        ValueError: another shape, samples that are not finite, or no rate.
    """
    waveforms = torch.as_tensor(waveforms).float()
    if not 1 <= waveforms.ndim <= 3 or 0 in waveforms.shape or not waveforms.isfinite().all():
        raise ValueError(
            f"`waveforms` of shape {tuple(waveforms.shape)} must be finite, (samples,), (N, samples) or "
            "(N, channels, samples), and not empty."
        )
    if not isinstance(sampling_rate, int) or sampling_rate <= 0:
        raise ValueError(f"`sampling_rate` is {sampling_rate!r}; give the samples a second of `waveforms`.")
    if waveforms.ndim < 3:
        waveforms = waveforms.reshape(-1, 1, waveforms.shape[-1])
    waveforms = audio.match_channels(waveforms, pipe.num_channels)
    if sampling_rate != pipe.sampling_rate:
        logger.warning(f"`waveforms` are resampled from {sampling_rate} to {pipe.sampling_rate} Hz, the model's rate.")
    return audio.resample(waveforms, sampling_rate, pipe.sampling_rate)


def gain_over(pipe: "SoundCTMPipeline", waveforms: torch.Tensor) -> torch.Tensor:
    """What the model's rendering of sounds (N, channels, samples) is to be multiplied by to be at their level,
    (N, 1, 1): models of mels hear and make everything at one peak, those of waveforms at its own.
    """
    peak = waveforms.abs().amax(dim=(1, 2), keepdim=True)
    return torch.ones_like(peak) if pipe.encodes_waveforms else peak / audio.TRAINING_PEAK


def decode_waveform(pipe: "SoundCTMPipeline", latents: torch.Tensor) -> torch.Tensor:
    """Latents z_0 (B, C, time, width) → waveforms (B, channels, samples), to the end of the last latent position."""
    decoded = pipe.decode_latents(latents)
    return decoded if pipe.encodes_waveforms else pipe.mel_spectrogram_to_waveform(decoded)


@lru_cache(maxsize=4)
def _front_end(
    sampling_rate: int, hop_length: int, n_mels: int, device: torch.device, n_fft: int = 1024
) -> audio.LogMel:
    # Cached tensors made in inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        return audio.LogMel(sampling_rate, n_fft, hop_length, n_mels).to(device)


def _window_length(sampling_rate: int) -> int:
    """Largest power of two within 64 ms, the window of the 16 kHz models."""
    return 2 ** int(math.log2(0.064 * sampling_rate))
