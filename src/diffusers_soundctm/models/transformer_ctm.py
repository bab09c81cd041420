"""The transformers of the 44.1 kHz SoundCTM, teacher and student, built on Stable Audio's."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableAudioDiTModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from .ctm_mixin import CTMTransformerMixin, TransformerMixin
from .embeddings import FourierFeatures


class LatentTransformer(TransformerMixin, StableAudioDiTModel):
    """diffusers' `StableAudioDiTModel` with the arguments of a UNet. It computes its own rotary embedding."""

    _no_split_modules = ["StableAudioDiTBlock"]  # noqa: RUF012 (diffusers' own names and types)
    _repeated_blocks = ["StableAudioDiTBlock"]  # noqa: RUF012
    _min_rotary_dim = 0

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        rotary_embedding = get_1d_rotary_pos_embed(
            max(self.config.attention_head_dim // 2, self._min_rotary_dim),
            torch.arange(sample.shape[-1] + 1, device=sample.device),
            use_real=True,
            repeat_interleave_real=False,
        )
        return StableAudioDiTModel.forward(
            self, sample, features, rotary_embedding=rotary_embedding, return_dict=False, **inputs
        )[0]


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
        self.fourier = FourierFeatures(self.config.time_proj_dim // 2)
        self.time_proj = nn.Identity()
        self.global_proj = nn.Identity()
        block: Any
        for block in self.transformer_blocks:  # zero in the released checkpoint
            for norm in (block.norm1, block.norm2, block.norm3):
                norm.bias.requires_grad_(False)

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        return self.fourier(timestep)

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        if inputs["global_hidden_states"] is None:
            inputs["global_hidden_states"] = sample.new_zeros(sample.shape[0], 1, self.inner_dim)
        return super()._stock_forward(sample, features, **inputs)


class CTMAudioDiTModel(CTMTransformerMixin, AudioDiTModel):
    """The SoundCTM student of `AudioDiTModel`. The first token of the sequence also embeds s and ω.

        token = MLP(φ(c_noise(t))) + MLP(φ(c_noise(s))) + ψ(1000·ω)         branch_init "reference"
        token = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)          branch_init "zero"

    "reference" has the parameters of the teacher: both noise levels share one MLP, and ψ is the fixed sinusoid of
    `embeddings.guidance_embedding`.

    Args:
        kwargs: Arguments of `StableAudioDiTModel`. `global_states_input_dim` has no effect.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    __module__ = "diffusers_soundctm"
    _new_parameters = ("timestep_proj.target_proj.", "timestep_proj.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "edm",
        branch_init: str = "reference",
        conditioning: str = "sentence_token",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(prediction_type, conditioning, branch_init, guidance_scale_range, **kwargs)
