"""Distances between two sets of embeddings: Fréchet, and the kernel distance to prefer for small sets."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval.

    Attributes:
        value: The estimate on all the data.
        low, high: Bounds of the 95 % interval.
        n: Sizes of the two sets.
        replicates: The bootstrap values. Those of two estimates over sets of the same sizes and the same `seed` drew
            the same positions, so that their difference is a paired one.
    """

    value: float
    low: float
    high: float
    n: tuple[int, int]
    replicates: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n[0]}, {self.n[1]})"


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """|μ_x − μ_y|² + tr(C_x + C_y − 2 (C_x C_y)^½) between embeddings (N, D) and (M, D).

    Biased upwards when N or M is not far above D: compare only between sets of the same size.

    Raises:
        ValueError: Fewer than two embeddings in a set, other dimensions, or values that are not finite.
    """
    from scipy.linalg import eigh

    _check(x, y)
    mean_x, mean_y = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    covariance_x = np.atleast_2d(np.cov(x, rowvar=False, dtype=np.float64))
    covariance_y = np.atleast_2d(np.cov(y, rowvar=False, dtype=np.float64))
    # tr (C_x C_y)^½ = tr (C_x^½ C_y C_x^½)^½, whose argument is symmetric: real eigenvalues, singular or not.
    values, vectors = eigh(covariance_x)
    root_x = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    trace_root = np.sqrt(np.maximum(eigh(root_x @ covariance_y @ root_x, eigvals_only=True), 0)).sum()
    distance = ((mean_x - mean_y) ** 2).sum() + np.trace(covariance_x) + np.trace(covariance_y) - 2 * trace_root
    return float(max(distance, 0.0))


def kernel_distance(x: np.ndarray, y: np.ndarray, *, num_bootstrap: int = 1000, seed: int = 0) -> Estimate:
    """Unbiased squared maximum mean discrepancy with the kernel (x·y/D + 1)³, as in KID, with a bootstrap interval.

    Its expectation does not depend on N and M, so it suits small sets; being unbiased, it can come out below zero.

    Args:
        x: Embeddings (N, D).
        y: Embeddings (M, D).
        num_bootstrap: Number of resamplings for the interval.
        seed: Of the resampling.

    Raises:
        ValueError: See `frechet_distance`.
    """
    _check(x, y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))

    generator = np.random.default_rng(seed)
    # How often each sample is drawn. A pair of one sample with itself never counts, drawn once or twice.
    weights_x = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), num_bootstrap).astype(np.float64)
    weights_y = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), num_bootstrap).astype(np.float64)

    def discrepancy(w_x: np.ndarray, w_y: np.ndarray) -> np.ndarray:
        cross = ((w_x @ k_xy) * w_y).sum(1) / (w_x.sum(1) * w_y.sum(1))
        return _mean_over_pairs(k_xx, w_x) + _mean_over_pairs(k_yy, w_y) - 2 * cross

    replicates = discrepancy(weights_x, weights_y)
    # Of a handful of samples, a draw can repeat one alone, which leaves no pair to average over.
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    value = discrepancy(np.ones((1, len(x))), np.ones((1, len(y))))[0]
    return Estimate(float(value), float(low), float(high), (len(x), len(y)), replicates)


def _mean_over_pairs(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of `kernel` (N, N) over pairs of different samples drawn with `weights` (B, N), for each of the B draws."""
    total = ((weights @ kernel) * weights).sum(1) - weights**2 @ np.diagonal(kernel)
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)


def _check(x: np.ndarray, y: np.ndarray) -> None:
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2 or len(value) < 2:
            raise ValueError(f"`{name}` has shape {value.shape}; give at least two embeddings as (N, dimensions).")
        if not np.isfinite(value).all():
            raise ValueError(f"`{name}` has values that are not finite; check the sounds it was computed from.")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"`x` has {x.shape[1]} dimensions and `y` {y.shape[1]}; use one embedding for both.")
