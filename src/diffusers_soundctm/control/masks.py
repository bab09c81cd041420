"""Spans of time and masks over time: which part of a waveform or of its latents counts."""

from collections.abc import Sequence

import torch

from ..audio import to_tensor

Spans = Sequence[tuple[float, float]]


def parse_spans(spans: Spans) -> list[tuple[float, float]]:
    """Return `spans` as a list of (start, end) pairs in seconds.

    Raises:
        ValueError: There are no spans, or one is empty, negative or not finite.
    """
    try:
        pairs = [(start, end) for start, end in spans]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(not 0 <= start < end < float("inf") for start, end in pairs):
        raise ValueError(f"`spans` is {spans}; pass (start, end) pairs in seconds with 0 ≤ start < end.")
    return pairs


def parse_latents(latents: torch.Tensor) -> torch.Tensor:
    """Return a batch of known latents (N, C, time, ...) as float32.

    Raises:
        ValueError: `latents` has too few dimensions or values that are not finite.
    """
    if latents.ndim < 3 or not latents.isfinite().all():
        raise ValueError(f"`latents` has shape {tuple(latents.shape)}; pass a finite batch (N, C, time, width).")
    return latents.float()


def parse_mask(mask: torch.Tensor, length: int) -> torch.Tensor:
    """Return a mask (length,) over latent positions as float32.

    Raises:
        ValueError: The mask has another length, has values that are negative or not finite, or is zero everywhere.
    """
    mask = to_tensor(mask, "mask").float()
    if mask.shape != (length,):
        raise ValueError(f"`mask` has shape {tuple(mask.shape)}; pass ({length},), one value per latent position.")
    if not mask.isfinite().all() or (mask < 0).any():
        raise ValueError("`mask` holds values that are negative, NaN or infinite; pass 1 for what counts, else 0.")
    if not mask.any():
        raise ValueError("`mask` is zero everywhere; set the positions that count to 1.")
    return mask


def span_mask(spans: Spans | None, length: int, rate: float) -> torch.Tensor:
    """Return 1 inside the spans and 0 outside, (length,). All ones if `spans` is None.

    Args:
        spans: (start, end) pairs in seconds.
        length: Number of frames or samples.
        rate: Frames or samples per second.

    Raises:
        ValueError: No frame lies inside a span.
    """
    if spans is None:
        return torch.ones(length)
    mask = torch.zeros(length)
    for start, end in spans:
        mask[round(start * rate) : round(end * rate)] = 1
    if not mask.any():
        raise ValueError(f"`spans` {spans} contain no part of the {length / rate:g} s of audio; move or widen them.")
    return mask


def over_time(values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Reshape values (time,) to multiply latents (B, C, time, ...)."""
    return values.to(latents).reshape(-1, *[1] * (latents.ndim - 3))


def masked_mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean of values (B, ...) over all dimensions but the first, (B,). `weight` broadcasts to `values`."""
    weight = weight.expand_as(values)
    return (values * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)
