"""Compare generated sounds with real ones: distances between embeddings, and class recognition by a probe."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .distances import frechet_distance, kernel_distance
from .embeddings import load_embedding
from .probe import LinearProbe
from .published_metrics import compute_metrics, read_captions
from .sounds import default_split, embed_sounds, load_sounds


def compare(
    generated: str,
    reference: str,
    *,
    reference_split: str | None = None,
    probe_train: str | None = None,
    embedding: str = "aisfx",
    sampling_rate: int = 16000,
    duration: float = 5.12,
    metrics: Sequence[str] = (),
    captions: str | None = None,
) -> dict[str, Any]:
    """Compare generated sounds with reference sounds.

    Args:
        generated: folder or data set of generated sounds. The names of subfolders, or the column `label`, are the
            classes.
        reference: folder or data set of real sounds.
        reference_split: split of `reference`, if it is a data set. None is "test", or the only split of a folder.
        probe_train: data set with labels; a linear probe is fitted on its split "train". None leaves recognition out.
        embedding: name of the embedding, see `load_embedding`.
        sampling_rate: sampling rate at which both are read, in Hz.
        duration: length to which both are cropped or padded, in seconds.
        metrics: keys of `published_metrics.METRICS` to compute as well, between folders, on whole sounds.
        captions: csv file with the caption of each generated sound, for the metric `clap`.

    Returns:
        `n_generated`, `n_reference`, `kernel_distance`, `kernel_distance_interval` (95 %) and `frechet_distance`. With
        a probe also `recognized` (fraction), `recognized_interval`, `classes` and `recognized_by_class`. With
        `metrics` also `published`, a dictionary of their values.

    Raises:
        ValueError: an argument is out of range, a source is empty or unreadable, or the probe needs labels that are
            missing.
        ImportError: a package that an embedding or a metric needs is not installed.
    """
    for name, value, most in (("sampling_rate", sampling_rate, 384_000), ("duration", duration, 600)):
        if not 0 < value <= most:
            raise ValueError(f"`{name}` is {value}; pass a positive number of at most {most}.")
    network = load_embedding(embedding)
    published = {}
    if metrics:
        captions = None if captions is None else read_captions(captions)
        published = {"published": compute_metrics(metrics, generated, reference, captions)}
    size = {"sampling_rate": sampling_rate, "num_samples": round(duration * sampling_rate)}
    sounds, labels = load_sounds(generated, **size)
    if probe_train is not None and labels is None:
        raise ValueError(
            f"`generated` {generated!r} has no labels, which the probe needs; put the sounds of each class into a "
            "subfolder of that name."
        )
    real, _ = load_sounds(reference, split=reference_split or default_split(reference), **size)
    x, y = (embed_sounds(network, waveforms, sampling_rate) for waveforms in (sounds, real))
    kernel = kernel_distance(x, y)
    results = {
        "n_generated": len(x),
        "n_reference": len(y),
        "kernel_distance": kernel.value,
        "kernel_distance_interval": [kernel.low, kernel.high],
        "frechet_distance": frechet_distance(x, y),
        **published,
    }
    if probe_train is not None:
        train, train_labels = load_sounds(probe_train, **size)
        if train_labels is None:
            raise ValueError(
                f"`probe_train` {probe_train!r} has no column `label`; add one with the class of each sound."
            )
        unknown = sorted(set(labels) - set(train_labels))
        if unknown:
            raise ValueError(f"`probe_train` has no sounds of the class {unknown[0]!r} of `generated`; add some.")
        probe = LinearProbe.fit(embed_sounds(network, train, sampling_rate), train_labels)
        hits = probe.recognized(x, labels)
        results |= {
            "recognized": float(hits.mean()),
            "recognized_interval": fraction_interval(hits),
            "classes": len(set(labels)),
            "recognized_by_class": {name: float(hits[np.array(labels) == name].mean()) for name in sorted(set(labels))},
        }
    return results


def fraction_interval(hits: np.ndarray) -> list[float]:
    """Return Wilson's 95 % interval for the mean of booleans (N,)."""
    n, fraction, z = len(hits), hits.mean(), 1.96
    center = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return [float(center - half), float(center + half)]


def format_results(results: dict[str, Any]) -> str:
    """Format the results of `compare` as a table."""
    low, high = results["kernel_distance_interval"]
    rows = [
        ("sounds", f"{results['n_generated']} generated, {results['n_reference']} reference"),
        ("kernel distance", f"{results['kernel_distance']:.4g} [{low:.4g}, {high:.4g}]"),
        ("Fréchet distance", f"{results['frechet_distance']:.4g}"),
    ]
    rows += [(name, f"{value:.4g}") for name, value in results.get("published", {}).items()]
    if "recognized" in results:
        low, high = results["recognized_interval"]
        rows.append(
            ("recognized", f"{results['recognized']:.1%} [{low:.1%}, {high:.1%}] of {results['classes']} classes")
        )
    return "\n".join(f"{name:<18}{value}" for name, value in rows)
