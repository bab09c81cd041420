"""The SoundCTM student of Stable Audio: its transformer, duration conditioning included, that also knows s and ω."""

from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import nn

from ..preconditioning import c_noise, check_prediction_type
from .embeddings import check_branch_init, guidance_embedding, split_condition, zero_projection
from .transformer_ctm import FourierFeatures, LatentTransformer, per_sample_timestep


class StableAudioNetwork(LatentTransformer):
    """Stable Audio's network, called like a UNet.

    Its timestep is embedded in float32: half precision would round (2/π)·atan 500 to 1, the angle of infinity.
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
        """F of the teacher.

        Args:
            sample: c_in(t)·z_t, (B, in_channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: text and duration tokens, (B, L, cross_attention_input_dim).
            global_hidden_states: start and end of the sound, (B, 1, global_states_input_dim).
            return_dict: give an output with `.sample`, else a tuple.

        Returns:
            F, (B, out_channels, frames).
        """
        features = self.time_proj(per_sample_timestep(timestep, sample))
        return self._predict(sample, features, encoder_hidden_states, global_hidden_states, return_dict=return_dict)


class CTMStableAudioDiTModel(StableAudioNetwork, PeftAdapterMixin):
    """The SoundCTM student of Stable Audio: the token in front of the sequence also tells s and ω.

        token = global_proj(start, end) + MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)

    Args:
        prediction_type: what F predicts, as the `CTMScheduler`'s.
        branch_init: "reference" has MLP_s = MLP and ψ(1000·ω) without W, as the released 44.1 kHz SoundCTM; "zero"
            starts an MLP_s of its own and W at zero, so that training starts exactly at the teacher.
        num_text_tokens: to how many tokens a text is padded with zeros, which Stable Audio attends to.
        conditioning: how prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        kwargs: the arguments of `StableAudioDiTModel`.
    """

    # model_index.json records this module; the package's top level is the name that stays.
    __module__ = "diffusers_soundctm"
    _new_parameters = ("timestep_proj.target_proj.", "timestep_proj.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "v_prediction",
        branch_init: str = "reference",
        num_text_tokens: int = 128,
        conditioning: str = "stable_audio",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_prediction_type(prediction_type)
        check_branch_init(branch_init)
        self.register_to_config(
            prediction_type=prediction_type,
            branch_init=branch_init,
            num_text_tokens=num_text_tokens,
            conditioning=conditioning,
        )
        self.timestep_proj = _CTMTimestepProjection(self.config.time_proj_dim, self.inner_dim, branch_init == "zero")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        global_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """F of the student; arguments as the teacher's, and

        Args:
            timestep_cond: float32 (B, 2), target noise level s and guidance scale ω of each sample; (B, 1), s alone,
                leaves out the ω term.

        Raises:
            ValueError: `timestep_cond` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(timestep_cond)
        time = self.time_proj(per_sample_timestep(timestep, sample))
        target = self.time_proj(c_noise(target_sigma, self.config.prediction_type))
        if guidance_scale is None:
            guidance = target.new_zeros(len(target), self.inner_dim)
        else:
            factor = 1000.0 if self.config.branch_init == "reference" else 1.0
            guidance = guidance_embedding(guidance_scale, self.inner_dim, factor)
        features = torch.cat([time, target, guidance], dim=-1)
        return self._predict(sample, features, encoder_hidden_states, global_hidden_states, return_dict=return_dict)


class _FeaturesOnce(FourierFeatures):
    """φ of noise levels (B,); what has been embedded already, (B, features), goes through as it is."""

    def __init__(self, embedding_size: int):
        super().__init__(embedding_size)
        self.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if x.ndim == 1 else x


class _CTMTimestepProjection(nn.Sequential):
    """[φ(t) | φ(s) | ψ(ω)] → MLP(φ(t)) + MLP_s(φ(s)) + W·ψ(ω), with the MLP's own parameter names."""

    def __init__(self, in_channels: int, dim: int, zero: bool):
        super().__init__(nn.Linear(in_channels, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.sizes = (in_channels, in_channels, dim)
        self.target_proj = None
        self.guidance_proj = None
        if zero:
            self.target_proj = nn.Sequential(nn.Linear(in_channels, dim), nn.SiLU(), nn.Linear(dim, dim))
            nn.init.zeros_(self.target_proj[2].weight)
            nn.init.zeros_(self.target_proj[2].bias)
            self.guidance_proj = zero_projection(dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        time, target, guidance = features.split(self.sizes, dim=-1)
        if self.target_proj is None:
            return self._mlp(time) + self._mlp(target) + guidance
        return self._mlp(time) + self.target_proj(target) + self.guidance_proj(guidance)

    def _mlp(self, features: torch.Tensor) -> torch.Tensor:
        return self[2](self[1](self[0](features)))
