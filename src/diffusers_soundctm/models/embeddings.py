"""How a SoundCTM network embeds its noise level t, the noise level s that it jumps to, and the guidance scale ω.

`CTMTimestepEmbedding` belongs to UNets, `CTMTimestepProjection` to Stable Audio's transformer. The transformer of the
44.1 kHz SoundCTM shares the MLP of t with s, see `transformer_ctm`.
"""

import math
from collections.abc import Sequence

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.transformers.stable_audio_transformer import StableAudioGaussianFourierProjection
from torch import nn

from ..preconditioning import c_noise, check_prediction_type, vp_log_sigmas


def guidance_embedding(guidance_scale: torch.Tensor, dim: int, factor: float = 1000.0) -> torch.Tensor:
    """Embed the guidance scale as ψ(factor·ω), float32 (B, dim).

    ψ is `dim`/2 sines followed by as many cosines, of frequencies 10000^(−i/(dim/2−1)).

    Args:
        guidance_scale: ω, (B,).
        dim: Width of the embedding.
        factor: What ω is multiplied by.
    """
    # At 1000·ω, the last bit of a frequency makes a difference. This order of operations is that of the official code.
    frequencies = torch.arange(dim // 2, dtype=torch.float32, device=guidance_scale.device)
    frequencies = (frequencies * -(math.log(10000) / (dim // 2 - 1))).exp()
    phase = (factor * guidance_scale.float())[:, None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def split_condition(timestep_cond: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Split a network's `timestep_cond` into the target noise level s and the guidance scale ω, (B,) each.

    Args:
        timestep_cond: (B, 2) with columns s and ω, or (B, 1) with s alone. In that case ω is None.

    Raises:
        ValueError: `timestep_cond` is missing or has another shape.
    """
    if timestep_cond is None or timestep_cond.ndim != 2 or timestep_cond.shape[1] not in (1, 2):
        given = "missing" if timestep_cond is None else f"of shape {tuple(timestep_cond.shape)}"
        raise ValueError(
            f"`timestep_cond` is {given}; pass (batch, 2), the target_sigma and guidance_scale of each sample, or "
            "(batch, 1), the target_sigma alone."
        )
    return timestep_cond[:, 0], timestep_cond[:, 1] if timestep_cond.shape[1] == 2 else None


def check_branch_init(branch_init: str) -> None:
    """Raise `ValueError` unless `branch_init` is "reference" or "zero"."""
    if branch_init not in ("reference", "zero"):
        raise ValueError(f'`branch_init` is {branch_init!r}; choose "reference" or "zero".')


class CTMTimestepEmbedding(TimestepEmbedding):
    """The teacher's time embedding with one more branch for s and one for ω:

        emb = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + ψ(1000·ω)     branch_init "reference"
        emb = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω)        branch_init "zero"

    φ is the teacher's sinusoid. MLP_s (`target_embedding`) has the architecture of MLP. ψ (`guidance_embedding`) is a
    fixed sinusoid as wide as the time embedding. W (`guidance_proj`) is learned. The teacher's parameters keep their
    names. Sinusoids are computed in float32.

    Args:
        in_channels: Width of φ.
        time_embed_dim: Width of the embedding.
        act_fn: Activation inside the MLPs, as in diffusers' `TimestepEmbedding`.
        post_act_fn: Activation after the MLPs, as in diffusers' `TimestepEmbedding`.
        flip_sin_to_cos: Order of φ, as in diffusers' `Timesteps`.
        freq_shift: Frequencies of φ, as in diffusers' `Timesteps`.
        prediction_type: Determines c_noise, see `preconditioning.c_noise`. "edm" uses none of the following five.
        num_train_timesteps: Number of steps of the teacher's noise schedule, see `preconditioning.vp_log_sigmas`.
        beta_start: First β of that schedule.
        beta_end: Last β of that schedule.
        beta_schedule: Form of that schedule.
        trained_betas: All values of β, in place of a `beta_schedule`.
        branch_init: Initialization of the new branches. "reference" initializes MLP_s randomly and has no W, like the
            released SoundCTM. "zero" initializes the last layer of MLP_s and W with zeros, so that training starts
            exactly at the teacher. Its ψ varies slowly over the range of ω: at 1000·ω, four of five channels would be
            noise to the network.

    Raises:
        ValueError: `prediction_type`, `branch_init` or `beta_schedule` is unknown.
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
            # As bits in an integer buffer, the table moves with the module, and .to(torch.bfloat16) does not round it.
            self.register_buffer("log_sigmas_bits", log_sigmas.view(torch.int32), persistent=False)

    def forward(self, sample: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        """Embed t, s and ω.

        Args:
            sample: φ(c_noise(t)), (B, in_channels).
            condition: float32 (B, 2) with columns s and ω, or (B, 1) with s alone, which omits the ω term.

        Returns:
            (B, time_embed_dim), in the dtype of `sample`.

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


class FourierFeatures(StableAudioGaussianFourierProjection):
    """Fourier features of noise levels: φ(v) = [cos 2πWv | sin 2πWv] with learned frequencies W, in float32.

    Args:
        embedding_size: Number of frequencies, half the width of φ.
    """

    def __init__(self, embedding_size: int):
        super().__init__(embedding_size, set_W_to_weight=False, log=False, flip_sin_to_cos=True)
        self.weight.requires_grad_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embed (B,) as float32 (B, 2·embedding_size)."""
        phase = 2 * math.pi * x.float()[:, None] * self.weight.float()
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


class CTMTimestepProjection(nn.Module):
    """Stable Audio's timestep MLP with one more branch for s and one for ω:

        MLP(φ(t)) + MLP(φ(s)) + ψ(1000·ω)       branch_init "reference"
        MLP(φ(t)) + MLP_s(φ(s)) + W·ψ(ω)        branch_init "zero"

    The teacher's MLP keeps its parameter names. MLP_s is `target_proj` and W is `guidance_proj`.

    Args:
        in_channels: Width of φ.
        dim: Width of the token.
        branch_init: "reference", or "zero" to initialize the last layer of MLP_s and W with zeros.
    """

    def __init__(self, in_channels: int, dim: int, branch_init: str):
        check_branch_init(branch_init)
        super().__init__()
        # The teacher's names. Not a Sequential, which group offloading would take apart without the other branches.
        for index, layer in enumerate((nn.Linear(in_channels, dim), nn.SiLU(), nn.Linear(dim, dim))):
            self.add_module(str(index), layer)
        self.sizes = (in_channels, in_channels, dim)
        self.target_proj = None
        self.guidance_proj = None
        if branch_init == "zero":
            self.target_proj = nn.Sequential(nn.Linear(in_channels, dim), nn.SiLU(), nn.Linear(dim, dim))
            nn.init.zeros_(self.target_proj[2].weight)
            nn.init.zeros_(self.target_proj[2].bias)
            self.guidance_proj = zero_projection(dim)

    def guidance(self, guidance_scale: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
        """Return the part of `features` that holds ω, (B, dim). Zeros if `guidance_scale` is None.

        Args:
            guidance_scale: ω, (B,).
            target: φ(s), (B, in_channels).
        """
        if guidance_scale is None:
            return target.new_zeros(target.shape[0], self.sizes[2])
        return guidance_embedding(guidance_scale, self.sizes[2], 1000.0 if self.guidance_proj is None else 1.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Project [φ(t) | φ(s) | ψ], (B, 2·in_channels + dim), to the token (B, dim)."""
        time, target, guidance = features.split(self.sizes, dim=-1)
        if self.target_proj is None:
            return self._mlp(time) + self._mlp(target) + guidance
        return self._mlp(time) + self.target_proj(target) + self.guidance_proj(guidance)

    def _mlp(self, features: torch.Tensor) -> torch.Tensor:
        for index in ("0", "1", "2"):
            features = getattr(self, index)(features)
        return features


def zero_projection(dim: int) -> nn.Linear:
    """A linear layer (dim, dim) without bias whose weights are zero."""
    projection = nn.Linear(dim, dim, bias=False)
    nn.init.zeros_(projection.weight)
    return projection
