"""Losses of training, one value a sample."""

import torch

from ..preconditioning import per_sample


def denoising_loss(
    denoised: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor, sigma_data: float = 0.5
) -> torch.Tensor:
    """w(σ)·‖g − z_0‖², w = (σ² + σ_data²)/(σ·σ_data)², mean over all but the batch; (B, ...) → (B,), float32."""
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return (per_sample(weight, clean) * (denoised.float() - clean.float()).square()).flatten(1).mean(1)
