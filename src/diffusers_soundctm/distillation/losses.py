"""Losses, one value per sample."""

import torch

from ..preconditioning import c_out, per_sample


def denoising_loss(
    denoised: torch.Tensor,
    clean: torch.Tensor,
    sigma: torch.Tensor,
    sigma_data: float = 0.5,
    prediction_type: str = "edm",
) -> torch.Tensor:
    """Compute the loss of denoising score matching.

        w(σ) · mean (g − z_0)²        w = 1/c_out(σ)²

    An error of F thus counts the same at every level. For "edm", w = (σ² + σ_data²)/(σ·σ_data)² as in the paper.

    Args:
        denoised: g, (B, ...).
        clean: z_0, (B, ...).
        sigma: σ, (B,).
        sigma_data: Standard deviation of the latents, for "edm".
        prediction_type: What F predicts.

    Returns:
        Loss per sample, (B,), float32.
    """
    weight = c_out(sigma, prediction_type, sigma_data) ** -2
    return (per_sample(weight, clean) * (denoised.float() - clean.float()).square()).flatten(1).mean(1)


def adaptive_weight(consistency_gradient: torch.Tensor, denoising_gradient: torch.Tensor) -> torch.Tensor:
    """Compute the adaptive weight of the denoising loss from the gradients of both losses on the last layer's weight.

    a = ‖∇L_CTM‖ / (‖∇L_DSM‖ + 1e-8), at most 1000
    """
    return (consistency_gradient.norm() / (denoising_gradient.norm() + 1e-8)).clamp(0, 1000)


def l2_distance(sample: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared difference per sample, (B, ...) → (B,)."""
    return (sample - other).square().flatten(1).mean(1)


def output_distance(
    jump: torch.Tensor,
    target: torch.Tensor,
    sigma: torch.Tensor,
    target_sigma: torch.Tensor,
    sigma_data: float = 0.5,
    prediction_type: str = "edm",
) -> torch.Tensor:
    """Compute the mean squared difference of two jumps in units of the network's output F.

        mean ((G − G*) / (max(1 − s/t, 0.1) · c_out(t)))²

    Since G = (s/t)·z + (1 − s/t)·(c_skip·z + c_out·F), an error of F costs the same at every pair of noise levels.
    The bound 0.1 keeps short jumps from dominating.

    Args:
        jump: G, (B, ...).
        target: G*, (B, ...).
        sigma: t, (B,).
        target_sigma: s, (B,).
        sigma_data: Standard deviation of the latents, for "edm".
        prediction_type: What F predicts.

    Returns:
        Distance per sample, (B,), float32.
    """
    scale = (1 - target_sigma / sigma).clamp(min=0.1) * c_out(sigma, prediction_type, sigma_data)
    return ((jump - target) / per_sample(scale, jump)).square().flatten(1).mean(1)


def pseudo_huber_distance(sample: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Compute the pseudo-Huber distance of improved consistency training (arXiv 2310.14189) per sample, (B,).

    mean (√(d² + c²) − c)        c = 0.00054 · √(elements per sample)
    """
    c = 0.00054 * sample[0].numel() ** 0.5
    return (((sample - other).square() + c**2).sqrt() - c).flatten(1).mean(1)
