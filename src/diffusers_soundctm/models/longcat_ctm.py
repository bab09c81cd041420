"""The SoundCTM student of LongCat-AudioDiT: its flow-matching transformer, conditioned on s and ω as well."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import LongCatAudioDiTTransformer
from diffusers.models.transformers.transformer_longcat_audio_dit import (
    AudioDiTBlock,
    AudioDiTEmbedder,
    AudioDiTTimestepEmbedding,
)
from torch import nn

from .ctm_mixin import CTMTransformerMixin, TransformerMixin


class LongCatNetwork(TransformerMixin, LongCatAudioDiTTransformer):
    """LongCat-AudioDiT's network with the arguments of a UNet. F is the velocity z_0 − ε.

    The padding of a prompt has no effect: the stock text convolutions see it, and normalize over it.

    Args:
        sample_size: Latent positions of the default length. 117 of them last 10 s.
        kwargs: Arguments of `LongCatAudioDiTTransformer`.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["_Block"]  # noqa: RUF012 (diffusers' own names and types)
    _repeated_blocks = ["_Block"]  # noqa: RUF012

    def __init__(self, sample_size: int = 117, **kwargs: Any):
        super().__init__(**kwargs)
        self.register_to_config(sample_size=sample_size)
        self.time_embed = _TimeMLP(self.config.dit_dim)
        if self.config.text_conv:
            self.text_embed = _EmbedderWithMask(self.config.dit_text_dim, self.config.dit_dim)
            self.text_conv_layer = _TextConvolutions(*self.text_conv_layer)
        block: Any
        for block in self.blocks:
            block.__class__ = _Block

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        """The blocks, whose outputs are the features of the network."""
        return self.blocks

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        return self.time_embed.time_embed(timestep)

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        text, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask
        sample = sample.transpose(1, 2)
        no_voice = torch.zeros_like(sample)  # latents of the audio that a voice is cloned from
        output = LongCatAudioDiTTransformer.forward(
            self, sample, text, mask, features, latent_cond=no_voice, return_dict=False
        )
        return output[0].transpose(1, 2)


class CTMLongCatAudioDiTTransformer(CTMTransformerMixin, LongCatNetwork):
    """The SoundCTM student of LongCat-AudioDiT. The modulation of all blocks also depends on s and ω.

        embedding = mean(text) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        kwargs: `sample_size`, and arguments of `LongCatAudioDiTTransformer`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _projection = "time_embed.time_mlp"
    _new_parameters = ("time_embed.time_mlp.target_proj.", "time_embed.time_mlp.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "inverted_flow",
        branch_init: str = "reference",
        conditioning: str = "longcat",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(prediction_type, conditioning, branch_init, guidance_scale_range, **kwargs)


class _TimeMLP(AudioDiTTimestepEmbedding):
    """The MLP alone. The stock forward would round a timestep to its own dtype before the sinusoid."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.time_mlp(features)


class _EmbedderWithMask(AudioDiTEmbedder):
    """Text tokens, and their mask as one more channel for `_TextConvolutions`."""

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(hidden_states, mask)
        return torch.cat([embedded, mask[..., None].to(embedded.dtype)], dim=-1)


class _TextConvolutions(nn.Sequential):
    """The ConvNeXt V2 blocks on tokens (B, L, dim + 1) whose last channel is the mask, as if there were no padding."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden_states, mask = features[..., :-1], features[..., -1:]
        block: Any
        for block in self:
            update = block.dwconv(hidden_states.transpose(1, 2)).transpose(1, 2)
            update = block.act(block.pwconv1(block.norm(update)))
            hidden_states = (hidden_states + block.pwconv2(block.grn(update * mask))) * mask
        return hidden_states


class _Block(AudioDiTBlock):
    """A block with gradient checkpointing, which the stock network lacks."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Any

    def forward(self, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(partial(super().forward, **kwargs))
        return super().forward(**kwargs)
