"""The SoundCTM student of Stable Audio 3: its flow-matching transformer, conditioned on s and ω as well."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableAudio3DiTModel
from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3ExpoFourierFeatures

from .ctm_mixin import CTMTransformerMixin, TransformerMixin


class StableAudio3Network(TransformerMixin, StableAudio3DiTModel):
    """Stable Audio 3's network with the arguments of a UNet. F is the velocity ε − z_0.

    Args:
        sample_size: Latent positions of the default length. 108 of them last 10 s, as in the teacher's pipeline.
        kwargs: Arguments of `StableAudio3DiTModel`.
    """

    def __init__(self, sample_size: int = 108, **kwargs: Any):
        super().__init__(**kwargs)
        self.register_to_config(sample_size=sample_size)
        self.timestep_features = _FeaturesOnce(self.config.timestep_features_dim)

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        return self.timestep_features(timestep)

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        return StableAudio3DiTModel.forward(self, sample, features, return_dict=False, **inputs)[0]


class CTMStableAudio3DiTModel(CTMTransformerMixin, StableAudio3Network):
    """The SoundCTM student of Stable Audio 3. The modulation of all blocks also depends on s and ω.

        embedding = global_embed(duration) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        num_text_tokens: Number of tokens that texts are padded to. The network attends to the padding.
        kwargs: `sample_size`, and arguments of `StableAudio3DiTModel`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _projection = "to_timestep_embed"
    _new_parameters = ("to_timestep_embed.target_proj.", "to_timestep_embed.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "flow",
        branch_init: str = "reference",
        num_text_tokens: int = 256,
        conditioning: str = "stable_audio_3",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(prediction_type, conditioning, branch_init, guidance_scale_range, **kwargs)
        self.register_to_config(num_text_tokens=num_text_tokens)


class _FeaturesOnce(StableAudio3ExpoFourierFeatures):
    """φ of noise levels (B,). Features (B, 1, width), which the stock forward passes again, become (B, width)."""

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        return timestep[:, 0] if timestep.ndim == 3 else super().forward(timestep)
