"""Audio files, read and written without torch."""

import logging
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import atomic

logger = logging.getLogger(__name__)

# Extension to name, largest number of channels and largest sampling rate of the formats that can be written.
FORMATS = {".wav": ("WAV", 1024, 2**31 - 1), ".flac": ("FLAC", 8, 655350)}
# In bytes. libsndfile stops reading a WAV file's tags at the first one beyond 2045, and adds its name to `software`.
LONGEST_WAV_TAG = 2000


def check_format(
    path: Path, num_channels: int, sampling_rate: Any, tags: Mapping[str, str] | None = None, bits: Any = 16
) -> None:
    """Raise `ValueError` unless a file can hold such a waveform; arguments as in `audio.write_audio`."""
    import soundfile

    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"`path` {str(path)!r} ends in {path.suffix!r}; choose one of {', '.join(FORMATS)}.")
    name, most_channels, highest_rate = FORMATS[path.suffix.lower()]
    if not 1 <= num_channels <= most_channels:
        raise ValueError(
            f"`waveform` has {num_channels} channels, but {name} files hold 1 to {most_channels}; pass "
            "(channels, samples), not (samples, channels)."
        )
    if not isinstance(sampling_rate, numbers.Integral) or not 1 <= sampling_rate <= highest_rate:
        raise ValueError(f"`sampling_rate` is {sampling_rate!r}; pass an integer from 1 to {highest_rate} for {name}.")
    if bits not in (16, 24):
        raise ValueError(f"`bits` is {bits!r}; choose 16 or 24.")
    unknown = set(tags or ()) - set(soundfile._str_types)
    if unknown:
        raise ValueError(f"`tags` has the keys {sorted(unknown)}; choose among {sorted(soundfile._str_types)}.")


def write_samples(
    path: Path, samples: np.ndarray, sampling_rate: int, tags: Mapping[str, str] | None = None, bits: int = 16
) -> None:
    """Write samples within ±1, (channels, samples), completely or not at all; see `audio.write_audio`.

    Raises:
        ValueError: see `check_format`.
        OSError: `path` is a folder or a device, or its folder does not exist or is not writable.
    """
    import soundfile

    check_format(path, len(samples), sampling_rate, tags, bits)
    name = FORMATS[path.suffix.lower()][0]
    tags = {key: text for key, text in (tags or {}).items() if text}  # libsndfile rejects empty ones
    if name == "WAV":
        tags = {key: _cut_tag(key, text) for key, text in tags.items()}
    try:
        # Through Python's file, whose errors name the cause (a full disk, for example).
        with (
            atomic(path) as temporary,
            temporary.open("wb") as raw,
            soundfile.SoundFile(raw, "w", sampling_rate, len(samples), f"PCM_{bits}", format=name) as file,
        ):
            for key, text in tags.items():
                setattr(file, key, text)
            file.write(samples.T)
    except OSError as error:
        raise OSError(
            f"`path` {str(path)!r} cannot be written: {error.strerror or error}; choose a writable folder."
        ) from error


def edge_fades(num_samples: int, sampling_rate: int, seconds: float = 0.005) -> np.ndarray:
    """Return the gain (num_samples,), float32, that fades the first and the last `seconds` of a waveform in and out.

    The fades are halves of a Hann window, and each lasts at most half of the waveform.
    """
    length = min(round(seconds * sampling_rate), num_samples // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(length, dtype=np.float32) / max(length, 1))  # begins at 0
    return np.concatenate([rise, np.ones(num_samples - 2 * length), rise[::-1]]).astype(np.float32)


def _cut_tag(name: str, text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= LONGEST_WAV_TAG:
        return text
    logger.warning(
        f"The tag `{name}` has {len(encoded)} bytes and is cut to {LONGEST_WAV_TAG}, the limit of WAV files; write a "
        ".flac file to keep it complete."
    )
    return encoded[:LONGEST_WAV_TAG].decode(errors="ignore")


def read_tags(path: str | os.PathLike) -> dict[str, str]:
    """Read the metadata of an audio file."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        return file.copy_metadata()
