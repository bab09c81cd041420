"""The frozen teacher: D(z; σ, c), guided by ω, and its features."""

import torch

from .features import TeacherFeatures
from .networks import Denoiser, Preconditioning


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
        both = self.denoise(torch.cat([sample, sample]), torch.cat([sigma, sigma]), **self.network_kwargs)
        conditional, unconditional = both.chunk(2)
        scale = self.guidance_scale.reshape(-1, *[1] * (sample.ndim - 1))
        return unconditional + scale * (conditional - unconditional)


class FeatureSpace:
    """The teacher's features of points at a noise level, conditional branch; gradients reach the points.

    Args:
        network, preconditioning: the teacher's.
        mode: "full" or "half", see `TeacherFeatures`.
    """

    def __init__(self, network: torch.nn.Module, preconditioning: Preconditioning, mode: str = "full"):
        self.features = TeacherFeatures(network, mode)
        self.preconditioning = preconditioning

    def __call__(
        self, sample: torch.Tensor, sigma: torch.Tensor, network_kwargs: dict[str, torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """z (B, ...), σ (B,) and the conditioning of B samples → feature maps."""
        dtype = next(self.features.parameters()).dtype
        model_input, timestep = self.preconditioning.network_input(sample, sigma)
        return self.features(model_input.to(dtype), timestep, **cast_floats(network_kwargs, dtype))[1]
