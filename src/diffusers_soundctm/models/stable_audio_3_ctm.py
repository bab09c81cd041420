"""The SoundCTM student of Stable Audio 3: its flow-matching transformer, conditioned on s and ω as well."""

from typing import Any

import torch
from diffusers import StableAudio3DiTModel
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_stable_audio3 import StableAudio3ExpoFourierFeatures

from ..preconditioning import c_noise, check_prediction_type
from .ctm_mixin import FromTeacherMixin
from .embeddings import CTMTimestepProjection, split_condition
from .transformer_ctm import per_sample_timestep


class StableAudio3Network(FromTeacherMixin, StableAudio3DiTModel):
    """Stable Audio 3's network with the arguments of a UNet.

    Args:
        sample_size: Latent positions of the default length. 108 of them last 10 s, as in the teacher's pipeline.
        kwargs: Arguments of `StableAudio3DiTModel`.
    """

    def __init__(self, sample_size: int = 108, **kwargs: Any):
        super().__init__(**kwargs)
        self.register_to_config(sample_size=sample_size)
        self.timestep_features = _FeaturesOnce(self.config.timestep_features_dim)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the teacher, the velocity ε − z_0.

        Args:
            sample: c_in(t)·z_t, (B, io_channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text and duration tokens, (B, L, cond_token_dim).
            global_hidden_states: Embedded duration, (B, global_cond_dim).
            encoder_attention_mask: Boolean (B, L), False where a learned embedding of padding replaces the token. None
                keeps all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, io_channels, frames).
        """
        features = self.timestep_features(per_sample_timestep(timestep, sample).float())
        return self._predict(
            sample, features, encoder_hidden_states, global_hidden_states, encoder_attention_mask, return_dict
        )

    def _predict(
        self,
        sample: torch.Tensor,
        features: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
        return_dict: bool,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Run the stock forward on the output of `timestep_features`, (B, features), in place of a timestep."""
        (sample,) = super().forward(
            sample,
            features,
            encoder_hidden_states,
            global_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            return_dict=False,
        )
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


class CTMStableAudio3DiTModel(StableAudio3Network):
    """The SoundCTM student of Stable Audio 3. The modulation of all blocks also depends on s and ω.

        embedding = global_embed(duration) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        prediction_type: What F predicts, equal to the `CTMScheduler`'s.
        branch_init: "reference" has MLP_s = MLP and ψ(1000·ω) without W, like the released 44.1 kHz SoundCTM. "zero"
            has its own MLP_s and W, initialized with zeros, so that training starts exactly at the teacher.
        num_text_tokens: Number of tokens that texts are padded to. The network attends to the padding.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        kwargs: `sample_size`, and arguments of `StableAudio3DiTModel`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _new_parameters = ("to_timestep_embed.target_proj.", "to_timestep_embed.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "flow",
        branch_init: str = "reference",
        num_text_tokens: int = 256,
        conditioning: str = "stable_audio_3",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_prediction_type(prediction_type)
        self.register_to_config(
            prediction_type=prediction_type,
            branch_init=branch_init,
            num_text_tokens=num_text_tokens,
            conditioning=conditioning,
        )
        self.to_timestep_embed = CTMTimestepProjection(
            self.config.timestep_features_dim, self.config.embed_dim, branch_init
        )

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the student.

        Args:
            sample: c_in(t)·z_t, (B, io_channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text and duration tokens, (B, L, cond_token_dim).
            global_hidden_states: Embedded duration, (B, global_cond_dim).
            timestep_cond: float32 (B, 2), the target noise level s and the guidance scale ω of each sample, or (B, 1)
                with s alone, which omits the ω term.
            encoder_attention_mask: Boolean (B, L), False where a learned embedding of padding replaces the token. None
                keeps all.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, io_channels, frames).

        Raises:
            ValueError: `timestep_cond` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(timestep_cond)
        time = self.timestep_features(per_sample_timestep(timestep, sample).float())
        target = self.timestep_features(c_noise(target_sigma, self.config.prediction_type))
        features = torch.cat([time, target, self.to_timestep_embed.guidance(guidance_scale, target)], dim=-1)
        return self._predict(
            sample, features, encoder_hidden_states, global_hidden_states, encoder_attention_mask, return_dict
        )


class _FeaturesOnce(StableAudio3ExpoFourierFeatures):
    """φ of noise levels (B,). Features (B, 1, width), which the stock forward passes again, become (B, width)."""

    def forward(self, timestep: torch.Tensor) -> torch.Tensor:
        return timestep[:, 0] if timestep.ndim == 3 else super().forward(timestep)
