"""From network output to denoised sound: the affine maps around a network, and the jump along its ODE.

Noise level *is* time: z_t = z_0 + t·ε, ε ~ N(0, I). Every function takes noise levels `sigma` as a number, a scalar
tensor or a tensor of shape (B,), one level a sample, and works in float32 (float64 if given it) whatever the
network's dtype, because at t = 80 an error of the output is multiplied by up to 80.

| prediction_type | c_in        | c_skip          | c_out           | c_noise                      |
|-----------------|-------------|-----------------|-----------------|------------------------------|
| "edm"           | 1/√(t²+σ_d²)| σ_d²/(t²+σ_d²)  | t·σ_d/√(t²+σ_d²)| ln(t)/4                      |
| "epsilon"       | 1/√(t²+1)   | 1               | −t              | τ(t), step of the VP teacher |
| "v_prediction"  | 1/√(t²+1)   | 1/(t²+1)        | −t/√(t²+1)      | τ(t)                         |
| "sample"        | 1/√(t²+1)   | 0               | 1               | τ(t)                         |

The first row is EDM (arXiv 2206.00364); the others read a variance-preserving teacher as a denoiser of z_t. One trained
on continuous levels (Stable Audio) has no table of steps and τ(t) = (2/π)·atan t.
"""

import math
from collections.abc import Sequence

import torch

PREDICTION_TYPES = ("edm", "epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

Sigma = float | torch.Tensor


def check_prediction_type(prediction_type: str) -> None:
    """Raise `ValueError` unless `prediction_type` is one of `PREDICTION_TYPES`."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"`prediction_type` is {prediction_type!r}; choose one of {', '.join(PREDICTION_TYPES)}.")


def at_least_float32(value: Sigma | Sequence[float], device: torch.device | None = None) -> torch.Tensor:
    """`value` as a float32 tensor, or float64 if it is one already."""
    dtype = torch.float64 if getattr(value, "dtype", None) == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=device)


def per_sample(sigma: Sigma, sample: torch.Tensor) -> torch.Tensor:
    """`sigma`, a scalar or (B,), in float32 and shaped to multiply `sample` (B, ...)."""
    sigma = at_least_float32(sigma, sample.device)
    return sigma.reshape(-1, *[1] * (sample.ndim - 1)) if sigma.ndim else sigma


def c_in(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Scale of the network's input, shape of `sigma`: the network sees c_in(t)·z_t."""
    variance = sigma_data**2 if prediction_type == "edm" else 1.0
    return (at_least_float32(sigma) ** 2 + variance).rsqrt()


def c_skip(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Share of the noisy sample in its own denoised estimate, shape of `sigma`."""
    sigma = at_least_float32(sigma)
    if prediction_type == "edm":
        return sigma_data**2 / (sigma**2 + sigma_data**2)
    if prediction_type == "v_prediction":
        return 1 / (sigma**2 + 1)
    check_prediction_type(prediction_type)
    return torch.full_like(sigma, 1.0 if prediction_type == "epsilon" else 0.0)


def c_out(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Scale of the network's output in the denoised estimate, shape of `sigma`."""
    sigma = at_least_float32(sigma)
    if prediction_type == "edm":
        return sigma * sigma_data * (sigma**2 + sigma_data**2).rsqrt()
    if prediction_type == "v_prediction":
        return -sigma * (sigma**2 + 1).rsqrt()
    check_prediction_type(prediction_type)
    return -sigma if prediction_type == "epsilon" else torch.ones_like(sigma)


def c_noise(sigma: Sigma, prediction_type: str = "edm", log_sigmas: torch.Tensor | None = None) -> torch.Tensor:
    """The network's `timestep`, shape of `sigma`.

    "edm": ln(t)/4. Otherwise the fractional step τ of the VP teacher at noise level t, linear between the knots of
    `log_sigmas` (T,), the teacher's ln σ(τ) for τ = 0..T−1 (`vp_log_sigmas`); levels beyond the table take its ends.
    Without a table the teacher knows continuous levels, as the angle (2/π)·atan t in (0, 1).
    """
    if prediction_type != "edm" and log_sigmas is None:
        return at_least_float32(sigma).atan() * (2 / math.pi)
    log_sigma = at_least_float32(sigma).log()
    if prediction_type == "edm":
        return log_sigma / 4
    knots = log_sigmas.to(log_sigma)
    left = torch.searchsorted(knots, log_sigma.contiguous()).clamp(1, len(knots) - 1) - 1
    fraction = (log_sigma - knots[left]) / (knots[left + 1] - knots[left])
    return left + fraction.clamp(0, 1)


def noise_level(timestep: Sigma, prediction_type: str = "edm", log_sigmas: torch.Tensor | None = None) -> torch.Tensor:
    """t of a network's `timestep`, the inverse of `c_noise`, shape of `timestep`."""
    timestep = at_least_float32(timestep)
    if prediction_type == "edm":
        return (4 * timestep).exp()
    if log_sigmas is None:
        return (timestep * (math.pi / 2)).tan()
    knots = log_sigmas.to(timestep)
    left = timestep.long().clamp(0, len(knots) - 2)
    return torch.lerp(knots[left], knots[left + 1], (timestep - left).clamp(0, 1)).exp()


def vp_log_sigmas(
    beta_start: float = 0.0015,
    beta_end: float = 0.0195,
    beta_schedule: str = "scaled_linear",
    num_train_timesteps: int = 1000,
    trained_betas: Sequence[float] | None = None,
) -> torch.Tensor:
    """ln σ(τ) = ln √((1 − ᾱ_τ)/ᾱ_τ) of a variance-preserving teacher, τ = 0..T−1, increasing, float32 (T,).

    The arguments are those of the teacher's diffusers scheduler; the defaults are AudioLDM's (σ from 0.039 to 82).

    Raises:
        ValueError: unknown `beta_schedule`, or betas outside (0, 1), which give no finite noise levels.
    """
    if trained_betas is not None:
        betas = torch.tensor(list(trained_betas), dtype=torch.float64)
    elif beta_schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
    elif beta_schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
    elif beta_schedule == "squaredcos_cap_v2":
        steps = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
        signal = ((steps + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"`beta_schedule` is {beta_schedule!r}; choose one of {', '.join(BETA_SCHEDULES)}.")
    if len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(
            "The betas must be at least two numbers in (0, 1); check `beta_start`, `beta_end`, `trained_betas`."
        )
    signal = (1 - betas).cumprod(0)
    return (((1 - signal) / signal).log() / 2).float()


def denoised(
    model_output: torch.Tensor,
    sample: torch.Tensor,
    sigma: Sigma,
    prediction_type: str = "edm",
    sigma_data: float = 0.5,
) -> torch.Tensor:
    """g = c_skip(t)·z_t + c_out(t)·F: the estimate of z_0, float32.

    Args:
        model_output: F, (B, ...), what the network gave for c_in(t)·z_t.
        sample: z_t, (B, ...), not scaled.
        sigma: t, scalar or (B,).
    """
    skip = per_sample(c_skip(sigma, prediction_type, sigma_data), sample)
    out = per_sample(c_out(sigma, prediction_type, sigma_data), sample)
    return skip * at_least_float32(sample) + out * at_least_float32(model_output)


def jump(pred_original_sample: torch.Tensor, sample: torch.Tensor, sigma: Sigma, target_sigma: Sigma) -> torch.Tensor:
    """G = (s/t)·z_t + (1 − s/t)·g: the point of the trajectory at noise level s, float32; z_t itself at s = t.

    Args:
        pred_original_sample: g, (B, ...), from `denoised`.
        sample: z_t, (B, ...).
        sigma, target_sigma: t and s, scalar or (B,), 0 ≤ s ≤ t.
    """
    ratio = per_sample(target_sigma, sample) / per_sample(sigma, sample)
    return ratio * at_least_float32(sample) + (1 - ratio) * at_least_float32(pred_original_sample)


def karras_sigma(position: Sigma, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> torch.Tensor:
    """Noise level at `position` of the Karras curve (0: σ_max, 1: σ_min), float32, shape of `position`."""
    position = torch.as_tensor(position, dtype=torch.float64)
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return ((start + position * (end - start)) ** rho).float()


def karras_sigmas(
    n_intervals: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> torch.Tensor:
    """σ_i = (σ_max^(1/ρ) + i/n·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ for i = 0..n, decreasing, float32 (n_intervals + 1,)."""
    return karras_sigma(torch.linspace(0, 1, n_intervals + 1, dtype=torch.float64), sigma_min, sigma_max, rho)
