"""Time embedding of a SoundCTM network: where it is (t), where it jumps to (s) and how strongly it is guided (ω)."""

import math
from collections.abc import Sequence

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from ..preconditioning import c_noise, check_prediction_type, vp_log_sigmas


def guidance_embedding(guidance_scale: torch.Tensor, dim: int, factor: float = 1000.0) -> torch.Tensor:
    """ψ(factor·ω): `dim`/2 sines, then cosines, of frequencies 10000^(−i/(dim/2−1)); (B,) → float32 (B, dim)."""
    # At 1000·ω a last-bit difference of a frequency is visible: this order of operations is the reference's.
    frequencies = torch.arange(dim // 2, dtype=torch.float32, device=guidance_scale.device)
    frequencies = (frequencies * -(math.log(10000) / (dim // 2 - 1))).exp()
    phase = (factor * guidance_scale.float())[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def split_condition(timestep_cond: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A network's `timestep_cond` (B, 2) → target_sigma s and guidance_scale ω, (B,) each; of (B, 1), s and None.

    Raises:
        ValueError: `timestep_cond` is missing or has another shape.
    """
    if timestep_cond is None or timestep_cond.ndim != 2 or timestep_cond.shape[1] not in (1, 2):
        shape = None if timestep_cond is None else tuple(timestep_cond.shape)
        raise ValueError(
            "A SoundCTM network needs `timestep_cond` of shape (batch, 2), target_sigma and guidance_scale of each "
            f"sample (or (batch, 1), target_sigma alone); got {shape}."
        )
    return timestep_cond[:, 0], timestep_cond[:, 1] if timestep_cond.shape[1] == 2 else None


def check_branch_init(branch_init: str) -> None:
    """Raise `ValueError` unless `branch_init` is "reference" or "zero"."""
    if branch_init not in ("reference", "zero"):
        raise ValueError(f'`branch_init` is {branch_init!r}; choose "reference" or "zero".')


class CTMTimestepEmbedding(TimestepEmbedding):
    """The teacher's time embedding, under its own parameter names, plus one branch for s and one for ω:

        emb = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + ψ(1000·ω)     branch_init "reference"
        emb = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)        branch_init "zero"

    φ is the teacher's sinusoid, MLP_s (`target_embedding`) has the architecture of MLP, ψ (`guidance_embedding`) is a
    fixed sinusoid as wide as the time embedding, W (`guidance_proj`) is learned. Sinusoids are taken in float32.

    Args:
        in_channels: width of φ.
        time_embed_dim: width of the embedding.
        act_fn, post_act_fn: activations of the MLPs, as in diffusers' `TimestepEmbedding`.
        flip_sin_to_cos, freq_shift: φ, as in diffusers' `Timesteps`.
        prediction_type, num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: what c_noise is, see
            `preconditioning.c_noise` and `preconditioning.vp_log_sigmas` ("edm" uses no betas).
        branch_init: "reference" starts MLP_s at random and has no W, as the released SoundCTM. "zero" starts MLP_s's
            last layer and W at zero: training starts exactly at the teacher. Its ψ turns slowly over the range of ω:
            at 1000·ω four channels of five would be noise to learn around.
    """

    def __init__(
        self,
        in_channels: int,
        time_embed_dim: int,
        act_fn: str = "silu",
        post_act_fn: str | None = None,
        flip_sin_to_cos: bool = True,
        freq_shift: float = 0,
        prediction_type: str = "edm",
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        branch_init: str = "reference",
    ):
        check_prediction_type(prediction_type)
        check_branch_init(branch_init)
        super().__init__(in_channels, time_embed_dim, act_fn, post_act_fn=post_act_fn)
        self.time_proj = Timesteps(in_channels, flip_sin_to_cos, freq_shift)
        self.target_embedding = TimestepEmbedding(in_channels, time_embed_dim, act_fn, post_act_fn=post_act_fn)
        self.guidance_proj = None
        if branch_init == "zero":
            self.guidance_proj = zero_projection(time_embed_dim)
            nn.init.zeros_(self.target_embedding.linear_2.weight)
            nn.init.zeros_(self.target_embedding.linear_2.bias)
        self.prediction_type = prediction_type
        if prediction_type != "edm":
            log_sigmas = vp_log_sigmas(beta_start, beta_end, beta_schedule, num_train_timesteps, trained_betas)
            # Kept as bits in an integer buffer: it follows the module to any device, and .to(bfloat16) cannot round it.
            self.register_buffer("log_sigmas_bits", log_sigmas.view(torch.int32), persistent=False)

    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Embed t, s and ω.

        Args:
            sample: φ(c_noise(t)), (B, in_channels).
            condition: float32 (B, 2), columns s and ω; (B, 1), s alone, leaves out the ω term.

        Returns:
            (B, time_embed_dim), dtype of `sample`.

        Raises:
            ValueError: `condition` is missing or has another shape.
        """
        target_sigma, guidance_scale = split_condition(condition)
        log_sigmas = None if self.prediction_type == "edm" else self.log_sigmas_bits.view(torch.float32)
        target = self.time_proj(c_noise(target_sigma, self.prediction_type, log_sigmas))
        emb = super().forward(sample) + self.target_embedding(target.to(sample.dtype))
        if guidance_scale is None:
            return emb
        if self.guidance_proj is None:
            return emb + guidance_embedding(guidance_scale, emb.shape[-1]).to(emb.dtype)
        return emb + self.guidance_proj(guidance_embedding(guidance_scale, emb.shape[-1], factor=1.0).to(emb.dtype))


def zero_projection(dim: int) -> nn.Linear:
    """W, (dim, dim), all zeros."""
    projection = nn.Linear(dim, dim, bias=False)
    nn.init.zeros_(projection.weight)
    return projection
