"""From network output to denoised sample: the affine maps around a network, and the jump along its ODE.

The noise level is the time: z_t = z_0 + t·ε, ε ~ N(0, I). Every function accepts noise levels `sigma` as a number, a
scalar tensor, or a tensor (B,) with one level per sample. All arithmetic is in float32 (in float64 for float64 inputs),
whatever the dtype of the network, because an error of the output is multiplied by up to t, 80 for example.

| prediction_type | c_in        | c_skip          | c_out           | c_noise                      |
|-----------------|-------------|-----------------|-----------------|------------------------------|
| "edm"           | 1/√(t²+σ_d²)| σ_d²/(t²+σ_d²)  | t·σ_d/√(t²+σ_d²)| ln(t)/4                      |
| "epsilon"       | 1/√(t²+1)   | 1               | −t              | τ(t), step of the VP teacher |
| "v_prediction"  | 1/√(t²+1)   | 1/(t²+1)        | −t/√(t²+1)      | τ(t)                         |
| "sample"        | 1/√(t²+1)   | 0               | 1               | τ(t)                         |
| "flow"          | 1/(1+t)     | 1/(1+t)         | −t/(1+t)        | t/(1+t)                      |
| "inverted_flow" | 1/(1+t)     | 1/(1+t)         | t/(1+t)         | 1/(1+t)                      |

The first row is EDM (arXiv 2206.00364). The next three turn a variance-preserving (VP) teacher into a denoiser of z_t.
A teacher that was trained on continuous noise levels (Stable Audio) has no table of steps; there τ(t) = (2/π)·atan t.
The last two turn a rectified flow x_f = (1 − f)·z_0 + f·ε into one, with f = t/(1+t) and z_t = (1+t)·x_f. A "flow"
network predicts ε − z_0 at time f. An "inverted_flow" network predicts z_0 − ε at time 1 − f, so that its noise is at
time 0 and its data at time 1.
"""

import math
from collections.abc import Sequence

import torch

FLOW_TYPES = ("flow", "inverted_flow")
PREDICTION_TYPES = ("edm", "epsilon", "v_prediction", "sample", *FLOW_TYPES)
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

Sigma = float | torch.Tensor


def check_prediction_type(prediction_type: str) -> None:
    """Raise `ValueError` unless `prediction_type` is one of `PREDICTION_TYPES`."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"`prediction_type` is {prediction_type!r}; choose one of {', '.join(PREDICTION_TYPES)}.")


def at_least_float32(value: Sigma | Sequence[float], device: torch.device | None = None) -> torch.Tensor:
    """Convert `value` to a float32 tensor. float64 tensors stay float64."""
    dtype = torch.float64 if getattr(value, "dtype", None) == torch.float64 else torch.float32
    return torch.as_tensor(value, dtype=dtype, device=device)


def per_sample(sigma: Sigma, sample: torch.Tensor) -> torch.Tensor:
    """Convert `sigma`, a scalar or (B,), to float32 and to a shape that multiplies `sample` (B, ...)."""
    sigma = at_least_float32(sigma, sample.device)
    return sigma.reshape(-1, *[1] * (sample.ndim - 1)) if sigma.ndim else sigma


def c_in(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Scale of the network's input, in the shape of `sigma`: the network sees c_in(t)·z_t."""
    if prediction_type in FLOW_TYPES:
        return 1 / (1 + at_least_float32(sigma))
    variance = sigma_data**2 if prediction_type == "edm" else 1.0
    return (at_least_float32(sigma) ** 2 + variance).rsqrt()


def c_skip(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Weight of the noisy sample in the denoised estimate, in the shape of `sigma`."""
    sigma = at_least_float32(sigma)
    if prediction_type == "edm":
        return sigma_data**2 / (sigma**2 + sigma_data**2)
    if prediction_type == "v_prediction":
        return 1 / (sigma**2 + 1)
    if prediction_type in FLOW_TYPES:
        return 1 / (1 + sigma)
    check_prediction_type(prediction_type)
    return torch.full_like(sigma, 1.0 if prediction_type == "epsilon" else 0.0)


def c_out(sigma: Sigma, prediction_type: str = "edm", sigma_data: float = 0.5) -> torch.Tensor:
    """Weight of the network's output in the denoised estimate, in the shape of `sigma`."""
    sigma = at_least_float32(sigma)
    if prediction_type == "edm":
        return sigma * sigma_data * (sigma**2 + sigma_data**2).rsqrt()
    if prediction_type == "v_prediction":
        return -sigma * (sigma**2 + 1).rsqrt()
    if prediction_type in FLOW_TYPES:
        return (-sigma if prediction_type == "flow" else sigma) / (1 + sigma)
    check_prediction_type(prediction_type)
    return -sigma if prediction_type == "epsilon" else torch.ones_like(sigma)


def c_noise(sigma: Sigma, prediction_type: str = "edm", log_sigmas: torch.Tensor | None = None) -> torch.Tensor:
    """The network's `timestep` at noise level t, in the shape of `sigma`.

    For "edm" it is ln(t)/4, for "flow" t/(1+t) and for "inverted_flow" 1/(1+t). Otherwise it is the fractional step τ
    of the VP teacher at noise level t, by linear interpolation in `log_sigmas`. Noise levels beyond the table are
    clamped to its ends. Without a table, the teacher was trained on continuous noise levels, and the timestep is the
    angle (2/π)·atan t in (0, 1).

    Args:
        sigma: t, scalar or (B,).
        prediction_type: One of `PREDICTION_TYPES`.
        log_sigmas: ln σ(τ) of the teacher for τ = 0..T−1, (T,), from `vp_log_sigmas`.
    """
    if prediction_type in FLOW_TYPES:
        sigma = at_least_float32(sigma)
        return (sigma if prediction_type == "flow" else 1) / (1 + sigma)
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
    """The noise level t of a network's `timestep`, the inverse of `c_noise`, in the shape of `timestep`."""
    timestep = at_least_float32(timestep)
    if prediction_type == "edm":
        return (4 * timestep).exp()
    if prediction_type in FLOW_TYPES:
        return timestep / (1 - timestep) if prediction_type == "flow" else (1 - timestep) / timestep
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
    """The table ln σ(τ) = ln √((1 − ᾱ_τ)/ᾱ_τ) of a VP teacher for τ = 0..T−1, increasing, float32 (T,).

    The arguments are those of the teacher's diffusers scheduler. The defaults are AudioLDM's (σ from 0.0388 to 83.82).

    Args:
        beta_start: First β.
        beta_end: Last β.
        beta_schedule: One of `BETA_SCHEDULES`.
        num_train_timesteps: T.
        trained_betas: All T values of β, in place of a `beta_schedule`.

    Raises:
        ValueError: `beta_schedule` is unknown, or a β lies outside (0, 1), so that its noise level is not finite.
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
            f"The betas are {betas.tolist()[:3]}...; pass `beta_start` and `beta_end`, or at least two "
            "`trained_betas`, in (0, 1)."
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
    """Estimate z_0 as g = c_skip(t)·z_t + c_out(t)·F, float32.

    Args:
        model_output: F, (B, ...), the network's output for c_in(t)·z_t.
        sample: z_t, (B, ...), not scaled.
        sigma: t, scalar or (B,).
        prediction_type: One of `PREDICTION_TYPES`.
        sigma_data: Standard deviation of clean samples, used by "edm".
    """
    skip = per_sample(c_skip(sigma, prediction_type, sigma_data), sample)
    out = per_sample(c_out(sigma, prediction_type, sigma_data), sample)
    return skip * at_least_float32(sample) + out * at_least_float32(model_output)


def jump(pred_original_sample: torch.Tensor, sample: torch.Tensor, sigma: Sigma, target_sigma: Sigma) -> torch.Tensor:
    """Jump along the trajectory from noise level t to s: G = (s/t)·z_t + (1 − s/t)·g, float32. It is z_t for s = t.

    Args:
        pred_original_sample: g, (B, ...), from `denoised`.
        sample: z_t, (B, ...).
        sigma: t, scalar or (B,).
        target_sigma: s, scalar or (B,), 0 ≤ s ≤ t.
    """
    ratio = per_sample(target_sigma, sample) / per_sample(sigma, sample)
    return ratio * at_least_float32(sample) + (1 - ratio) * at_least_float32(pred_original_sample)


def karras_sigma(position: Sigma, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> torch.Tensor:
    """Noise level at a position on the Karras curve, float32, in the shape of `position`.

    Args:
        position: From 0 (σ_max) to 1 (σ_min).
        sigma_min: Lowest noise level.
        sigma_max: Highest noise level.
        rho: Curvature ρ.
    """
    position = torch.as_tensor(position, dtype=torch.float64)
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return ((start + position * (end - start)) ** rho).float()


def karras_sigmas(
    n_intervals: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> torch.Tensor:
    """Noise levels of Karras et al. (arXiv 2206.00364), decreasing, float32 (n_intervals + 1,):

        σ_i = (σ_max^(1/ρ) + i/n·(σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ,      i = 0..n

    Args:
        n_intervals: n.
        sigma_min: σ_n.
        sigma_max: σ_0.
        rho: Curvature ρ.
    """
    return karras_sigma(torch.linspace(0, 1, n_intervals + 1, dtype=torch.float64), sigma_min, sigma_max, rho)
