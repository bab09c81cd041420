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
