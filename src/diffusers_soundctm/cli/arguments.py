"""Arguments that several commands share, and the checks that need no model."""

import argparse
import math
import os
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")
EXTENSIONS = (".wav", ".flac")
MAX_SEED = 2**63 - 1


def add_model(parser: argparse.ArgumentParser, default: str = "the embedded model") -> None:
    """Add `--model`."""
    parser.add_argument("--model", help=f"folder or Hub id of a model (default: {default})")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps, ... (default: cuda if available, else cpu)")


def add_dtype(parser: argparse.ArgumentParser, default: str | None = "float32") -> None:
    """Add `--dtype`. None stands for the dtype of the draft."""
    shown = "the draft's" if default is None else "%(default)s"
    parser.add_argument("--dtype", choices=DTYPES, default=default, help=f"precision of the model (default: {shown})")


def add_lora(parser: argparse.ArgumentParser) -> None:
    """Add `--lora`."""
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FOLDER[:WEIGHT]",
        help="adapter that `soundctm learn` made: folder or Hub id, and its weight (default: 1); may be repeated",
    )


def add_output(parser: argparse.ArgumentParser, default: Path | None, shown: str) -> None:
    """Add `--output`, `--force` and `--loudness`, for commands that write sounds."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", default=default, help=f".wav or .flac file to write ({shown})"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")
    parser.add_argument(
        "--loudness",
        type=float,
        metavar="LUFS",
        help="normalize to this loudness, with peaks below -1 dBTP; broadcast uses -23 (default: not normalized)",
    )


def output_paths(output: Path, count: int, force: bool) -> list[Path]:
    """Return the files to write, numbered if `count` is above 1.

    Raises:
        ValueError: a file cannot be written, or it exists and `force` is False.
    """
    check_output(output)
    digits = len(str(count))
    paths = [output.with_stem(f"{output.stem}-{i + 1:0{digits}d}") for i in range(count)] if count > 1 else [output]
    for path in paths:
        check_overwrite(path, force)
    return paths


def check_output(output: Path) -> None:
    """Raise `ValueError` unless `output` has a known extension and its folder exists and is writable."""
    if output.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"--output {output} has another format; choose a name that ends in {' or '.join(EXTENSIONS)}.")
    check_output_folder(output)


def check_output_folder(output: Path) -> None:
    """Raise `ValueError` unless the folder of `output` exists and is writable."""
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist; create it or choose another.")
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output {output}: the folder {output.parent} is not writable; choose another.")


def check_overwrite(path: Path, force: bool) -> None:
    """Raise `ValueError` if `path` is a folder or a device, or exists and `force` is False."""
    if path.exists() and not path.is_file():
        raise ValueError(f"--output {path} exists and is not a regular file; choose another name.")
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"--output {path} is a link to {target}, whose folder does not exist; choose another name.")
    if os.path.lexists(path) and not force:
        raise ValueError(f"--output {path} exists; pass --force to replace it, or choose another name.")


def check_steps(steps: int, name: str = "--steps") -> None:
    """Raise `ValueError` unless `steps` is at least 1."""
    if steps < 1:
        raise ValueError(f"{name} is {steps}; choose at least 1.")


def check_seed(seed: int, name: str = "--seed") -> None:
    """Raise `ValueError` unless a generator accepts `seed`."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{name} is {seed}; choose a number from 0 to 2^63 - 1.")


def check_duration(duration: float, name: str = "--duration") -> None:
    """Raise `ValueError` unless `duration` is a positive number. The longest one depends on the model."""
    if not 0 < duration < math.inf:
        raise ValueError(f"{name} is {duration}; choose more than 0 seconds.")


def check_loudness(loudness: float, name: str = "--loudness") -> None:
    """Raise `ValueError` unless `loudness` is within the range of `audio.normalize_loudness`."""
    from .. import audio

    audio.check_loudness(loudness, name)
