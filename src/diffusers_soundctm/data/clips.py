"""Audio–caption data sets: any layout in, one int16 array and its captions out."""

import csv
import hashlib
import io
import json
import logging
import os
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .captions import wordings_of

logger = logging.getLogger(__name__)

MAX_CORRUPT_FRACTION = 0.01
SILENCE_PEAK = 1e-3
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Clips:
    """Clips of equal length, in data set order, with the unusable ones left out.

    Attributes:
        waveforms: int16 array (or read-only memory map) of shape (N, num_samples), mono, or (N, channels, num_samples);
            full scale 32767.
        captions: For each clip, its wordings (at least one); draw one of them at a time.
        labels: For each clip, the `label` column, or None if the data set has none.
        skipped: Names of corrupt or silent files that were left out.
    """

    waveforms: np.ndarray
    captions: list[list[str]]
    labels: list[str] | None
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def load_clips(
    dataset: str,
    *,
    split: str = "train",
    audio_column: str = "audio",
    caption_column: str = "caption",
    sampling_rate: int = 16000,
    num_samples: int = 81920,
    max_samples: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    num_channels: int = 1,
) -> Clips:
    """Read an audio–caption data set into memory (or a memory-mapped cache).

    Channels are averaged unless there are `num_channels` of them, other rates resampled, longer clips cropped at their
    end and shorter ones zero-padded. Corrupt files and files without a sample above -60 dBFS are skipped, named in a
    warning and listed in `Clips.skipped`.

    Args:
        dataset: Hub id, folder written by `save_to_disk`, folder of parquet files, or folder of audio files with a
            `metadata.csv` (columns `file_name` and the caption).
        split: Split to read.
        audio_column: Column of the audio.
        caption_column: Column of the captions: a string, or a list of wordings.
        sampling_rate: Rate of the returned waveforms in Hz.
        num_samples: Samples per returned clip.
        max_samples: Read the first so many rows only.
        cache_dir: Folder that keeps the decoded array, so that the next call with the same data and arguments only maps
            a file. None decodes every time.
        num_channels: Channels of the returned waveforms; mono sounds are repeated.

    Raises:
        ValueError: A column or split is missing, the split is empty, a caption is empty, or more than 1 % of the audio
            is corrupt or silent.
    """
    for name, value in {"sampling_rate": sampling_rate, "num_samples": num_samples, "max_samples": max_samples}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; give a positive number.")

    rows = open_dataset(dataset, split)
    for name in (audio_column, caption_column):
        if name not in rows.column_names:
            raise ValueError(
                f"Column {name!r} is not in data set {dataset!r}, which has {rows.column_names}; "
                "name the right ones with `audio_column` and `caption_column`."
            )
    if max_samples is not None:
        rows = rows.select(range(min(max_samples, len(rows))))
    if len(rows) == 0:
        raise ValueError(f"Split {split!r} of data set {dataset!r} has no rows; give one that has.")

    from datasets import Audio

    rows = rows.cast_column(audio_column, Audio(decode=False))
    columns = [audio_column, caption_column] + (["label"] if "label" in rows.column_names else [])
    rows = rows.select_columns(columns)

    shape = (num_samples,) if num_channels == 1 else (num_channels, num_samples)
    if cache_dir is None:
        waveforms = np.empty((len(rows), *shape), np.int16)
        return _read(rows, waveforms, dataset, audio_column, caption_column, sampling_rate)

    fingerprint = _fingerprint(rows, audio_column, caption_column, sampling_rate, *shape)
    array_path = Path(cache_dir) / f"{fingerprint}.npy"
    text_path = Path(cache_dir) / f"{fingerprint}.json"
    if not text_path.exists():
        _write_cache(rows, array_path, text_path, dataset, audio_column, caption_column, sampling_rate, shape)
    text = json.loads(text_path.read_text(encoding="utf-8"))
    # Skipped clips leave unused rows at the end of the file.
    waveforms = np.load(array_path, mmap_mode="r")[: len(text["captions"])]
    return Clips(waveforms=waveforms, **text)


def decode_audio(source: bytes | str | os.PathLike, sampling_rate: int, num_channels: int = 1) -> np.ndarray:
    """Decode an audio file to a float32 waveform at `sampling_rate` Hz: (samples,), or (channels, samples) of several.

    Raises:
        ValueError: The file cannot be decoded, is empty, or holds values that are not finite.
    """
    import soundfile
    import soxr

    try:
        waveform, rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32", always_2d=True
        )
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise ValueError(f"cannot be decoded ({error})") from error
    if waveform.shape[1] != num_channels:
        waveform = waveform.mean(axis=1, keepdims=True).repeat(num_channels, axis=1)
    if len(waveform) == 0:
        raise ValueError("has no samples")
    if not np.isfinite(waveform).all():
        raise ValueError("has samples that are not finite")
    waveform = waveform if rate == sampling_rate else soxr.resample(waveform, rate, sampling_rate)
    return waveform[:, 0] if num_channels == 1 else np.ascontiguousarray(waveform.T)


def open_dataset(dataset: str, split: str) -> Any:
    """The rows of a split, a `datasets.Dataset`; `dataset` is whatever `load_clips` takes.

    Raises:
        ValueError: The folder is empty, its `metadata.csv` has no `file_name`, or there is no such split.
    """
    from datasets import DatasetDict, get_dataset_split_names, load_dataset, load_from_disk

    folder = Path(dataset)
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        loaded = load_from_disk(str(folder))
        splits = loaded if isinstance(loaded, DatasetDict) else {str(loaded.split or "train"): loaded}
        if split not in splits:
            raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {sorted(splits)}.")
        return splits[split]
    if folder.is_dir() and not any(folder.iterdir()):
        raise ValueError(f"`dataset` {dataset!r} is an empty folder; put audio files and a metadata.csv into it.")
    metadata = metadata_files(folder)
    if split in metadata:
        return _audiofolder(metadata[split])
    if metadata:
        raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {sorted(metadata)}.")
    available = get_dataset_split_names(str(dataset))
    if split not in available:
        raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {available}.")
    return load_dataset(str(dataset), split=split)


def metadata_files(folder: Path) -> dict[str, Path]:
    """Split → `metadata.csv` of a folder of audio files: in it (split "train") or in a subfolder for each split."""
    files = {"train": folder / "metadata.csv"} | {file.parent.name: file for file in folder.glob("*/metadata.csv")}
    return {split: file for split, file in files.items() if file.exists()}


def _audiofolder(metadata: Path) -> Any:
    """What `datasets` makes of such a folder, without the audio decoder that it insists on."""
    from datasets import Dataset

    with metadata.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
        reader = csv.DictReader(file)
        rows = list(reader)
        names = list(reader.fieldnames or [])
    if "file_name" not in names:
        raise ValueError(f"{metadata} has the columns {names}; give it a column 'file_name' with the audio files.")
    columns: dict[str, list] = {"audio": [{"bytes": None, "path": str(metadata.parent / r["file_name"])} for r in rows]}
    columns |= {name: [row[name] for row in rows] for name in names if name != "file_name"}
    return Dataset.from_dict(columns)


def _fingerprint(rows: Any, audio_column: str, *settings: str | int) -> str:
    """Of what the cached array depends on: the rows, the settings, and files outside the rows by size and date."""
    digest = hashlib.sha256(repr((_CACHE_FORMAT, rows._fingerprint, audio_column, settings)).encode())
    present = (row[audio_column] for row in rows if row[audio_column])
    first = next(present, None)
    if first and first["bytes"] is None:
        for audio in chain([first], present):
            file = Path(str(audio["path"]))
            found = file.stat() if file.exists() else None
            digest.update(repr((str(file), found and (found.st_size, found.st_mtime_ns))).encode())
    return digest.hexdigest()[:32]


def _write_cache(
    rows: Any,
    array_path: Path,
    text_path: Path,
    dataset: str,
    audio_column: str,
    caption_column: str,
    sampling_rate: int,
    shape: tuple[int, ...],
) -> None:
    array_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = array_path.with_suffix(f".{os.getpid()}.tmp")
    try:
        waveforms = np.lib.format.open_memmap(temporary, "w+", np.int16, (len(rows), *shape))
        clips = _read(rows, waveforms, dataset, audio_column, caption_column, sampling_rate)
        waveforms.flush()
        temporary.replace(array_path)
        temporary.write_text(
            json.dumps({"captions": clips.captions, "labels": clips.labels, "skipped": clips.skipped}), encoding="utf-8"
        )
        temporary.replace(text_path)  # last: its presence says that the array is complete
    finally:
        temporary.unlink(missing_ok=True)


def _read(
    rows: Any, waveforms: np.ndarray, dataset: str, audio_column: str, caption_column: str, sampling_rate: int
) -> Clips:
    num_samples = waveforms.shape[-1]
    num_channels = 1 if waveforms.ndim == 2 else waveforms.shape[1]
    captions: list[list[str]] = []
    labels: list[str] | None = [] if "label" in rows.column_names else None
    skipped: list[str] = []
    for index, row in enumerate(rows):
        audio = row[audio_column] or {"path": None, "bytes": None}
        name = audio["path"] or f"row {index}"
        wordings = wordings_of(row[caption_column], caption_column, name, dataset)
        try:
            waveform = sounding(audio, sampling_rate, num_samples, num_channels)
        except ValueError as error:
            logger.warning("Skipped %s: it %s.", name, error)
            skipped.append(name)
            continue
        position = len(captions)
        waveforms[position] = to_int16(waveform, num_samples)
        captions.append(wordings)
        if labels is not None:
            labels.append(_label(rows, row["label"]))
    if skipped:
        logger.warning("Skipped %d of %d clips of data set %s.", len(skipped), len(rows), dataset)
    if len(skipped) > MAX_CORRUPT_FRACTION * len(rows):
        raise ValueError(
            f"{len(skipped)} of {len(rows)} clips of data set {dataset!r} are corrupt or silent, more than "
            f"{MAX_CORRUPT_FRACTION:.0%}: {', '.join(skipped[:20])}{' …' if len(skipped) > 20 else ''}. "
            "Repair or remove these files."
        )
    return Clips(waveforms[: len(captions)], captions, labels, skipped)


def sounding(audio: dict[str, Any], sampling_rate: int, num_samples: int, num_channels: int = 1) -> np.ndarray:
    """First `num_samples` of an undecoded audio column's value, as `decode_audio`; `ValueError` if broken or silent."""
    source = audio["bytes"] if audio["bytes"] is not None else audio["path"]
    waveform = decode_audio(source, sampling_rate, num_channels)[..., :num_samples]
    if np.abs(waveform).max() < SILENCE_PEAK:
        raise ValueError("is silent")
    return waveform


def to_int16(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Float (..., samples), clipped to [-1, 1] → int16 (..., num_samples), full scale 32767, padded with silence."""
    padded = np.zeros((*waveform.shape[:-1], num_samples), np.int16)
    padded[..., : waveform.shape[-1]] = np.round(np.clip(waveform, -1, 1) * 32767)
    return padded


def _label(rows: Any, value: Any) -> str:
    feature = rows.features["label"]
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else str(value)
