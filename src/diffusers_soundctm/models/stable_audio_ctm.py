"""The SoundCTM student of Stable Audio: its transformer with duration conditioning, conditioned on s and ω as well."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput

from ..preconditioning import c_noise, check_prediction_type
from .embeddings import CTMTimestepProjection, FourierFeatures, split_condition
from .transformer_ctm import LatentTransformer, per_sample_timestep


class StableAudioNetwork(LatentTransformer):
    """Stable Audio's network with the arguments of a UNet.

    The timestep is embedded in float32. Half precision would round (2/π)·atan 500 to 1, which stands for infinity.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.time_proj = _FeaturesOnce(self.config.time_proj_dim // 2)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the teacher.

        Args:
            sample: c_in(t)·z_t, (B, in_channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text and duration tokens, (B, L, cross_attention_input_dim).
            global_hidden_states: Embedded start and end of the audio, (B, 1, global_states_input_dim).
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, out_channels, frames).
        """
        features = self.time_proj(per_sample_timestep(timestep, sample))
        return self._predict(sample, features, encoder_hidden_states, global_hidden_states, return_dict=return_dict)


class CTMStableAudioDiTModel(StableAudioNetwork):
    """The SoundCTM student of Stable Audio. The first token of the sequence also embeds s and ω.

        token = global_proj(start, end) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        prediction_type: What F predicts, equal to the `CTMScheduler`'s.
        branch_init: "reference" has MLP_s = MLP and ψ(1000·ω) without W, like the released 44.1 kHz SoundCTM. "zero"
            has its own MLP_s and W, initialized with zeros, so that training starts exactly at the teacher.
        num_text_tokens: Number of tokens that texts are padded to with zeros. Stable Audio attends to the padding.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
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
        super().__init__(**kwargs)
        check_prediction_type(prediction_type)
        self.register_to_config(
            prediction_type=prediction_type,
            branch_init=branch_init,
            num_text_tokens=num_text_tokens,
            conditioning=conditioning,
            guidance_scale_range=list(guidance_scale_range),
        )
        self.timestep_proj = CTMTimestepProjection(self.config.time_proj_dim, self.inner_dim, branch_init)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F of the student.

        Args:
            sample: c_in(t)·z_t, (B, in_channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Text and duration tokens, (B, L, cross_attention_input_dim).
            global_hidden_states: Embedded start and end of the audio, (B, 1, global_states_input_dim).
            timestep_cond: float32 (B, 2), the target noise level s and the guidance scale ω of each sample, or (B, 1)
                with s alone, which omits the ω term.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, (B, out_channels, frames).

        Raises:
            ValueError: `timestep_cond` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(timestep_cond)
        time = self.time_proj(per_sample_timestep(timestep, sample))
        target = self.time_proj(c_noise(target_sigma, self.config.prediction_type))
        features = torch.cat([time, target, self.timestep_proj.guidance(guidance_scale, target)], dim=-1)
        return self._predict(sample, features, encoder_hidden_states, global_hidden_states, return_dict=return_dict)


class _FeaturesOnce(FourierFeatures):
    """φ of noise levels (B,). Features (B, features) are returned unchanged: the stock forward passes them again."""

    def __init__(self, embedding_size: int):
        super().__init__(embedding_size)
        self.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.ndim == 1 else x
