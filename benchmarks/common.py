"""What the benchmarks share: tables with the command that made them, and real clips as embeddings, computed once."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn, uint8
from tqdm import tqdm

from diffusers_soundctm.data import load_clips
from diffusers_soundctm.evaluation import LinearProbe, load_embedding
from diffusers_soundctm.files import write_json

SAMPLING_RATE = 16000
PIECE = 200  # clips embedded between two writes to the cache
PAIR = " + "  # between the labels of a mixture


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table on standard output."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def print_command() -> None:
    """The command that this process was started with."""
    script = Path(sys.argv[0])
    print(f"\n`python {script.parent.name}/{script.name} {shlex.join(sys.argv[1:])}`")
    print("Results that were kept are in docs/results.md.\n")


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """An .npz file, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)


def digest(*networks: nn.Module) -> str:
    """Sixteen hexadecimal digits that tell weights and configurations apart."""
    of_all = hashlib.sha256()
    for network in networks:
        config = getattr(network, "config", {})
        config = config.to_dict() if hasattr(config, "to_dict") else config
        settings = {name: value for name, value in config.items() if not name.startswith("_")}
        # What JSON cannot write may look different every time.
        of_all.update(json.dumps(settings, sort_keys=True, default=lambda value: None).encode())
        for name, value in sorted(network.state_dict().items()):
            of_all.update(name.encode())
            of_all.update(value.contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return of_all.hexdigest()[:16]


def real_embeddings(
    dataset: str, split: str, cache: Path, max_clips: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """Embeddings (N, D), labels (N,) and captions of the first `max_clips` clips of a split.

    Kept in `cache`, piece by piece; give every data set a cache of its own.
    """
    text = cache / f"{split}.json"
    if not text.exists():
        clips = load_clips(dataset, split=split, cache_dir=cache)
        if clips.labels is None:
            raise ValueError(f"Data set {dataset!r} has no column `label`; recognition needs one.")
        write_json(text, {"labels": clips.labels, "captions": clips.captions})
    known = json.loads(text.read_text(encoding="utf-8"))
    labels, captions = np.array(known["labels"])[:max_clips], known["captions"][:max_clips]
    pieces, waveforms = [], None
    embedding = load_embedding()
    for start in tqdm(range(0, len(labels), PIECE), desc=f"Embedding {split}", unit_scale=PIECE, unit="clip"):
        path = cache / f"{split}-{start:06d}.npz"
        if not path.exists():
            if waveforms is None:
                waveforms = load_clips(dataset, split=split, cache_dir=cache).waveforms
            batch = np.asarray(waveforms[start : start + PIECE], np.float32) / 32767
            save_arrays(path, embeddings=embedding.embed(batch, SAMPLING_RATE))
        pieces.append(np.load(path)["embeddings"])
    return np.concatenate(pieces)[: len(labels)], labels, captions


def single_sounds(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the mixtures."""
    keep = np.array([PAIR not in label for label in labels])
    return embeddings[keep], labels[keep]


def single_probe(embeddings: np.ndarray, labels: np.ndarray, cache: Path) -> LinearProbe:
    """The probe fitted on the single sounds among training clips; kept in `cache`."""
    path = cache / f"probe-{len(labels)}.npz"
    if not path.exists():
        LinearProbe.fit(*single_sounds(embeddings, labels)).save(path)
    return LinearProbe.load(path)
