"""What objectives measure: latents, and the log-mel and waveform they decode to, each decoded when first asked for."""

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


class Sound:
    """A batch of sounds, seen as latents, log-mels or waveforms; differentiable from each to the next.

    Attributes:
        latents: z_0 (B, C, time, width); None for a sound that was recorded.
        mel: log-mel (B, frames, n_mels), natural logarithm.
        waveform: (B, samples), full scale 1, float32.
        sampling_rate: samples a second.
        front_end: the `LogMel` that takes this model's waveforms to its mels.

    Args:
        decode_mel, decode_waveform: latents → log-mel and log-mel → waveform, all float32.
        num_samples: where the sound ends; what the latents hold beyond is not looked at. None: at their end.
    """

    def __init__(
        self,
        latents: torch.Tensor | None,
        decode_mel: Callable[[torch.Tensor], torch.Tensor],
        decode_waveform: Callable[[torch.Tensor], torch.Tensor],
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
        """What `pipe` decodes `latents` (B, C, time, width) to.

        With `checkpointing`, the backward pass runs the decoders again instead of keeping their activations.

        Raises:
            ValueError: `pipe` has no autoencoder or no vocoder.
        """
        for name in ("vae", "vocoder"):
            if getattr(pipe, name) is None:
                raise ValueError(f"The pipeline has no `{name}`; control listens to the decoded sound: load it.")

        def decode_mel(latents: torch.Tensor) -> torch.Tensor:
            return pipe.decode_latents(latents)[:, 0].float()

        def decode_waveform(mel: torch.Tensor) -> torch.Tensor:
            return pipe.mel_spectrogram_to_waveform(mel[:, None].to(pipe.vae.dtype))[:, 0]

        if checkpointing:
            decode_mel = partial(checkpoint, decode_mel, use_reentrant=False)
            decode_waveform = partial(checkpoint, decode_waveform, use_reentrant=False)
        front_end = _front_end(pipe.sampling_rate, pipe.hop_length, pipe.vocoder.config.model_in_dim, latents.device)
        return cls(latents, decode_mel, decode_waveform, pipe.sampling_rate, front_end, num_samples)

    def of_waveform(self, waveform: torch.Tensor) -> "Sound":
        """Another sound (B, samples) at the rate, on the device and behind the mel front end of this one."""
        other = Sound(None, None, None, self.sampling_rate, self.front_end)
        other.waveform = waveform.to(self.front_end.window.device)
        other.mel = self.front_end(other.waveform)
        return other

    @cached_property
    def _whole_mel(self) -> torch.Tensor:
        return self._decode_mel(self.latents)

    @cached_property
    def mel(self) -> torch.Tensor:
        frames = None if self.num_samples is None else max(self.num_samples // self.front_end.hop_length, 1)
        return self._whole_mel[:, :frames]

    @cached_property
    def waveform(self) -> torch.Tensor:
        return self._decode_waveform(self._whole_mel)[:, : self.num_samples]

    @property
    def batch_size(self) -> int:
        return len(self.mel if self.latents is None else self.latents)

    @property
    def frames_per_second(self) -> float:
        return self.sampling_rate / self.front_end.hop_length

    @cached_property
    def mel_frequencies(self) -> torch.Tensor:
        """Centre of gravity of each mel filter in Hz, (n_mels,)."""
        bank = self.front_end.filterbank
        hertz = torch.linspace(0, self.sampling_rate / 2, len(bank), device=bank.device)
        return hertz @ bank / bank.sum(dim=0).clamp(min=1e-12)


def mono_at_rate(waveforms: torch.Tensor | np.ndarray, sampling_rate: int, to_rate: int) -> torch.Tensor:
    """A given sound, (samples,), (N, samples) or (N, channels, samples), as float32 (N, samples) at `to_rate`.

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
    waveforms = waveforms.mean(dim=1) if waveforms.ndim == 3 else waveforms.reshape(-1, waveforms.shape[-1])
    if sampling_rate != to_rate:
        logger.warning(f"`waveforms` are resampled from {sampling_rate} to {to_rate} Hz, the model's rate.")
    return audio.resample(waveforms, sampling_rate, to_rate)


def decode_waveform(pipe: "SoundCTMPipeline", latents: torch.Tensor) -> torch.Tensor:
    """Latents z_0 (B, C, time, width) → waveforms (B, 1, samples), to the end of the last latent position."""
    return pipe.mel_spectrogram_to_waveform(pipe.decode_latents(latents))


@lru_cache(maxsize=4)
def _front_end(sampling_rate: int, hop_length: int, n_mels: int, device: torch.device) -> audio.LogMel:
    # Cached tensors made in inference mode could never take part in a gradient.
    with torch.inference_mode(False):
        return audio.LogMel(sampling_rate=sampling_rate, hop_length=hop_length, n_mels=n_mels).to(device)
