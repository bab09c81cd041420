"""Denoisers: a network with its preconditioning, and the guided teacher."""

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from .. import preconditioning
from ..schedulers.scheduling_ctm import CTMScheduler


@dataclass(frozen=True)
class Preconditioning:
    """How a network sees noise levels, and what it predicts.

    Attributes:
        prediction_type: What F predicts, see `preconditioning`.
        sigma_data: Standard deviation of the latents, for "edm".
        log_sigmas: ln σ of each discrete training step; None for continuous noise levels.
    """

    prediction_type: str = "edm"
    sigma_data: float = 0.5
    log_sigmas: torch.Tensor | None = None

    @classmethod
    def from_scheduler(cls, scheduler: CTMScheduler) -> "Preconditioning":
        """The preconditioning that a scheduler uses."""
        return cls(scheduler.config.prediction_type, scheduler.config.sigma_data, scheduler.log_sigmas)

    def network_input(self, sample: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute what the network reads.

        Args:
            sample: z, (B, ...).
            sigma: σ, (B,).

        Returns:
            c_in(σ)·z, (B, ...), and c_noise(σ), (B,); float32.
        """
        scale = preconditioning.c_in(sigma, self.prediction_type, self.sigma_data)
        timestep = preconditioning.c_noise(sigma, self.prediction_type, self.log_sigmas)
        return preconditioning.per_sample(scale, sample) * sample, timestep

    def denoised(self, model_output: torch.Tensor, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Compute the estimate g of z_0 from the network's output F, float32."""
        return preconditioning.denoised(model_output, sample, sigma, self.prediction_type, self.sigma_data)


def arithmetic(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager:
    """Return the autocast in which a network computes in `dtype`; None keeps that of the surrounding code."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


class Denoiser:
    """The estimate of the clean latents by a network, teacher or student.

        g(z; σ) = c_skip(σ)·z + c_out(σ)·F(c_in(σ)·z, c_noise(σ), ...)

    The network runs in its own dtype, everything else in float32.

    Args:
        network: A diffusers UNet or transformer.
        preconditioning: Its preconditioning.
        precision: Dtype of its products and convolutions, see `arithmetic`.
    """

    def __init__(
        self, network: torch.nn.Module, preconditioning: Preconditioning, precision: torch.dtype | None = None
    ):
        self.network = network
        self.preconditioning = preconditioning
        self.precision = precision

    def __call__(self, sample: torch.Tensor, sigma: torch.Tensor, **network_kwargs: Any) -> torch.Tensor:
        """Compute g.

        Args:
            sample: z, (B, ...).
            sigma: σ, (B,).
            network_kwargs: Further arguments of the network: its conditioning, and for a student `timestep_cond` (B, 2)
                with s and ω.

        Returns:
            g, (B, ...), float32.
        """
        model_input, timestep = self.preconditioning.network_input(sample, sigma)
        dtype = next(self.network.parameters()).dtype
        with arithmetic(self.precision, sample.device):
            model_output = self.network(model_input.to(dtype), timestep, **network_kwargs).sample
        return self.preconditioning.denoised(model_output, sample, sigma)


def cast_floats(kwargs: dict[str, torch.Tensor | None], dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    """Cast the floating-point tensors among a network's arguments to `dtype`."""
    return {k: v.to(dtype) if v is not None and v.is_floating_point() else v for k, v in kwargs.items()}


class TeacherDenoiser:
    """The teacher with classifier-free guidance, for one batch.

        D_ω(z; σ, c) = D(z; σ, ∅) + ω·(D(z; σ, c) − D(z; σ, ∅))

    Both halves are computed in one call of the network.

    Args:
        network: The teacher, in the dtype in which it runs.
        preconditioning: Its preconditioning.
        network_kwargs: Its conditioning for 2·B samples, [c | ∅], see `PromptConditioning.network_kwargs`.
        guidance_scale: ω, (B,). None leaves out the guidance; `network_kwargs` is then for B samples.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preconditioning: Preconditioning,
        network_kwargs: dict[str, torch.Tensor | None],
        guidance_scale: torch.Tensor | None,
    ):
        self.denoise = Denoiser(network, preconditioning)
        self.network_kwargs = cast_floats(network_kwargs, next(network.parameters()).dtype)
        self.guidance_scale = guidance_scale

    @torch.no_grad()
    def __call__(self, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Compute D_ω (B, ...), float32, from z (B, ...) and σ (B,)."""
        if self.guidance_scale is None:
            return self.denoise(sample, sigma, **self.network_kwargs)
        conditional, unconditional = self.halves(sample, sigma)
        scale = preconditioning.per_sample(self.guidance_scale, sample)
        return unconditional + scale * (conditional - unconditional)

    @torch.no_grad()
    def halves(self, sample: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z (B, ...) and σ (B,) → D(z; σ, c) and D(z; σ, ∅), each (B, ...), float32."""
        both = self.denoise(torch.cat([sample, sample]), torch.cat([sigma, sigma]), **self.network_kwargs)
        return both.chunk(2)
