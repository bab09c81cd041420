"""A folder of recordings as training material: captions, silence, levels, windows and duplicates."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import is_hidden
from .captions import METADATA, check_captions, read_metadata
from .clips import SILENCE_PEAK, Clips, decode_audio, to_int16

MIN_RECORDINGS, MAX_RECORDINGS = 5, 200
MAX_SECONDS = 3600.0
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
NEAR_DUPLICATE = 0.98  # correlation of log-spectrograms
_RATE = 16000  # in Hz, at which recordings are compared
_FRAME_SECONDS, _FLOOR_DB, _MARGIN_SECONDS = 0.02, 50.0, 0.04


@dataclass(frozen=True)
class Recording:
    """A recording before it is decoded.

    Attributes:
        path: Its file.
        captions: What it sounds like, one or more paraphrases.
        seconds: Its length.
    """

    path: Path
    captions: list[str]
    seconds: float


@dataclass(frozen=True)
class Material:
    """What a network is trained on.

    Attributes:
        clips: Windows of equal length, with their captions.
        sources: For each window, the name of its recording.
        notes: What the user should know, one sentence each.
    """

    clips: Clips
    sources: list[str]
    notes: list[str]


def find_recordings(folder: Path, caption: str | None = None) -> list[Recording]:
    """Find the recordings of a folder and their captions, without decoding them.

    Captions come from `metadata.csv` or `metadata.jsonl`, else from `caption`, else from the names of the files:
    `wooden_door-02.wav` is "wooden door".

    Args:
        folder: Audio files, in subfolders or not.
        caption: One caption for all recordings.

    Raises:
        ValueError: The folder is missing or holds fewer than 5 or more than 200 recordings or more than an hour of
            audio, a file cannot be read, all files are the same, or captions are missing or contradict each other.
    """
    import soundfile

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give a folder of {MIN_RECORDINGS} to {MAX_RECORDINGS} recordings.")
    named = _captions(folder, caption)
    if not MIN_RECORDINGS <= len(named) <= MAX_RECORDINGS:
        count = "1 recording" if len(named) == 1 else f"{len(named)} recordings"
        raise ValueError(f"{folder} holds {count}; give {MIN_RECORDINGS} to {MAX_RECORDINGS}, 20 are a good start.")
    found = []
    for path, captions in named.items():
        try:
            found.append(Recording(path, captions, soundfile.info(path).duration))
        except (soundfile.SoundFileError, OSError) as error:
            raise ValueError(f"{path} cannot be read ({error}); convert it to WAV or FLAC, or remove it.") from error
    seconds = sum(recording.seconds for recording in found)
    if seconds > MAX_SECONDS:
        raise ValueError(
            f"{folder} holds {seconds / 60:.0f} minutes of audio; give at most {MAX_SECONDS / 60:.0f}, or train a "
            "model of your own with train_teacher.py and train_ctm.py."
        )
    _check_contents(found)
    return found


def read_material(
    recordings: Sequence[Recording],
    sampling_rate: int,
    num_samples: int,
    num_channels: int = 1,
    speed_semitones: float = 0.0,
    seed: int = 0,
) -> Material:
    """Decode recordings, trim silence, match levels and cut windows that overlap by half.

    Args:
        recordings: From `find_recordings`.
        sampling_rate: Of the windows, in Hz.
        num_samples: Length of a window. Shorter recordings are padded with zeros.
        num_channels: Channels of the windows.
        speed_semitones: Largest change of tape speed, up or down, of one more version of each recording: pitch and
            duration change together. 0 adds none.
        seed: Of the changes of speed.

    Raises:
        ValueError: A recording is broken or silent, or all sound the same.
    """
    waveforms = []
    for recording in recordings:
        try:
            waveform = decode_audio(recording.path, sampling_rate, num_channels)
            if np.abs(waveform).max() < SILENCE_PEAK:
                raise ValueError("is silent")
        except ValueError as error:
            raise ValueError(f"{recording.path} {error}; record it again, or remove it.") from error
        waveforms.append(trim(waveform, sampling_rate))
    names = [recording.path.name for recording in recordings]
    kept, notes = _without_duplicates(recordings, waveforms, names, sampling_rate)
    levels = {index: _level(waveforms[index], sampling_rate) for index in kept}
    target = float(np.median(list(levels.values())))
    rng = np.random.default_rng(seed)
    windows: list[np.ndarray] = []
    captions: list[list[str]] = []
    sources: list[str] = []
    for index in kept:
        waveform = waveforms[index] * min(target / levels[index], 0.98 / np.abs(waveforms[index]).max())
        versions = [waveform]
        if speed_semitones:
            versions.append(change_speed(waveform, 2 ** (rng.uniform(-speed_semitones, speed_semitones) / 12)))
        for window in (window for version in versions for window in cut_windows(version, num_samples)):
            windows.append(to_int16(window, num_samples))
            captions.append(recordings[index].captions)
            sources.append(names[index])
    return Material(Clips(np.stack(windows), captions, None, []), sources, notes)


def trim(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Remove what is 50 dB quieter than the loudest moment, at both ends of a waveform (..., samples)."""
    size = max(1, round(_FRAME_SECONDS * sampling_rate))
    rms = _frame_rms(waveform, size)
    (loud,) = np.nonzero(rms > rms.max() * 10 ** (-_FLOOR_DB / 20))
    margin = round(_MARGIN_SECONDS * sampling_rate)
    return waveform[..., max(0, loud[0] * size - margin) : (loud[-1] + 1) * size + margin]


def cut_windows(waveform: np.ndarray, num_samples: int) -> Iterator[np.ndarray]:
    """Cut a waveform (..., samples) into windows that overlap by half or more, without silent ones."""
    length = waveform.shape[-1]
    count = 1 + max(0, -(-(length - num_samples) // max(1, num_samples // 2)))
    for start in np.linspace(0, max(0, length - num_samples), count).round().astype(int):
        window = waveform[..., start : start + num_samples]
        if np.abs(window).max() >= SILENCE_PEAK:
            yield window


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Play a waveform (..., samples) faster by `factor`, as a tape: its pitch rises by the same factor."""
    import soxr

    return np.ascontiguousarray(soxr.resample(np.ascontiguousarray(waveform.T), factor, 1.0).T)


def _captions(folder: Path, caption: str | None) -> dict[Path, list[str]]:
    """File → its captions."""
    tables = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(tables) > 1:
        raise ValueError(f"{folder} has both {' and '.join(METADATA)}; keep the one that is right.")
    if tables:
        if caption is not None:
            raise ValueError(f"{tables[0]} has captions, and --caption gives another one; leave out one of them.")
        return _captions_of_table(tables[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = [path for path in files if path.is_file() and not is_hidden(path.relative_to(folder))]
    captions = {path: [_caption_of_name(path) if caption is None else caption] for path in files}
    for path, (text,) in captions.items():
        if not text:
            raise ValueError(f"The name of {path} says nothing; pass --caption or --name, or write a metadata.csv.")
    return captions


def _captions_of_table(table: Path) -> dict[Path, list[str]]:
    captions: dict[Path, list[str]] = {}
    for row in read_metadata(table):
        path = table.parent / row["file_name"]
        if "caption" not in row:
            raise ValueError(f"{table} has the columns {list(row)}; name the column of the captions 'caption'.")
        try:
            texts = check_captions(row["caption"])
        except ValueError as error:
            raise ValueError(f"{row['file_name']} of {table} {error}.") from error
        if captions.get(path, texts) != texts:
            raise ValueError(
                f"{table} describes {row['file_name']} as {captions[path][0]!r} and as {texts[0]!r}; keep one row."
            )
        captions[path] = texts
    return captions


def _caption_of_name(path: Path) -> str:
    words = re.sub(r"[\W\d_]+", " ", path.stem).strip()
    return words.lower() if re.search(r"\w\w", words) else ""


def _check_contents(recordings: Sequence[Recording]) -> None:
    """Raise `ValueError` if all files have the same content, or equal ones have different captions."""
    first: dict[str, Recording] = {}
    pairs = []
    for recording in recordings:
        digest = hashlib.sha256(recording.path.read_bytes()).hexdigest()
        pairs.append((first.setdefault(digest, recording), recording))
    if len(first) == 1:
        raise ValueError(f"All {len(recordings)} files are copies of {recordings[0].path.name}; record several sounds.")
    for one, other in pairs:
        if set(one.captions).isdisjoint(other.captions):
            raise ValueError(
                f"{one.path.name} and {other.path.name} are the same file, described as {one.captions[0]!r} "
                f"and as {other.captions[0]!r}; keep the right one."
            )


def _without_duplicates(
    recordings: Sequence[Recording], waveforms: Sequence[np.ndarray], names: Sequence[str], sampling_rate: int
) -> tuple[list[int], list[str]]:
    """Indices of the recordings to keep, and a note on every one that is left out or close to another."""
    spectra = [_spectrum(waveform, sampling_rate) for waveform in waveforms]
    kept: list[int] = []
    notes = []
    for index, waveform in enumerate(waveforms):
        equal = [i for i in kept if np.array_equal(waveforms[i], waveform)]
        alike = [i for i in kept if _similarity(spectra[i], spectra[index]) > NEAR_DUPLICATE]
        if equal:
            notes.append(f"{names[index]} is the same as {names[equal[0]]} and is left out.")
            continue
        if alike:
            notes.append(f"{names[index]} sounds almost the same as {names[alike[0]]}; two takes teach more than one.")
        kept.append(index)
    if len(kept) == 1 or len(notes) == len(recordings) - 1:
        raise ValueError(f"All {len(recordings)} recordings sound like {names[0]}; record several sounds.")
    return kept, notes


def _spectrum(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Log-spectrogram (frames, 64) of the loudest 60 dB, for comparisons."""
    import soxr

    from ..audio import log_mel
    from ..audio import to_tensor as tensor

    mono = waveform if waveform.ndim == 1 else waveform.mean(axis=0)
    mono = soxr.resample(mono, sampling_rate, _RATE)
    mono = np.pad(mono / max(np.abs(mono).max(), SILENCE_PEAK), (0, max(0, 1024 - len(mono))))
    mel = log_mel(tensor(mono, "waveform").float()).numpy()
    return np.maximum(mel, mel.max() - 60 / 8.686)


def _similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Largest correlation of two log-spectrograms over small shifts; 0 if their lengths differ by more than 10 %."""
    shorter, longer = sorted((len(one), len(other)))
    if shorter < 0.9 * longer:
        return 0.0
    shifts: list[Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = [
        lambda a, b, k=k: (a[max(k, 0) :], b[max(-k, 0) :]) for k in range(-3, 4)
    ]
    best = 0.0
    for a, b in (shift(one, other) for shift in shifts):
        length = min(len(a), len(b))
        if length > 4:
            best = max(best, float(np.corrcoef(a[:length].ravel(), b[:length].ravel())[0, 1]))
    return best


def _frame_rms(waveform: np.ndarray, size: int) -> np.ndarray:
    mono = np.square(waveform.reshape(-1, waveform.shape[-1]).astype(np.float64)).mean(axis=0)
    padded = np.pad(mono, (0, -len(mono) % size))
    return np.sqrt(padded.reshape(-1, size).mean(axis=1))


def _level(waveform: np.ndarray, sampling_rate: int) -> float:
    """RMS of the moments within 30 dB of the loudest."""
    rms = _frame_rms(waveform, max(1, round(_FRAME_SECONDS * sampling_rate)))
    return float(np.sqrt(np.square(rms[rms > rms.max() * 10**-1.5]).mean()))
