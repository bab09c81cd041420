"""Read the audio to evaluate, and embed it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import is_hidden

if TYPE_CHECKING:
    from .embeddings import AudioEmbedding

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")


def audio_files(folder: Path) -> list[Path]:
    """Return the audio files in `folder` and its subfolders, sorted; hidden files are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and not is_hidden(path.relative_to(folder))
    )


def default_split(source: str) -> str:
    """Return "test", or the split of a folder with `metadata.csv` or `metadata.jsonl` that has only one."""
    from ..data import metadata_files

    splits = list(metadata_files(Path(source))) if Path(source).is_dir() else []
    return splits[0] if len(splits) == 1 else "test"


def load_sounds(
    source: str, *, split: str = "train", sampling_rate: int = 16000, num_samples: int = 81920
) -> tuple[np.ndarray, list[str] | None]:
    """Load waveforms from a plain folder of audio files or from a data set.

    Args:
        source: folder whose subfolders name the classes, or a data set that `diffusers_soundctm.data.load_clips`
            reads.
        split: split of a data set; folders have none.
        sampling_rate: sampling rate of the returned waveforms, in Hz.
        num_samples: length of the returned waveforms. Longer ones are cropped at their end, shorter ones are padded
            with silence.

    Returns:
        int16 waveforms (N, num_samples), and their labels or None.

    Raises:
        ValueError: nothing is found, or a file cannot be decoded.
    """
    from ..data import decode_audio, load_clips, metadata_files, to_int16

    folder = Path(source)
    files = audio_files(folder) if folder.is_dir() else []
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


def embed_sounds(
    embedding: "AudioEmbedding", waveforms: np.ndarray | Sequence[np.ndarray], sampling_rate: int, batch_size: int = 64
) -> np.ndarray:
    """Embed int16 waveforms batch by batch.

    Args:
        embedding: the embedding.
        waveforms: int16 (N, samples); may be a memory map.
        sampling_rate: in Hz.
        batch_size: waveforms per call of the embedding.

    Returns:
        float32 (N, dimensions).

    Raises:
        TypeError: the waveforms have another dtype.
    """
    from diffusers.utils import logging

    for batch in waveforms if isinstance(waveforms, (list, tuple)) else [waveforms]:
        if batch.dtype != np.int16:
            raise TypeError(f"`waveforms` has the dtype {batch.dtype}; pass int16, as `load_sounds` returns them.")
    batches = [waveforms[start : start + batch_size] for start in range(0, len(waveforms), batch_size)]
    return np.concatenate(
        [
            embedding.embed(np.asarray(batch, np.float32) / 32767, sampling_rate)
            for batch in logging.tqdm(batches, desc="Embedding", unit_scale=batch_size, unit="clip")
        ]
    )
