"""The transformers of the 44.1 kHz SoundCTM, teacher and student, built on Stable Audio's."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn
from typing_extensions import Self

from ..preconditioning import c_noise
from .ctm_mixin import FromTeacherMixin
from .embeddings import FourierFeatures, guidance_embedding, split_condition


class LatentTransformer(FromTeacherMixin, StableAudioDiTModel):
    """diffusers' `StableAudioDiTModel` with the arguments of a UNet. It computes its own rotary embedding."""

    _no_split_modules = ["StableAudioDiTBlock"]  # noqa: RUF012 (diffusers' own names and types)
    _repeated_blocks = ["StableAudioDiTBlock"]  # noqa: RUF012
    _min_rotary_dim = 0

    def _predict(
        self,
        sample: torch.Tensor,
        features: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Run the stock forward on the output of `time_proj`, `features` (B, features), in place of a timestep."""
        rotary_embedding = get_1d_rotary_pos_embed(
            max(self.config.attention_head_dim // 2, self._min_rotary_dim),
            torch.arange(sample.shape[-1] + 1, device=sample.device),
            use_real=True,
            repeat_interleave_real=False,
        )
        (sample,) = super().forward(
            sample,
            features,
            encoder_hidden_states,
            global_hidden_states,
            rotary_embedding=rotary_embedding,
            encoder_attention_mask=None if encoder_attention_mask is None else encoder_attention_mask.bool(),
            return_dict=False,
        )
        # The stock output class emits a deprecation warning, which breaks the graph of a compiled model.
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


class AudioDiTModel(LatentTransformer):
    """The 44.1 kHz SoundCTM teacher: diffusers' `StableAudioDiTModel` with the arguments of a UNet.

    One token precedes the sequence: MLP(φ(c_noise(t))), where φ are the Fourier features of Stable Audio. There is no
    other global condition.

    Args:
        kwargs: Arguments of `StableAudioDiTModel`. `global_states_input_dim` has no effect.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _keep_in_fp32_modules = ["fourier"]  # noqa: RUF012 (diffusers' own name and type)
    _min_rotary_dim = 32

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # The stock forward rounds the timestep to its own dtype before `time_proj`, so features are computed here.
        self.fourier = FourierFeatures(self.config.time_proj_dim // 2)
        self.time_proj = nn.Identity()
        self.global_proj = nn.Identity()
        block: Any
        for block in self.transformer_blocks:  # zero in the released checkpoint
            for norm in (block.norm1, block.norm2, block.norm3):
                norm.bias.requires_grad_(False)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the teacher.

        Args:
            sample: c_in(t)·z_t, (B, in_channels, frames).
            timestep: c_noise(t) = ln(t)/4, scalar or (B,).
            encoder_hidden_states: Prompt tokens, (B, L, cross_attention_input_dim).
            encoder_attention_mask: Boolean (B, L), True for tokens to attend to. None attends to all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, out_channels, frames).
        """
        no_token = sample.new_zeros(len(sample), 1, self.inner_dim)
        features = self.fourier(per_sample_timestep(timestep, sample))
        return self._predict(sample, features, encoder_hidden_states, no_token, encoder_attention_mask, return_dict)


class CTMAudioDiTModel(AudioDiTModel):
    """The SoundCTM student of `AudioDiTModel`. It has the same parameters, and its first token also embeds s and ω.

        token = MLP(φ(c_noise(t))) + MLP(φ(c_noise(s))) + ψ(1000·ω)

    Both noise levels share one MLP. ψ is the fixed sinusoid of `embeddings.guidance_embedding`.

    Args:
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
        kwargs: Arguments of `StableAudioDiTModel`. `global_states_input_dim` has no effect.
    """

    __module__ = "diffusers_soundctm"

    def __init__(self, conditioning: str = "sentence_token", guidance_scale_range: Sequence[float] = (), **kwargs: Any):
        super().__init__(**kwargs)
        self.register_to_config(conditioning=conditioning, guidance_scale_range=list(guidance_scale_range))

    @classmethod
    def from_teacher(cls, teacher: AudioDiTModel) -> Self:
        """Create a student that is initialized from a teacher, on its device and in its dtype.

        Args:
            teacher: The teacher.

        Raises:
            ValueError: The teacher is not an `AudioDiTModel`.
        """
        if not isinstance(teacher, AudioDiTModel):
            raise ValueError(f"`teacher` is a {type(teacher).__name__}; pass an AudioDiTModel.")
        return super().from_teacher(teacher)

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
            sample: c_in(t)·z_t, (B, in_channels, frames).
            timestep: c_noise(t) = ln(t)/4, scalar or (B,).
            encoder_hidden_states: Prompt tokens, (B, L, cross_attention_input_dim).
            timestep_cond: float32 (B, 2), the target noise level s and the guidance scale ω of each sample, or (B, 1)
                with s alone, which omits the ω term.
            encoder_attention_mask: Boolean (B, L), True for tokens to attend to. None attends to all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, out_channels, frames).

        Raises:
            ValueError: `timestep_cond` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(timestep_cond)
        token = self.timestep_proj(self.fourier(c_noise(target_sigma)).to(sample.dtype))
        if guidance_scale is not None:
            token = token + guidance_embedding(guidance_scale, self.inner_dim).to(token.dtype)
        features = self.fourier(per_sample_timestep(timestep, sample))
        return self._predict(
            sample, features, encoder_hidden_states, token[:, None], encoder_attention_mask, return_dict
        )


def per_sample_timestep(timestep: float | torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
    """Expand `timestep`, a scalar or (B,), to (B,) on the device of `sample` (B, ...)."""
    return torch.as_tensor(timestep, device=sample.device).expand(len(sample))
