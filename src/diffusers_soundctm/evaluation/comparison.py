"""`soundctm evaluate`: how far generated sounds are from real ones, and how many of them a probe recognises."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


def load_sounds(
    source: str, *, split: str = "train", sampling_rate: int = 16000, num_samples: int = 81920
) -> tuple[np.ndarray, list[str] | None]:
    """Sounds of a plain folder of audio files (with subfolders, their names are the labels), or of a data set.

    Args:
        source: Folder, or any data set that `diffusers_soundctm.data.load_clips` reads.
        split: Split, of a data set.
        sampling_rate: Rate of the returned waveforms in Hz.
        num_samples: Sounds are cropped at their end, or padded with silence, to this length.

    Returns:
        int16 waveforms (N, num_samples), and their labels or None.

    Raises:
        ValueError: There is nothing to read, or a file cannot be decoded.
    """
    from ..data import decode_audio, load_clips, metadata_files, to_int16

    folder = Path(source)
    files = (
        sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES) if folder.is_dir() else []
    )
    if not files or metadata_files(folder):
        clips = load_clips(source, split=split, sampling_rate=sampling_rate, num_samples=num_samples)
        return clips.waveforms, clips.labels
    waveforms = np.zeros((len(files), num_samples), np.int16)
    for row, path in zip(waveforms, files, strict=True):
        try:
            waveform = decode_audio(path, sampling_rate)[:num_samples]
        except ValueError as error:
            raise ValueError(f"{path} {error}; repair or remove it.") from error
        row[:] = to_int16(waveform, num_samples)
    in_subfolders = all(path.parent != folder for path in files)
    return waveforms, [path.parent.name for path in files] if in_subfolders else None


def embed_sounds(embedding: Any, waveforms: np.ndarray, sampling_rate: int, *, batch_size: int = 64) -> np.ndarray:
    """Embed int16 waveforms (N, samples), a memory map perhaps, a batch at a time: float32 (N, dimensions)."""
    from diffusers.utils import logging

    batches = [waveforms[start : start + batch_size] for start in range(0, len(waveforms), batch_size)]
    return np.concatenate(
        [
            embedding.embed(np.asarray(batch, np.float32) / 32767, sampling_rate)
            for batch in logging.tqdm(batches, desc="Embedding", unit_scale=batch_size, unit="clip")
        ]
    )


def compare(
    generated: str,
    reference: str,
    *,
    reference_split: str = "test",
    probe_train: str | None = None,
    embedding: str = "aisfx",
    sampling_rate: int = 16000,
    duration: float = 5.12,
    metrics: Sequence[str] = (),
    captions: str | None = None,
) -> dict[str, Any]:
    """Compare generated sounds with reference sounds.

    Args:
        generated: Folder or data set of generated sounds. Names of subfolders, or a column `label`, are their classes.
        reference: Folder or data set of real sounds.
        reference_split: Split of `reference`, if that is a data set.
        probe_train: Data set with labels (split "train") to fit a linear probe on; recognition is left out without it.
        embedding: `load_embedding`'s name.
        sampling_rate: Rate in Hz at which both are read.
        duration: Seconds to which both are cropped or padded.
        metrics: Names of `published.METRICS` to compute too, between folders, of whole sounds.
        captions: csv file with the caption of each generated sound, for the metric `clap`.

    Returns:
        `n_generated`, `n_reference`, `kernel_distance` with `kernel_distance_interval` (95 %), `frechet_distance`, and
        with a probe `recognized` (fraction), `recognized_interval`, `classes` and `recognized_by_class`. `published`
        has the `metrics`.

    Raises:
        ValueError: An argument is out of range, a source is empty or unreadable, or labels are missing for the probe.
    """
    from .distances import frechet_distance, kernel_distance
    from .embeddings import load_embedding
    from .probe import LinearProbe
    from .published_metrics import published_metrics, read_captions

    for name, value in {"sampling_rate": sampling_rate, "duration": duration}.items():
        if not value > 0:
            raise ValueError(f"`{name}` is {value}; give a positive number.")
    network = load_embedding(embedding)
    published = {}
    if metrics:
        captions = None if captions is None else read_captions(captions)
        published = {"published": published_metrics(metrics, generated, reference, captions)}
    size = {"sampling_rate": sampling_rate, "num_samples": round(duration * sampling_rate)}
    sounds, labels = load_sounds(generated, **size)
    if probe_train is not None and labels is None:
        raise ValueError(
            f"`generated` {generated!r} has no labels, which the probe needs; "
            "put the sounds of each class into a subfolder of that name."
        )
    real, _ = load_sounds(reference, split=reference_split, **size)
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
                f"`probe_train` {probe_train!r} has no column `label`; name the class of each sound there."
            )
        unknown = sorted(set(labels) - set(train_labels))
        if unknown:
            raise ValueError(f"`probe_train` has no sounds of the class {unknown[0]!r}, which `generated` has.")
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
    """Wilson's 95 % interval for the mean of booleans (N,)."""
    n, fraction, z = len(hits), hits.mean(), 1.96
    centre = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return [float(centre - half), float(centre + half)]


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON, complete or not at all."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `soundctm evaluate`."""
    parser.description = (
        "Compare generated sounds with real ones. Example: soundctm evaluate --generated sounds --reference my_dataset"
    )
    parser.add_argument("--generated", required=True, help="folder (subfolders name the classes) or data set")
    parser.add_argument("--reference", required=True, help="folder or data set of real sounds")
    parser.add_argument(
        "--reference-split", default="test", help="split of the reference data set (default: %(default)s)"
    )
    parser.add_argument(
        "--probe-train", help="data set with labels, whose split train the recognition probe is fitted on"
    )
    parser.add_argument("--embedding", default="aisfx", help="aisfx, or package.module:factory (default: %(default)s)")
    parser.add_argument("--sampling-rate", type=int, default=16000, help="in Hz (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=5.12, help="seconds compared (default: %(default)s)")
    parser.add_argument(
        "--metrics", nargs="+", default=(), help="of the papers: fad-vggish, fd-openl3, kl-passt, clap; of folders"
    )
    parser.add_argument("--captions", help="csv with the captions of the generated sounds, for clap")
    parser.add_argument("-o", "--output", default="evaluation.json", help="JSON file to write (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="overwrite the JSON file")


def run(args: argparse.Namespace) -> None:
    """Carry out `soundctm evaluate` with arguments from `add_arguments`: print the table and write the JSON file.

    Raises:
        ValueError, OSError, ImportError: The message names the argument and the remedy.
    """
    output = Path(args.output)
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder; give the name of a JSON file.")
    if output.exists() and not args.force:
        raise ValueError(f"--output {output} exists; add --force to overwrite it.")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output {output}: the folder {output.parent} is missing or cannot be written to.")
    options = {name: value for name, value in vars(args).items() if name in compare.__kwdefaults__}
    results = compare(args.generated, args.reference, **options)
    print(format_results(results))
    write_json(output, results)
    print(f"Written to {output}")


def format_results(results: dict[str, Any]) -> str:
    """The results of `compare` as a table."""
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
            ("recognised", f"{results['recognized']:.1%} [{low:.1%}, {high:.1%}] of {results['classes']} classes")
        )
    return "\n".join(f"{name:<18}{value}" for name, value in rows)
