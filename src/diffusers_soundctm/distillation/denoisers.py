"""A network with its preconditioning around it, as a denoiser: what teacher, student and losses call."""

from dataclasses import dataclass
from typing import Any

import torch

from .. import preconditioning
from ..schedulers.scheduling_ctm import CTMScheduler


@dataclass(frozen=True)
class Preconditioning:
    """How a network sees noise levels and what it predicts; the settings of its `CTMScheduler`."""

    prediction_type: str = "edm"
    sigma_data: float = 0.5
    log_sigmas: torch.Tensor | None = None

    @classmethod
    def from_scheduler(cls, scheduler: CTMScheduler) -> "Preconditioning":
        return cls(scheduler.config.prediction_type, scheduler.config.sigma_data, scheduler.log_sigmas)

    def network_input(self, sample: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(c_in(σ)·z, c_noise(σ)) for z (B, ...) and σ (B,), float32."""
        scale = preconditioning.c_in(sigma, self.prediction_type, self.sigma_data)
        timestep = preconditioning.c_noise(sigma, self.prediction_type, self.log_sigmas)
        return preconditioning.per_sample(scale, sample) * sample, timestep

    def denoised(self, model_output: torch.Tensor, sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """g, the estimate of z_0 from F, float32."""
        return preconditioning.denoised(model_output, sample, sigma, self.prediction_type, self.sigma_data)


class Denoiser:
    """g(z; σ) = c_skip·z + c_out·F(c_in·z, c_noise, ...) of a diffusers UNet, any keyword arguments passed on to it.

    The network runs in its own dtype, everything around it in float32. A student wants `timestep_cond` (B, 2): s and ω.
    """

    def __init__(self, network: torch.nn.Module, preconditioning: Preconditioning):
        self.network = network
        self.preconditioning = preconditioning

    def __call__(self, sample: torch.Tensor, sigma: torch.Tensor, **network_kwargs: Any) -> torch.Tensor:
        """z (B, ...) and σ (B,) → g (B, ...), float32."""
        model_input, timestep = self.preconditioning.network_input(sample, sigma)
        dtype = next(self.network.parameters()).dtype
        model_output = self.network(model_input.to(dtype), timestep, **network_kwargs).sample
        return self.preconditioning.denoised(model_output, sample, sigma)


def cast_floats(kwargs: dict[str, torch.Tensor | None], dtype: torch.dtype) -> dict[str, torch.Tensor | None]:
    """Network arguments with floating-point tensors in `dtype`."""
    return {k: v.to(dtype) if v is not None and v.is_floating_point() else v for k, v in kwargs.items()}


class TeacherDenoiser:
    """D_ω(z; σ) = D(z; σ, ∅) + ω·(D(z; σ, c) − D(z; σ, ∅)), both halves in one call of the network.

    Made for one batch: what does not change along a solve is cast and stacked here, once.

    Args:
        network: the teacher, in the dtype it shall run in.
        preconditioning: the teacher's.
        network_kwargs: its conditioning for 2·B samples, [c | ∅], see `PromptConditioning.network_kwargs`.
        guidance_scale: ω, (B,). None leaves guidance out, and `network_kwargs` is for B samples.
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
        """z (B, ...) and σ (B,) → D_ω (B, ...), float32."""
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
