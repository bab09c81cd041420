"""The frozen models that turn waveforms and captions into what a network is trained on."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import transformers
from diffusers import ModelMixin
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..audio import LogMel, is_waveform_autoencoder, waveform_format
from ..pipelines.conditioning import PromptConditioning
from .clips import SILENCE_PEAK
from .latents import encode
from .prompts import encode_prompts

# `AutoModel` builds the T5 kinds with a decoder, and does not know CLAP's text tower.
_ENCODERS = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "t5gemma": "T5GemmaEncoderModel",
    "clap_text_model": "ClapTextModelWithProjection",
}


class AutoTextEncoder:
    """Load a text encoder by the `model_type` of its configuration, as `AutoModel` does.

    T5, mT5, UMT5 and T5Gemma are loaded without their decoders. A CLAP text tower is loaded with its projection, unless
    it was saved without. Other types are loaded by `AutoModel`.
    """

    @staticmethod
    def from_pretrained(name_or_folder: str | os.PathLike, **kwargs: Any) -> PreTrainedModel:
        """Load a text encoder from a folder or a Hub id, with the arguments of `AutoModel.from_pretrained`."""
        config = AutoConfig.from_pretrained(name_or_folder)
        name = _ENCODERS.get(config.model_type)
        if name is None:
            return AutoModel.from_pretrained(name_or_folder, **kwargs)
        if "ClapTextModel" in (config.architectures or []):
            name = "ClapTextModel"
        config.is_encoder_decoder = False
        return getattr(transformers, name).from_pretrained(name_or_folder, config=config, **kwargs)


@dataclass
class Encoders:
    """An autoencoder and text encoders, with what belongs to their use.

    Attributes:
        vae: Autoencoder of waveforms or of log-mels.
        conditioning: The text encoders, as the network requires them.
        vocoder_config: Configuration of the vocoder, which tells the mel front end. None stands for AudioLDM's.
    """

    vae: ModelMixin
    conditioning: PromptConditioning
    vocoder_config: Any = field(default=None, repr=False)

    @property
    def encodes_waveforms(self) -> bool:
        """Whether the autoencoder encodes waveforms, without mels and a vocoder."""
        return is_waveform_autoencoder(self.vae)

    @cached_property
    def front_end(self) -> LogMel | None:
        """The mel front end; None for an autoencoder of waveforms."""
        return None if self.encodes_waveforms else LogMel.for_vocoder(self.vocoder_config)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveforms in Hz."""
        return waveform_format(self.vae.config)[1] if self.encodes_waveforms else self.front_end.sampling_rate

    @property
    def num_channels(self) -> int:
        """Channels of the waveforms."""
        return waveform_format(self.vae.config)[0] if self.encodes_waveforms else 1

    def waveform_shape(self, num_samples: int) -> tuple[int, ...]:
        """Shape of a clip: (samples,) of a mono clip, else (channels, samples)."""
        return (num_samples,) if self.num_channels == 1 else (self.num_channels, num_samples)

    def latent_shape(self, num_samples: int) -> tuple[int, ...]:
        """Shape of the latents of a clip, without the batch dimension, by encoding a quiet one."""
        quiet = torch.full((1, *self.waveform_shape(num_samples)), SILENCE_PEAK)
        return tuple(self.encode_waveforms(quiet).shape[1:])

    @torch.no_grad()
    def encode_waveforms(
        self, waveforms: torch.Tensor, device: torch.device | str = "cpu", noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Encode waveforms (B, samples) or (B, channels, samples) on `device`, see `latents.encode`."""
        vae = self.vae.to(device).eval()
        return encode(vae, waveforms.to(device), self.front_end, noise)

    def encode_prompts(
        self, prompts: list[str], audio_length_in_s: float, device: torch.device | str = "cpu", batch_size: int = 64
    ) -> list[torch.Tensor]:
        """Encode prompts on `device` without padding: (tokens, width) each, see `prompts.encode_prompts`."""
        rows: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
        for index, states in encode_prompts(
            self.conditioning, prompts, audio_length_in_s=audio_length_in_s, batch_size=batch_size, device=device
        ):
            rows[index] = states
        return rows
