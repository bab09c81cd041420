"""The SoundCTM student of LongCat-AudioDiT: its flow-matching transformer, conditioned on s and ω as well."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers import LongCatAudioDiTTransformer
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_longcat_audio_dit import (
    AudioDiTBlock,
    AudioDiTEmbedder,
    AudioDiTTimestepEmbedding,
)
from torch import nn

from ..preconditioning import c_noise, check_prediction_type
from .ctm_mixin import FromTeacherMixin
from .embeddings import CTMTimestepProjection, split_condition
from .transformer_ctm import per_sample_timestep


class LongCatNetwork(FromTeacherMixin, LongCatAudioDiTTransformer):
    """LongCat-AudioDiT's network with the arguments of a UNet.

    The timestep is embedded in float32. The padding of a prompt has no effect: the stock text convolutions see it, and
    normalize over it.

    Args:
        sample_size: Latent positions of the default length. 117 of them last 10 s.
        kwargs: Arguments of `LongCatAudioDiTTransformer`.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["_Block"]  # noqa: RUF012 (diffusers' own name and type)

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

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the teacher, the velocity z_0 − ε.

        Args:
            sample: c_in(t)·z_t, (B, latent_dim, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text tokens, (B, L, dit_text_dim). Zeros are the empty prompt.
            encoder_attention_mask: Boolean (B, L), True for tokens to attend to. None attends to all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, latent_dim, frames).
        """
        features = self._features(per_sample_timestep(timestep, sample))
        return self._predict(sample, features, encoder_hidden_states, encoder_attention_mask, return_dict)

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        """φ of timesteps (B,), float32 (B, features)."""
        return self.time_embed.time_embed(timestep.float())

    def _predict(
        self,
        sample: torch.Tensor,
        features: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
        return_dict: bool,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Run the stock forward on the input of the time MLP, `features` (B, features), in place of a timestep."""
        if encoder_attention_mask is None:
            encoder_attention_mask = encoder_hidden_states.new_ones(encoder_hidden_states.shape[:2])
        sample = sample.transpose(1, 2)
        (output,) = super().forward(
            sample,
            encoder_hidden_states,
            encoder_attention_mask.bool(),
            features,
            latent_cond=torch.zeros_like(sample),  # of the audio that a voice is cloned from: none
            return_dict=False,
        )
        output = output.transpose(1, 2)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)


class CTMLongCatAudioDiTTransformer(LongCatNetwork, PeftAdapterMixin):
    """The SoundCTM student of LongCat-AudioDiT. The modulation of all blocks also depends on s and ω.

        embedding = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω) + mean(text)

    Args:
        prediction_type: What F predicts, equal to the `CTMScheduler`'s.
        branch_init: "reference" has MLP_s = MLP and ψ(1000·ω) without W, like the released 44.1 kHz SoundCTM. "zero"
            has its own MLP_s and W, initialized with zeros, so that training starts exactly at the teacher.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
        kwargs: `sample_size`, and arguments of `LongCatAudioDiTTransformer`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _new_parameters = ("time_embed.time_mlp.target_proj.", "time_embed.time_mlp.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "inverted_flow",
        branch_init: str = "reference",
        conditioning: str = "longcat",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_prediction_type(prediction_type)
        self.register_to_config(
            prediction_type=prediction_type,
            branch_init=branch_init,
            conditioning=conditioning,
            guidance_scale_range=list(guidance_scale_range),
        )
        width = self.time_embed.time_embed.dim
        self.time_embed.time_mlp = CTMTimestepProjection(width, self.config.dit_dim, branch_init)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the student.

        Args:
            sample: c_in(t)·z_t, (B, latent_dim, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text tokens, (B, L, dit_text_dim). Zeros are the empty prompt.
            timestep_cond: float32 (B, 2), the target noise level s and the guidance scale ω of each sample, or (B, 1)
                with s alone, which omits the ω term.
            encoder_attention_mask: Boolean (B, L), True for tokens to attend to. None attends to all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, latent_dim, frames).

        Raises:
            ValueError: `timestep_cond` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(timestep_cond)
        time = self._features(per_sample_timestep(timestep, sample))
        target = self._features(c_noise(target_sigma, self.config.prediction_type))
        features = torch.cat([time, target, self.time_embed.time_mlp.guidance(guidance_scale, target)], dim=-1)
        return self._predict(sample, features, encoder_hidden_states, encoder_attention_mask, return_dict)


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
