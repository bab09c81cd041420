"""The sampler of `CTMScheduler` in numpy: noise levels, and jumps between them. See there for the equations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Levels:
    """Noise levels of a run of n steps, float32.

    Attributes:
        sigmas: σ_i, decreasing, (n + 1,).
        target_sigmas: s_i, where jump i lands, (n,).
        noise_sigmas: Standard deviation of the noise that leads from s_i to σ_{i+1}, (n,). The last step adds none.
    """

    sigmas: np.ndarray
    target_sigmas: np.ndarray
    noise_sigmas: np.ndarray

    def __len__(self) -> int:
        """Number of steps n."""
        return len(self.target_sigmas)


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> np.ndarray:
    """The n + 1 noise levels of n steps, float32; see `preconditioning.karras_sigmas`."""
    start, end = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return ((start + np.linspace(0, 1, num_steps + 1) * (end - start)) ** rho).astype(np.float32)


def check_sigmas(sigmas: Sequence[float], sigma_min: float, sigma_max: float) -> np.ndarray:
    """Return a caller's noise levels as float32 (n + 1,).

    Raises:
        ValueError: They do not decrease, or leave the range of the model.
    """
    levels = np.asarray(sigmas, dtype=np.float32)
    if levels.ndim != 1 or len(levels) < 2 or not (np.diff(levels) < 0).all():
        raise ValueError(f"`sigmas` is {levels.tolist()}; pass two or more decreasing noise levels.")
    # They pass through float32 and JSON, so the ends may differ in the last bits.
    if levels[-1] < sigma_min * (1 - 1e-5) or levels[0] > sigma_max * (1 + 1e-5):
        raise ValueError(
            f"`sigmas` go from {levels[0]:.6g} to {levels[-1]:.6g}; keep them between sigma_max {sigma_max:.6g} and "
            f"sigma_min {sigma_min:.6g}, without a final 0."
        )
    return levels


def levels(sigmas: np.ndarray, sigma_min: float, gamma: float) -> Levels:
    """Add the targets of the jumps, s_i = √(1 − γ²)·(σ_{i+1} − σ_min) + σ_min, to noise levels (n + 1,)."""
    ends = sigmas[1:].astype(np.float64)
    targets = (math.sqrt(1 - gamma**2) * (ends - sigma_min) + sigma_min).astype(np.float32)
    noise = np.sqrt(np.maximum(ends**2 - targets.astype(np.float64) ** 2, 0)).astype(np.float32)
    noise[-1] = 0
    return Levels(sigmas, targets, noise)


def jump(denoised: np.ndarray, sample: np.ndarray, sigma: np.float32, target_sigma: np.float32) -> np.ndarray:
    """Jump along the trajectory from t to s: G = (s/t)·z_t + (1 − s/t)·g, float32."""
    ratio = target_sigma / sigma
    return ratio * sample + (np.float32(1) - ratio) * denoised
