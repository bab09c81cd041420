"""The SoundCTM student of ACE-Step 1.5: its flow-matching transformer, conditioned on s and ω as well."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AceStepTransformer1DModel
from diffusers.models.transformers.ace_step_transformer import AceStepAttention, AceStepTimestepEmbedding
from torch import nn
from typing_extensions import Self

from ..preconditioning import c_noise, check_prediction_type
from .ctm_mixin import TransformerMixin
from .embeddings import check_branch_init, guidance_embedding, split_condition, zero_projection

SILENCE_LENGTH = 15000  # latent positions of the silence that the teacher's condition encoder holds: 600 s


class AceStepNetwork(TransformerMixin, AceStepTransformer1DModel):
    """ACE-Step's network for text to music, with the arguments of a UNet. F is the velocity ε − z_0.

    The network reads the latents of silence next to the noisy ones. It keeps them in the buffer `silence_latent`, which
    the teacher's condition encoder holds. The padding of a prompt has no effect; the stock network attends to it.

    Args:
        sample_size: Latent positions of the default length. 250 of them last 10 s.
        kwargs: Arguments of `AceStepTransformer1DModel`.
    """

    _no_split_modules = ["AceStepTransformerBlock"]  # noqa: RUF012 (diffusers' own names and types)
    _repeated_blocks = ["AceStepTransformerBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["time_embed", "norm"]  # noqa: RUF012 (times are cast to the dtype of the weights)

    def __init__(self, sample_size: int = 250, **kwargs: Any):
        super().__init__(**kwargs)
        self.register_to_config(sample_size=sample_size)
        silence = torch.zeros(1, SILENCE_LENGTH, self.config.audio_acoustic_hidden_dim)
        self.register_buffer("silence_latent", silence, persistent=False)
        self.time_embed = _TimeEmbedding(time_embed_dim=self.config.hidden_size)
        self.time_embed_r = _TimeEmbedding(time_embed_dim=self.config.hidden_size)
        width = self.config.encoder_hidden_size or self.config.hidden_size
        self.condition_embedder = _EmbedderWithMask(width, self.config.hidden_size)
        block: Any
        for block in self.layers:
            block.cross_attn.__class__ = _MaskedAttention

    @property
    def transformer_blocks(self) -> nn.ModuleList:
        """The blocks, whose outputs are the features of the network."""
        return self.layers

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        """The time t and the time r, which is t for the teacher: (B, 2). A student adds ω."""
        return timestep[:, None].expand(-1, 2)

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        # `time_embed` gets (t, ω), and `time_embed_r` the difference of both arguments, (t − r, ω).
        time, reference, guidance = features[:, :1], features[:, 1:2], features[:, 2:]
        text, mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask
        repeats = -(-sample.shape[-1] // self.silence_latent.shape[1])
        silence = self.silence_latent.to(sample.dtype).repeat(1, repeats, 1)[:, : sample.shape[-1]]
        context = torch.cat([silence, torch.ones_like(silence)], dim=-1)  # all of it is to be generated
        output = AceStepTransformer1DModel.forward(
            self,
            sample.transpose(1, 2),
            torch.cat([time, guidance], dim=-1),
            torch.cat([reference, torch.zeros_like(guidance)], dim=-1),
            torch.cat([text, mask[..., None].to(text.dtype)], dim=-1),
            context.expand(sample.shape[0], -1, -1),
            return_dict=False,
        )
        return output[0].transpose(1, 2)


class CTMAceStepTransformer1DModel(AceStepNetwork):
    """The SoundCTM student of ACE-Step 1.5. The modulation of all blocks also depends on s and ω.

    The teacher embeds t and t − r, where r is where its step ends in training, and r = t in use. With f = c_noise:

        MLP(φ(f(t))) + MLP_r(φ(f(t) − f(s))) + ψ(1000·ω)                     branch_init "reference"
        MLP(φ(f(t))) + MLP_r(φ(0)) + MLP_s(φ(f(t) − f(s))) + W·ψ(ω)          branch_init "zero"

    MLP's output and the sum of the others each have a projection of their own to the modulation of the blocks.

    Args:
        prediction_type: What F predicts, equal to the `CTMScheduler`'s.
        branch_init: "reference" uses the teacher's branch of t − r for t − s. "zero" has its own MLP_s and W,
            initialized with zeros, so that training starts exactly at the teacher.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
        kwargs: `sample_size`, and arguments of `AceStepTransformer1DModel`.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _new_parameters = ("time_embed_r.target_embedding.", "time_embed_r.guidance_proj.", "silence_latent")

    def __init__(
        self,
        prediction_type: str = "flow",
        branch_init: str = "reference",
        conditioning: str = "ace_step",
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
        self.register_buffer("silence_latent", self.silence_latent)  # saved; the teacher's is in another component
        self.time_embed_r = _JumpEmbedding(self.config.hidden_size, branch_init)
        self._prediction_type = prediction_type

    @classmethod
    def from_teacher(cls, teacher: AceStepNetwork, **config: Any) -> Self:
        """Create a student that is initialized from a teacher, see `FromTeacherMixin.from_teacher`."""
        student = super().from_teacher(teacher, **config)
        student.silence_latent.copy_(teacher.silence_latent)
        return student

    def _embed(self, timestep: torch.Tensor, timestep_cond: torch.Tensor | None) -> torch.Tensor:
        """The times t and s, and ω if it is given: (B, 3) or (B, 2)."""
        target_sigma, guidance_scale = split_condition(timestep_cond)
        columns = [timestep, c_noise(target_sigma, self._prediction_type)]
        return torch.stack(columns if guidance_scale is None else [*columns, guidance_scale.float()], dim=-1)


class _TimeEmbedding(AceStepTimestepEmbedding):
    """The embedding of the first column of float32 times (B, n). The stock one rounds times to the network's dtype."""

    def forward(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._project(self._mlp(times[:, 0]))

    def _features(self, time: torch.Tensor) -> torch.Tensor:
        return self.time_sinusoid(time * self.scale).to(self.linear_1.weight.dtype)

    def _mlp(self, time: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act1(self.linear_1(self._features(time))))

    def _project(self, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return embedding, self.time_proj(self.act2(embedding)).unflatten(1, (6, -1))


class _JumpEmbedding(_TimeEmbedding):
    """The embedding of f(t) − f(s) and ω, the columns of float32 (B, 2); without ω, (B, 1)."""

    def __init__(self, dim: int, branch_init: str):
        check_branch_init(branch_init)
        super().__init__(time_embed_dim=dim)
        self.dim = dim
        self.target_embedding = self.guidance_proj = None
        if branch_init == "zero":
            self.target_embedding = nn.Sequential(nn.Linear(self.in_channels, dim), nn.SiLU(), nn.Linear(dim, dim))
            nn.init.zeros_(self.target_embedding[2].weight)
            nn.init.zeros_(self.target_embedding[2].bias)
            self.guidance_proj = zero_projection(dim)

    def forward(self, times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        duration, guidance = times[:, 0], None
        if times.shape[1] == 2:
            guidance = guidance_embedding(times[:, 1], self.dim, 1000.0 if self.guidance_proj is None else 1.0)
        if self.target_embedding is None:
            embedding = self._mlp(duration)
            return self._project(embedding if guidance is None else embedding + guidance.to(embedding.dtype))
        embedding = self._mlp(torch.zeros_like(duration)) + self.target_embedding(self._features(duration))
        if guidance is not None:
            embedding = embedding + self.guidance_proj(guidance.to(embedding.dtype))
        return self._project(embedding)


class _EmbedderWithMask(nn.Linear):
    """A projection of all channels but the last, which is the mask of the tokens and is kept for `_MaskedAttention`."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        embedded = super().forward(features[..., :-1])
        return torch.cat([embedded, features[..., -1:].to(embedded.dtype)], dim=-1)


class _MaskedAttention(AceStepAttention):
    """Cross-attention to tokens (B, L, dim + 1) whose last channel is their mask; the stock one sees the padding."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        tokens, mask = encoder_hidden_states[..., :-1], encoder_hidden_states[..., -1] > 0
        return super().forward(hidden_states, tokens, attention_mask=mask[:, None, None])
