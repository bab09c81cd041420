"""Distances between two sets of embeddings: the Fréchet distance, and the kernel distance for small sets."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """An estimate with its bootstrap interval.

    Attributes:
        value: the estimate on all the data.
        low: lower bound of the 95 % interval.
        high: upper bound of the 95 % interval.
        n: sizes of the two sets.
        replicates: the bootstrap values. Two estimates with the same `seed` over sets of the same sizes resample the
            same positions, so the differences of their replicates are paired.
    """

    value: float
    low: float
    high: float
    n: tuple[int, int]
    replicates: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n[0]}, {self.n[1]})"


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the Fréchet distance |μ_x − μ_y|² + tr(C_x + C_y − 2 (C_x C_y)^½).

    It is biased upwards unless N and M are far above D. Compare values only between sets of the same sizes.

    Args:
        x: embeddings (N, D).
        y: embeddings (M, D).

    Raises:
        ValueError: a set has fewer than two embeddings or values that are not finite, or the dimensions differ.
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
    """Estimate the squared maximum mean discrepancy with the kernel (x·y/D + 1)³, as in KID.

    The estimate is unbiased: its expectation does not depend on N and M, so it suits small sets, and it can be
    negative.

    Args:
        x: embeddings (N, D).
        y: embeddings (M, D).
        num_bootstrap: number of bootstrap resamplings for the interval.
        seed: seed of the resampling.

    Returns:
        The estimate with its 95 % interval.

    Raises:
        ValueError: see `frechet_distance`.
    """
    _check(x, y)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    k_xx, k_yy, k_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))

    generator = np.random.default_rng(seed)
    # How often each sample is drawn. Pairs of a sample with itself never count, even if it is drawn twice.
    weights_x = generator.multinomial(len(x), np.full(len(x), 1 / len(x)), num_bootstrap).astype(np.float64)
    weights_y = generator.multinomial(len(y), np.full(len(y), 1 / len(y)), num_bootstrap).astype(np.float64)

    def discrepancy(w_x: np.ndarray, w_y: np.ndarray) -> np.ndarray:
        cross = ((w_x @ k_xy) * w_y).sum(1) / (w_x.sum(1) * w_y.sum(1))
        return _mean_over_pairs(k_xx, w_x) + _mean_over_pairs(k_yy, w_y) - 2 * cross

    replicates = discrepancy(weights_x, weights_y)
    # With very few samples, a draw can consist of one sample only. Then there is no pair, and the value is NaN.
    low, high = np.nanquantile(replicates, (0.025, 0.975))
    value = discrepancy(np.ones((1, len(x))), np.ones((1, len(y))))[0]
    return Estimate(float(value), float(low), float(high), (len(x), len(y)), replicates)


def _mean_over_pairs(kernel: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average `kernel` (N, N) over pairs of different samples, for each of B draws with `weights` (B, N)."""
    total = ((weights @ kernel) * weights).sum(1) - weights**2 @ np.diagonal(kernel)
    pairs = weights.sum(1) ** 2 - (weights**2).sum(1)
    return np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)


def _check(x: np.ndarray, y: np.ndarray) -> None:
    for name, value in (("x", x), ("y", y)):
        if value.ndim != 2 or len(value) < 2:
            raise ValueError(f"`{name}` has shape {value.shape}; pass at least two embeddings as (N, dimensions).")
        if not np.isfinite(value).all():
            raise ValueError(f"`{name}` has values that are not finite; check the audio that it was computed from.")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"`x` has {x.shape[1]} dimensions and `y` {y.shape[1]}; use one embedding for both.")
