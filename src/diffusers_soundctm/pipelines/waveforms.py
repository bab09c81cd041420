"""From waveforms to latents and back, and how long they are."""

import math
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils import logging

from .. import audio
from ..call_checks import MAX_AUDIO_LENGTH_IN_S
from ..data.latents import denormalize_latents, encode
from .conditioning import PromptConditioning, latent_channels

logger = logging.get_logger(__name__)


class WaveformMixin:
    """The part of the pipeline that knows the autoencoder and the vocoder.

    A mel autoencoder maps log-mels (B, 1, frames, n_mels) to latents (B, C, time, width), and a vocoder maps log-mels
    to waveforms. A waveform autoencoder maps waveforms (B, channels, samples) to latents (B, C, time).
    """

    if TYPE_CHECKING:  # of the pipeline
        vae: Any
        vocoder: Any
        denoiser: Any
        _denoiser_config: Any
        conditioning: PromptConditioning
        _execution_device: torch.device

    @property
    def encodes_waveforms(self) -> bool:
        """Whether the autoencoder maps waveforms, not log-mels, to latents."""
        return audio.is_waveform_autoencoder(self.vae)

    @property
    def has_decoder(self) -> bool:
        """Whether the pipeline can decode latents to waveforms."""
        return self.vae is not None and (self.vocoder is not None or self.encodes_waveforms)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the generated waveforms, in Hz."""
        if self.encodes_waveforms:
            return audio.waveform_format(self.vae.config)[1]
        return self.vocoder.config.sampling_rate

    @property
    def num_channels(self) -> int:
        """Number of channels of the generated waveforms."""
        return audio.waveform_format(self.vae.config)[0] if self.encodes_waveforms else 1

    @property
    def hop_length(self) -> int:
        """Samples per mel frame, or per latent position of a waveform autoencoder."""
        if self.encodes_waveforms:
            return audio.waveform_hop_length(self.vae.config)
        hop_length = getattr(self.vocoder.config, "hop_length", None)
        return hop_length or math.prod(self.vocoder.config.upsample_rates)

    @property
    def vae_scale_factor(self) -> int:
        """Mel frames, and mel bands, per latent position; 1 for a waveform autoencoder."""
        return 1 if self.encodes_waveforms else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def max_audio_length_in_s(self) -> float:
        """Longest waveform that a call generates, in seconds.

        It is 30 s, or what the model's condition can express if that is a length (Stable Audio 3), or for a model with
        a fixed number of latent positions (Stable Audio) their duration. It is infinite if the autoencoder, which
        defines that duration, is missing.
        """
        if not self.conditioning.fixed_length:
            return self.conditioning.max_audio_length_in_s or MAX_AUDIO_LENGTH_IN_S
        return self.default_audio_length_in_s if self.has_decoder else math.inf

    @property
    def default_audio_length_in_s(self) -> float:
        """Length that the denoiser was trained with, from `sample_size` of its config, in seconds.

        Raises:
            ValueError: the config has no `sample_size`, or the pipeline has no decoder.
        """
        size = self._denoiser_config.sample_size
        if not self.has_decoder:
            raise ValueError(
                "The pipeline has no decoder, which defines the length of a latent position in seconds; load the `vae` "
                "(and the `vocoder`, if the model has one), or pass `audio_length_in_s`."
            )
        if size is None:
            raise ValueError("The denoiser's config has no `sample_size`; pass `audio_length_in_s`.")
        time = size[0] if isinstance(size, (list, tuple)) else size
        return time * self.vae_scale_factor * self.hop_length / self.sampling_rate

    def latent_shape(self, num_samples: int) -> tuple[int, ...]:
        """Shape of the latents of a waveform, without the batch dimension.

        Args:
            num_samples: length of the waveform, in samples.

        Returns:
            (C, time, width), time rounded up to a multiple that the UNet can downsample, or (C, time) for a waveform
            autoencoder. The time of Stable Audio is fixed: the model is conditioned on the duration instead.
        """
        channels = latent_channels(self.denoiser.config)
        if self.conditioning.fixed_length:
            return channels, self.denoiser.config.sample_size
        frames = math.ceil(num_samples / self.hop_length)
        if self.encodes_waveforms:
            return channels, frames
        multiple = 2**self.denoiser.num_upsamplers
        time = math.ceil(frames / self.vae_scale_factor / multiple) * multiple
        return channels, time, self.vocoder.config.model_in_dim // self.vae_scale_factor

    def encode_audio(
        self, waveforms: torch.Tensor, sampling_rate: int, num_samples: int, device: torch.device | None = None
    ) -> torch.Tensor:
        """Encode waveforms to latents z_0.

        Waveforms are resampled, cut to `num_samples`, and padded with silence to the end of the last latent position.
        For a mel autoencoder they are mixed to mono and scaled to the peak of its training data. A waveform
        autoencoder gets its own number of channels, at the given level.

        Args:
            waveforms: (B, channels, samples), full scale 1, see `audio.as_samples`.
            sampling_rate: sampling rate of `waveforms`, in Hz.
            num_samples: length to encode, in samples at the model's sampling rate.
            device: device of the autoencoder.

        Returns:
            z_0 (B, C, time, width) or (B, C, time), float32.

        Raises:
            ValueError: `waveforms` have another shape, or are empty or not finite.
        """
        device = device or self._execution_device
        length = self.latent_shape(num_samples)[1] * self.vae_scale_factor * self.hop_length
        waveforms = audio.as_samples(waveforms, "waveforms")
        if waveforms.ndim != 3 or 0 in waveforms.shape or not waveforms.isfinite().all():
            raise ValueError(
                f"`waveforms` has shape {tuple(waveforms.shape)}; pass finite samples (batch, channels, samples) that "
                "are not empty."
            )
        waveforms = audio.match_channels(waveforms, self.num_channels)
        waveforms = audio.resample(waveforms, sampling_rate, self.sampling_rate)[..., :num_samples]
        waveforms = torch.nn.functional.pad(waveforms, (0, length - waveforms.shape[-1]))
        front_end = None if self.encodes_waveforms else audio.LogMel.for_vocoder(self.vocoder.config)
        return encode(self.vae, waveforms.to(device), front_end)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to log-mels, or with a waveform autoencoder to waveforms. Differentiable.

        Args:
            latents: z_0, (B, C, time, width) or (B, C, time).

        Returns:
            Log-mels (B, 1, frames, n_mels), or waveforms (B, channels, samples), float32.
        """
        decoded = self.vae.decode(denormalize_latents(self.vae, latents).to(self.vae.dtype)).sample
        return decoded.float() if self.encodes_waveforms else decoded

    def mel_spectrogram_to_waveform(self, mel_spectrogram: torch.Tensor) -> torch.Tensor:
        """Convert log-mels (B, 1, frames, n_mels) to waveforms (B, 1, samples), float32. Differentiable."""
        return self.vocoder(mel_spectrogram.squeeze(1).to(self.vocoder.dtype)).float()[:, None]

    def latents_to_waveform(self, latents: torch.Tensor, num_samples: int) -> torch.Tensor:
        """Decode latents z_0 to waveforms (B, channels, num_samples), float32 and within full scale.

        A waveform whose peak exceeds 1 is scaled down as a whole.
        """
        return self._limited_waveform(latents, num_samples)[0]

    def _limited_waveform(self, latents: torch.Tensor, num_samples: int) -> tuple[torch.Tensor, list[float]]:
        """Return waveforms within full scale, and by how many dB each was turned down."""
        waveforms = self.decode_latents(latents)
        if not self.encodes_waveforms:
            waveforms = self.mel_spectrogram_to_waveform(waveforms)
        waveforms = waveforms[..., :num_samples]
        if not waveforms.isfinite().all():
            logger.warning(
                "The audio holds NaN or infinite samples, which float16 gives where values overflow; load the model in "
                "float32 or bfloat16."
            )
        whole = waveforms.flatten(1)  # channels keep their balance
        return audio.limit_peak(whole).reshape(waveforms.shape), audio.excess_db(whole).tolist()
