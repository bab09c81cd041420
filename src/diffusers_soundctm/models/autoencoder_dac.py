"""Waveform autoencoder of the 44.1 kHz SoundCTM: DAC's convolutions with a Gaussian bottleneck instead of codebooks."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import AutoencoderMixin, DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn
from transformers import DacConfig
from transformers.models.dac.modeling_dac import DacDecoder, DacEncoder


class AutoencoderDAC(ModelMixin, AutoencoderMixin, ConfigMixin):
    """Autoencoder of waveforms (B, 1, samples) with latents (B, latent_channels, samples / hop_length).

        encode: N(μ, σ²), [μ | ln σ²] = quant_conv(encoder(x))          decode: decoder(post_quant_conv(z))

    Encoder and decoder are those of DAC in transformers; the others are 1×1 convolutions. diffusers'
    `AutoencoderOobleck` differs: it has another Snake activation, no 1×1 convolutions and no final tanh.

    The diffusion network sees scaling_factor·(z − latents_mean) / latents_std per channel. The pipeline computes that,
    not this class.

    Args:
        encoder_hidden_size: Channels of the encoder's first convolution. They double with every block.
        downsampling_ratios: Stride of each block of the encoder, even numbers. Their product is the hop length.
        decoder_hidden_size: Channels of the decoder's first convolution. They halve with every block.
        upsampling_ratios: Stride of each block of the decoder. None reverses `downsampling_ratios`.
        latent_channels: Channels of the latents.
        sampling_rate: In Hz.
        scaling_factor: Factor of the normalized latents.
        latents_mean: Mean of each channel. None means 0.
        latents_std: Standard deviation of each channel. None means 1.

    Raises:
        ValueError: The ratios are odd or have different products.
    """

    __module__ = "diffusers_soundctm"
    config: Any  # diffusers gives it no useful type

    @register_to_config
    def __init__(
        self,
        encoder_hidden_size: int = 64,
        downsampling_ratios: Sequence[int] = (2, 4, 8, 16),
        decoder_hidden_size: int = 1536,
        upsampling_ratios: Sequence[int] | None = None,
        latent_channels: int = 64,
        sampling_rate: int = 44100,
        scaling_factor: float = 0.5,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ):
        super().__init__()
        upsampling_ratios = list(upsampling_ratios or downsampling_ratios[::-1])
        odd = [ratio for ratio in (*downsampling_ratios, *upsampling_ratios) if ratio % 2]
        if odd or math.prod(upsampling_ratios) != math.prod(downsampling_ratios):
            raise ValueError(
                f"`downsampling_ratios` {list(downsampling_ratios)} and `upsampling_ratios` {upsampling_ratios} "
                "do not match; pass even numbers with the same product."
            )
        config = DacConfig(
            encoder_hidden_size=encoder_hidden_size,
            downsampling_ratios=list(downsampling_ratios),
            decoder_hidden_size=decoder_hidden_size,
        )
        config.upsampling_ratios = upsampling_ratios
        config.hidden_size = 2 * latent_channels  # read by the encoder as its output channels ...
        self.encoder = DacEncoder(config)
        config.hidden_size = latent_channels  # ... and by the decoder as its input channels
        self.decoder = DacDecoder(config)
        self.quant_conv = nn.Conv1d(2 * latent_channels, 2 * latent_channels, 1)
        self.post_quant_conv = nn.Conv1d(latent_channels, latent_channels, 1)
        self.use_slicing = self.use_tiling = False
        self.tile_length = 128  # latent frames decoded at once with `enable_tiling()`

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return math.prod(self.config.downsampling_ratios)

    @property
    def decoder_context(self) -> int:
        """Largest number of latent frames on each side that a decoded sample depends on."""
        frames, rate = 3.0, 1  # the first convolution
        for ratio in self.config.upsampling_ratios or self.config.downsampling_ratios[::-1]:
            frames += 1 / rate  # the transposed convolution, two strides long
            rate *= ratio
            frames += 3 * (1 + 3 + 9) / rate  # three residual units, 7 wide with dilations 1, 3, 9
        return math.ceil(frames + 3 / rate)

    @apply_forward_hook
    def encode(
        self, waveform: torch.Tensor, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode a waveform, padded with silence to a whole latent frame.

        Args:
            waveform: (B, 1, samples).
            return_dict: Whether to return an output with `.latent_dist` instead of a tuple.

        Returns:
            The distribution of the latents (B, latent_channels, frames).

        Raises:
            ValueError: `waveform` has another shape.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 1:
            raise ValueError(f"`waveform` has shape {tuple(waveform.shape)}; pass (batch, 1, samples).")
        waveform = nn.functional.pad(waveform, (0, -waveform.shape[-1] % self.hop_length))
        parts = waveform.split(1) if self.use_slicing else (waveform,)
        moments = torch.cat([self.quant_conv(self.encoder(part)) for part in parts])
        distribution = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    @apply_forward_hook
    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Decode latents to a waveform.

        After `enable_slicing()`, one waveform is decoded at a time. After `enable_tiling()`, `tile_length` frames are
        decoded at a time, each with the surrounding frames that it depends on. Both give the same waveform in less
        memory.

        Args:
            latents: (B, latent_channels, frames).
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            (B, 1, frames·hop_length), within ±1.
        """
        parts = latents.split(1) if self.use_slicing else (latents,)
        waveform = torch.cat([self._decode(part) for part in parts])
        return DecoderOutput(sample=waveform) if return_dict else (waveform,)

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        frames = latents.shape[-1]
        if not self.use_tiling or frames <= self.tile_length:
            return self.decoder(self.post_quant_conv(latents))
        tiles = []
        for start in range(0, frames, self.tile_length):
            end = min(start + self.tile_length, frames)
            before = min(start, self.decoder_context)
            tile = latents[..., start - before : end + self.decoder_context]
            decoded = self.decoder(self.post_quant_conv(tile))
            tiles.append(decoded[..., before * self.hop_length : (before + end - start) * self.hop_length])
        return torch.cat(tiles, dim=-1)

    def forward(self, waveform: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        """Encode and decode a waveform (B, 1, samples), and cut the result to its length."""
        (posterior,) = self.encode(waveform, return_dict=False)
        latents = posterior.mode()
        decoded = self.decode(latents, return_dict=False)[0][..., : waveform.shape[-1]]
        return DecoderOutput(sample=decoded) if return_dict else (decoded,)
