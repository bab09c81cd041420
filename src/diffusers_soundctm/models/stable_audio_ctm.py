"""The SoundCTM student of Stable Audio: its transformer with duration conditioning, conditioned on s and ω as well."""

from collections.abc import Sequence
from typing import Any

import torch

from .ctm_mixin import CTMTransformerMixin
from .embeddings import FourierFeatures
from .transformer_ctm import LatentTransformer


class StableAudioNetwork(LatentTransformer):
    """Stable Audio's network with the arguments of a UNet."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.time_proj = _FeaturesOnce(self.config.time_proj_dim // 2)

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        return self.time_proj(timestep)


class CTMStableAudioDiTModel(CTMTransformerMixin, StableAudioNetwork):
    """The SoundCTM student of Stable Audio. The first token of the sequence also embeds s and ω.

        token = global_proj(start, end) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        num_text_tokens: Number of tokens that texts are padded to with zeros. Stable Audio attends to the padding.
        kwargs: Arguments of `StableAudioDiTModel`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _new_parameters = ("timestep_proj.target_proj.", "timestep_proj.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "v_prediction",
        branch_init: str = "reference",
        num_text_tokens: int = 128,
        conditioning: str = "stable_audio",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(prediction_type, conditioning, branch_init, guidance_scale_range, **kwargs)
        self.register_to_config(num_text_tokens=num_text_tokens)


class _FeaturesOnce(FourierFeatures):
    """φ of noise levels (B,). Features (B, features) are returned unchanged: the stock forward passes them again."""

    def __init__(self, embedding_size: int):
        super().__init__(embedding_size)
        self.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.ndim == 1 else x
