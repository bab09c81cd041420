"""Read audio–caption data sets of any layout into one int16 array and its captions."""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic, is_hidden, reading, write_json
from .captions import METADATA, check_captions, read_metadata
from .skipped import SkippedClips

SILENCE_PEAK = 1e-3
_CACHE_FORMAT = 1
_AUDIO = {".wav", ".flac", ".ogg", ".mp3"}


@dataclass(frozen=True)
class Clips:
    """Clips of equal length in the order of the data set, without those that cannot be used.

    Attributes:
        waveforms: int16 array or read-only memory map, (N, num_samples) of mono clips, else (N, channels, num_samples).
            Full scale is 32767.
        captions: For each clip, one or more captions. Training draws one at a time.
        labels: For each clip, its entry in the column `label`; None if the data set has no such column.
        skipped: Names of the clips that were skipped because their audio is broken or silent.
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
    """Read an audio–caption data set into memory, or into a memory-mapped cache.

    Clips are mixed to mono unless they have `num_channels` channels, resampled, cut at their end or padded with zeros.
    Clips that are broken or stay below -60 dBFS are skipped with a warning.

    Args:
        dataset: Hub id, folder written by `save_to_disk`, folder of parquet files, or folder of audio files with a
            `metadata.csv` or `metadata.jsonl` (columns `file_name` and the captions).
        split: Split to read.
        audio_column: Column of the audio.
        caption_column: Column of the captions: a string, or a list of strings.
        sampling_rate: Sampling rate of the returned waveforms in Hz.
        num_samples: Length of the returned waveforms in samples.
        max_samples: Number of rows to read from the start; None reads all.
        cache_dir: Folder that keeps the decoded array. The next call with the same data and arguments only maps a file.
            None decodes at every call.
        num_channels: Channels of the returned waveforms. A mono clip is repeated.

    Raises:
        ValueError: An argument is out of range, a column or the split is missing, the split is empty, a caption is
            invalid, the metadata is malformed, or more than 1 % of the clips are broken or silent.
    """
    for name, value in {"sampling_rate": sampling_rate, "num_samples": num_samples, "max_samples": max_samples}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` is {value}; give a positive number.")

    rows = _undecoded_rows(dataset, split, audio_column, caption_column, max_samples)
    shape = (num_samples,) if num_channels == 1 else (num_channels, num_samples)
    reader = _Reader(dataset, audio_column, caption_column, sampling_rate)
    if cache_dir is None:
        return reader.read(rows, np.empty((len(rows), *shape), np.int16))

    name = _fingerprint(rows, audio_column, caption_column, sampling_rate, *shape)
    array_path, text_path = (Path(cache_dir) / f"{name}.{suffix}" for suffix in ("npy", "json"))
    if not text_path.exists():
        _write_cache(reader, rows, array_path, text_path, shape)
    text = json.loads(text_path.read_text(encoding="utf-8"))
    # Skipped clips leave unused rows at the end of the file.
    waveforms = np.load(array_path, mmap_mode="r")[: len(text["captions"])]
    return Clips(waveforms=waveforms, **text)


def decode_audio(source: bytes | str | os.PathLike, sampling_rate: int, num_channels: int = 1) -> np.ndarray:
    """Decode an audio file.

    Args:
        source: Content or path of the file.
        sampling_rate: Rate in Hz to resample to.
        num_channels: Channels to return. Other files are mixed to mono and repeated.

    Returns:
        float32 waveform, (samples,) for one channel, else (channels, samples).

    Raises:
        ValueError: The file cannot be decoded, is empty, or holds values that are not finite. The message goes on after
            the name of the clip: "has no samples".
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


def read_waveform(
    audio: Mapping[str, Any] | None, sampling_rate: int, num_samples: int, num_channels: int = 1
) -> np.ndarray:
    """Decode the first `num_samples` of an audio column's value.

    Args:
        audio: Dictionary of `bytes` and `path`; `path` is read where `bytes` is None.
        sampling_rate, num_channels: As for `decode_audio`.
        num_samples: Largest number of samples to return.

    Raises:
        ValueError: The clip is missing, broken or silent. The message goes on after the name of the clip: "is silent".
    """
    source = None if not audio else audio["path"] if audio["bytes"] is None else audio["bytes"]
    if not source:
        raise ValueError("has no audio")
    waveform = decode_audio(source, sampling_rate, num_channels)[..., :num_samples]
    if np.abs(waveform).max() < SILENCE_PEAK:
        raise ValueError("is silent")
    return waveform


def to_int16(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Convert a waveform (..., samples) to int16 (..., num_samples).

    Samples are clipped to full scale, ±1 → ±32767, and padded with zeros.
    """
    padded = np.zeros((*waveform.shape[:-1], num_samples), np.int16)
    padded[..., : waveform.shape[-1]] = np.round(np.clip(waveform, -1, 1) * 32767)
    return padded


def name_of(audio: Mapping[str, Any] | None, number: int) -> str:
    """Name of a clip for messages: the path of its audio, or the number of its row."""
    return (audio or {}).get("path") or f"row {number}"


def open_dataset(dataset: str, split: str) -> Any:
    """Open the rows of a split as a `datasets.Dataset`.

    Args:
        dataset: As for `load_clips`.
        split: Split to open.

    Raises:
        ValueError: The folder is empty, its metadata is missing or malformed, or there is no such split.
    """
    from datasets import DatasetDict, get_dataset_split_names, load_dataset, load_dataset_builder, load_from_disk

    folder = Path(dataset)
    if (folder / "dataset_dict.json").exists() or (folder / "dataset_info.json").exists():
        with reading(f"Data set {dataset!r}"):
            loaded = load_from_disk(str(folder))
        splits = loaded if isinstance(loaded, DatasetDict) else {str(loaded.split or "train"): loaded}
        if split not in splits:
            raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {sorted(splits)}.")
        return splits[split]
    metadata = metadata_files(folder)
    if split in metadata:
        return _audio_folder(metadata[split])
    if metadata:
        raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {sorted(metadata)}.")
    check_described(dataset)
    with reading(f"Data set {dataset!r}"):
        available = get_dataset_split_names(str(dataset))
    if split not in available:
        raise ValueError(f"Data set {dataset!r} has no split {split!r}; it has {available}.")
    files = None
    with reading(f"Data set {dataset!r}"):
        if folder.is_dir():
            # `datasets` caches the rows of a folder by its name and card. With the names and dates of the files as
            # well, it does not confuse them with those of another folder or of earlier files.
            files = {name: list(paths) for name, paths in load_dataset_builder(str(folder)).config.data_files.items()}
        return load_dataset(str(dataset), data_files=files, split=split)


def check_described(dataset: str) -> None:
    """Raise `ValueError` if `dataset` is an empty folder, or one of audio files without metadata."""
    folder = Path(dataset)
    files = (file for file in folder.rglob("*") if file.is_file() and not is_hidden(file.relative_to(folder)))
    suffixes = {file.suffix.lower() for file in files}
    if folder.is_dir() and not suffixes:
        raise ValueError(f"`dataset` {dataset!r} is an empty folder; put audio files and a metadata.csv into it.")
    if suffixes & _AUDIO and ".parquet" not in suffixes:
        raise ValueError(
            f"Data set {dataset!r} has audio files but no metadata.csv or metadata.jsonl; add one with the columns "
            "file_name and caption."
        )


def metadata_files(folder: Path) -> dict[str, Path]:
    """Find the `metadata.csv` or `metadata.jsonl` of each split of an audio folder.

    A file in the folder itself describes the split "train", one in a subfolder the split of that name.
    """
    found: dict[str, Path] = {}
    for name in METADATA:
        splits = {"train": folder / name} | {file.parent.name: file for file in folder.glob(f"*/{name}")}
        found = {split: file for split, file in splits.items() if file.is_file() and not is_hidden(split)} | found
    return found


def _audio_folder(metadata: Path) -> Any:
    """What `datasets` makes of an audio folder, without the audio decoder that it requires."""
    from datasets import Dataset

    rows = read_metadata(metadata)
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {"file_name": [], "caption": []}
    for name, values in columns.items():
        if any(isinstance(value, list) for value in values):  # a column has one type
            columns[name] = [[value] if isinstance(value, str) else value for value in values]
    files = columns.pop("file_name")
    audio = [{"bytes": None, "path": str(metadata.parent / name)} for name in files]
    try:
        return Dataset.from_dict({"audio": audio, **columns})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{metadata} has a column whose values differ in type ({error}); make them alike.") from error


def _undecoded_rows(dataset: str, split: str, audio_column: str, caption_column: str, max_samples: int | None) -> Any:
    """Audio, captions and labels of a split, as a `datasets.Dataset`."""
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
    return rows.select_columns([audio_column, caption_column] + (["label"] if "label" in rows.column_names else []))


def _fingerprint(rows: Any, audio_column: str, *settings: str | int) -> str:
    """Digest of what a cached array depends on: rows, settings, and size and date of files outside the rows."""
    digest = hashlib.sha256(repr((_CACHE_FORMAT, rows._fingerprint, audio_column, settings)).encode())
    present = (row[audio_column] for row in rows if row[audio_column])
    first = next(present, None)
    if first and first["bytes"] is None:
        for audio in chain([first], present):
            file = Path(str(audio["path"]))
            found = file.stat() if file.exists() else None
            digest.update(repr((str(file), found and (found.st_size, found.st_mtime_ns))).encode())
    return digest.hexdigest()[:32]


def _write_cache(reader: "_Reader", rows: Any, array_path: Path, text_path: Path, shape: tuple[int, ...]) -> None:
    array_path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(array_path) as temporary:
        waveforms = np.lib.format.open_memmap(temporary, "w+", np.int16, (len(rows), *shape))
        clips = reader.read(rows, waveforms)
        waveforms.flush()
    # The last: its presence says that the array is complete.
    write_json(text_path, {"captions": clips.captions, "labels": clips.labels, "skipped": clips.skipped})


@dataclass(frozen=True)
class _Reader:
    dataset: str
    audio_column: str
    caption_column: str
    sampling_rate: int

    def read(self, rows: Any, waveforms: np.ndarray) -> Clips:
        """Decode `rows` into the int16 array `waveforms`."""
        num_samples = waveforms.shape[-1]
        num_channels = 1 if waveforms.ndim == 2 else waveforms.shape[1]
        captions: list[list[str]] = []
        labels: list[str] | None = [] if "label" in rows.column_names else None
        skipped, names = SkippedClips(), []
        for index, row in enumerate(rows):
            audio = row[self.audio_column]
            name = name_of(audio, index)
            try:
                options = check_captions(row[self.caption_column], self.caption_column)
            except ValueError as error:
                raise ValueError(f"{name} of data set {self.dataset!r} {error}.") from error
            try:
                waveform = read_waveform(audio, self.sampling_rate, num_samples, num_channels)
            except ValueError as error:
                skipped.record(name, error)
                names.append(name)
                continue
            skipped.record(name)
            waveforms[len(captions)] = to_int16(waveform, num_samples)
            captions.append(options)
            if labels is not None:
                labels.append(_label(rows, row["label"]))
        skipped.check(self.dataset)
        return Clips(waveforms[: len(captions)], captions, labels, names)


def _label(rows: Any, value: Any) -> str:
    feature = rows.features["label"]
    return feature.int2str(value) if hasattr(feature, "int2str") and isinstance(value, int) else str(value)
