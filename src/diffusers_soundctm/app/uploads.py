"""Read uploaded audio files."""

from pathlib import Path
from typing import Any

import torch

from .. import audio
from .recipe import DURATION

MAX_UPLOAD_BYTES = 20 * 2**20
# Of all channels, before resampling. A small compressed file may contain many more.
MAX_UPLOAD_SAMPLES = 30 * 2 * 192_000
SILENCE = 1e-4  # peaks up to this are silent
LOUDEST = 10.0  # largest peak; files of floats may exceed full scale, but more than 20 dB is a mistake in the scaling


def read_upload(path: Any, sampling_rate: int, num_channels: int) -> torch.Tensor:
    """Read an audio file as a waveform of the given sampling rate and channels.

    Args:
        path: The file: WAV, FLAC, OGG or MP3, 0.5 to 30 s, at most 20 MB.
        sampling_rate: Sampling rate of the result in Hz.
        num_channels: Channels of the result.

    Returns:
        Waveform (channels, samples), float32.

    Raises:
        ValueError: The file is too large, too long or too short, silent, far above full scale, or not an audio file.
    """
    import soundfile

    if not isinstance(path, (str, Path)):
        raise ValueError("There is no file; choose a WAV, FLAC, OGG or MP3 file.")
    size = Path(path).stat().st_size
    if size > MAX_UPLOAD_BYTES:
        raise ValueError(f"The file has {size / 2**20:.0f} MB; choose one of at most {MAX_UPLOAD_BYTES // 2**20} MB.")
    try:
        with soundfile.SoundFile(path) as file:
            seconds, samples = file.frames / file.samplerate, file.frames * file.channels
    except (OSError, TypeError, soundfile.SoundFileError) as error:  # headerless files (.raw) raise TypeError
        raise ValueError("The file is not a readable sound file; choose a WAV, FLAC, OGG or MP3 file.") from error
    low, high = DURATION
    if not low <= seconds <= high:
        raise ValueError(f"The sound lasts {seconds:.2f} s; choose one of {low:g} to {high:g} s.")
    if samples > MAX_UPLOAD_SAMPLES:
        raise ValueError("The file has too many channels or too high a sampling rate; choose stereo at 48 kHz.")
    waveform = audio.match_channels(audio.read_audio(path, sampling_rate)[0], num_channels)
    if not waveform.isfinite().all():
        raise ValueError("The file contains samples that are not numbers; choose another one.")
    peak = waveform.abs().max().item()
    if not peak > SILENCE:
        raise ValueError("The sound is silent; choose another one.")
    if peak > LOUDEST:
        raise ValueError(f"The sound peaks at {peak:.3g} times full scale; scale it to at most 1 and upload it again.")
    return waveform
