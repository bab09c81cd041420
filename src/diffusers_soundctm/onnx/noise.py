"""The random numbers of torch's CPU generator, without torch.

The same seed gives the same noise in every runtime, so that it gives the same sound. torch draws with the Mersenne
Twister MT19937, which numpy has as well, and turns uniform numbers into normal ones with the method of Box and Muller,
in one way for 16 and more values and in another for fewer.
"""

import math
from collections.abc import Sequence

import numpy as np

BLOCK = 16  # values that torch's vectorized kernel turns into normal ones at once


class NoiseGenerator:
    """Gives the numbers of a `torch.Generator` on the CPU.

    Args:
        seed: From 0 to 2^64 − 1. As in torch, the lower 32 bits count.
    """

    def __init__(self, seed: int = 0):
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> "NoiseGenerator":
        """Start again from a seed, and return the generator."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise ValueError(f"`seed` is {seed!r}; choose an integer from 0 to 2^64 - 1.")
        self._bits = np.random.MT19937()
        self._bits._legacy_seeding(int(seed) & 0xFFFFFFFF)  # seeds by Knuth's recursion, as torch does
        self._second: float | None = None  # the other half of the last pair of single values
        return self

    def randn(self, shape: Sequence[int]) -> np.ndarray:
        """Draw standard normal values like `torch.randn(shape, generator=generator)`, float32.

        They differ from torch's by at most a few units in the last place: its logarithm, sine and cosine depend on the
        processor.
        """
        size = math.prod(shape)
        values = self._vectorized(size) if size >= BLOCK else np.array([self._single() for _ in range(size)])
        return values.astype(np.float32).reshape(shape)

    def _vectorized(self, size: int) -> np.ndarray:
        uniform = self._uniform(size)
        whole = size - size % BLOCK
        values = np.empty(size)
        values[:whole] = _box_muller(uniform[:whole])
        if size % BLOCK:  # torch draws the last 16 values anew, some of which are done already
            values[-BLOCK:] = _box_muller(self._uniform(BLOCK))
        return values

    def _uniform(self, size: int) -> np.ndarray:
        """Uniform float32 values in [0, 1), with 24 bits each."""
        return (self._bits.random_raw(size) & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)

    def _single(self) -> float:
        """One value in float64. Each two come from one pair of uniform values with 53 bits."""
        if self._second is not None:
            value, self._second = self._second, None
            return value
        pairs = self._bits.random_raw(4).reshape(2, 2).tolist()
        angle, distance = (((high << 32 | low) & (2**53 - 1)) * 2.0**-53 for high, low in pairs)
        radius = math.sqrt(-2 * math.log1p(-distance))
        self._second = radius * math.sin(2 * math.pi * angle)
        return radius * math.cos(2 * math.pi * angle)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """Turn blocks of 16 uniform float32 values into normal ones: the first 8 of a block are the radii, 8 the angles."""
    first, second = uniform.reshape(-1, 2, BLOCK // 2).transpose(1, 0, 2)
    radius = np.sqrt(-2 * np.log((np.float32(1) - first).astype(np.float64)))
    angle = (np.float32(2 * math.pi) * second).astype(np.float64)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
