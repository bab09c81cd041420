"""Losses of training, one value a sample."""

import torch

from ..preconditioning import c_out, per_sample


def denoising_loss(
    denoised: torch.Tensor,
    clean: torch.Tensor,
    sigma: torch.Tensor,
    sigma_data: float = 0.5,
    prediction_type: str = "edm",
) -> torch.Tensor:
    """w(σ)·‖g − z_0‖², w = 1/c_out(σ)², mean over all but the batch; (B, ...) → (B,), float32.

    So an error of F counts the same at every level. For "edm" w = (σ² + σ_data²)/(σ·σ_data)², the paper's.
    """
    weight = c_out(sigma, prediction_type, sigma_data) ** -2
    return (per_sample(weight, clean) * (denoised.float() - clean.float()).square()).flatten(1).mean(1)


def adaptive_weight(consistency_gradient: torch.Tensor, denoising_gradient: torch.Tensor) -> torch.Tensor:
    """a = ‖∇L_CTM‖/(‖∇L_DSM‖ + 1e-8) clamped to [0, 1000], from both gradients on the last layer's weight."""
    return (consistency_gradient.norm() / (denoising_gradient.norm() + 1e-8)).clamp(0, 1000)


def l2_distance(sample: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of each sample, (B, ...) → (B,)."""
    return (sample - other).square().flatten(1).mean(1)


def output_distance(
    jump: torch.Tensor,
    target: torch.Tensor,
    sigma: torch.Tensor,
    target_sigma: torch.Tensor,
    sigma_data: float = 0.5,
    prediction_type: str = "edm",
) -> torch.Tensor:
    """Mean squared difference of two jumps in units of the network's output F, (B, ...) → (B,), float32.

    mean(((G − G*) / (max(1 − s/t, 0.1)·c_out(t)))²). G = (s/t)·z + (1 − s/t)·(c_skip·z + c_out·F), so an error of F
    costs the same at every pair of noise levels. Jumps shorter than a tenth of t are not weighted up any further.
    """
    scale = (1 - target_sigma / sigma).clamp(min=0.1) * c_out(sigma, prediction_type, sigma_data)
    return ((jump - target) / per_sample(scale, jump)).square().flatten(1).mean(1)


def pseudo_huber_distance(sample: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """mean(√(d² + c²) − c), c = 0.00054·√(elements of a sample), as in improved consistency training; (B,)."""
    c = 0.00054 * sample[0].numel() ** 0.5
    return (((sample - other).square() + c**2).sqrt() - c).flatten(1).mean(1)
