"""Pictures of sounds."""

import io
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel

from .. import audio

MEL_BANDS = 64
FLOOR_DB = 70.0  # below the loudest point; quieter points have the darkest color
WINDOW = 1024  # samples
COLOR_STOPS = [(9, 10, 25), (43, 33, 96), (124, 44, 125), (214, 76, 100), (250, 158, 92), (253, 243, 190)]


def spectrogram_png(waveform: torch.Tensor, sampling_rate: int, columns: int = 480) -> bytes:
    """Return a PNG of the log-mel spectrogram, with time from left to right and frequency from bottom to top.

    Args:
        waveform: Waveform (channels, samples).
        sampling_rate: Its sampling rate in Hz.
        columns: Width of the picture in pixels.
    """
    from PIL import Image

    waveform = waveform.mean(dim=0)
    # A sound shorter than the window is shown with silence around it.
    waveform = torch.nn.functional.pad(waveform, (0, max(WINDOW - len(waveform), 0)))
    mel = audio.log_mel(waveform, sampling_rate=sampling_rate, hop_length=max(len(waveform) // columns, 32))
    level = 20 / np.log(10) * (mel - mel.max()).numpy() / FLOOR_DB + 1
    pixels = _COLORS[(level.clip(0, 1) * 255).astype(np.uint8)].swapaxes(0, 1)[::-1]
    image = Image.fromarray(pixels).resize((columns, 2 * MEL_BANDS), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def frequency_ticks(sampling_rate: int) -> list[dict[str, Any]]:
    """Return the labels of the frequency axis: text in Hz, and height as a fraction of the picture."""
    top = hertz_to_mel(sampling_rate / 2, mel_scale="slaney")
    ticks = []
    for hertz in (250, 1000, 2000, 4000, 8000, 16000):
        if hertz <= sampling_rate / 2:
            label = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
            ticks.append({"label": label, "at": round(hertz_to_mel(float(hertz), mel_scale="slaney") / top, 4)})
    return ticks


def _color_map() -> np.ndarray:
    """Return 256 colors (red, green, blue) from near black over blue and rose to light yellow."""
    stops = np.array(COLOR_STOPS)
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


_COLORS = _color_map()
