"""What leaves the app: audio files that carry their settings, and pictures of sounds."""

import base64
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import hertz_to_mel

from .. import audio
from ..control import noise_hash
from ..version import __version__
from .rendering import starting_noise
from .studio import Studio, Take

MEL_BANDS = 64
FLOOR_DB = 70.0


def file_name(take: Take) -> str:
    """Letters, digits and hyphens from the prompt, and the take's id; no extension."""
    words = re.sub(r"[^a-z0-9]+", "-", take.recipe.prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'sound'}-{take.id[:6]}"


def settings(studio: Studio, take: Take) -> dict[str, Any]:
    """What a file says about itself: for a plain sound, all that `soundctm refine` reads; else its recipe."""
    recipe, dtype = take.recipe, str(studio.pipe.dtype).removeprefix("torch.")
    if not recipe.is_plain:
        return {"model": studio.model, "dtype": dtype, "recipe": recipe.to_json()}
    generator = torch.Generator().manual_seed(recipe.noise.seed)
    noise = starting_noise(studio.pipe, recipe.noise, recipe.duration, generator)
    # The hash is of the noise as the sampler gets it, at its first level; a scheduler of one's own, as the other runs.
    scheduler = type(studio.pipe.scheduler).from_config(studio.pipe.scheduler.config)
    scheduler.set_timesteps(recipe.steps, gamma=recipe.gamma)
    return {
        "prompt": recipe.prompt,
        "negative_prompt": recipe.negative_prompt or None,
        "model": studio.model,
        "seed": recipe.noise.seed,
        "noise": noise_hash(noise * scheduler.sigmas[0]),
        "steps": recipe.steps,
        "nu": recipe.nu,
        "omega": recipe.omega,
        "gamma": recipe.gamma,
        "duration": recipe.duration,
        "dtype": dtype,
    }


def encode(studio: Studio, take: Take, extension: str = ".wav") -> bytes:
    """The bytes of a WAV or FLAC file with the take's settings in its comment."""
    comment = json.dumps(settings(studio, take), ensure_ascii=False)
    if extension == ".wav" and len(comment.encode()) > audio.LONGEST_WAV_TAG:
        comment = json.dumps({"model": studio.model, "settings": "too long for WAV; they are in the FLAC file"})
    tags = {"title": take.recipe.prompt, "software": f"diffusers-soundctm {__version__}", "comment": comment}
    with tempfile.TemporaryDirectory() as folder:
        path = audio.write_audio(Path(folder) / f"sound{extension}", take.waveform, take.sampling_rate, tags)
        return path.read_bytes()


def data_uri(content: bytes, kind: str) -> str:
    """`content` as an address that needs no file on the server."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def spectrogram_png(waveform: torch.Tensor, sampling_rate: int, columns: int = 480) -> bytes:
    """Log-mel of (channels, samples), low below high, early left of late, from 70 dB below its maximum on."""
    from PIL import Image

    waveform = waveform.mean(dim=0)
    # A sound shorter than the window is shown with silence around it.
    waveform = torch.nn.functional.pad(waveform, (0, max(1024 - len(waveform), 0)))
    mel = audio.log_mel(waveform, sampling_rate=sampling_rate, hop_length=max(len(waveform) // columns, 32))
    level = 20 / np.log(10) * (mel - mel.max()).numpy() / FLOOR_DB + 1
    picture = _INK[(level.clip(0, 1) * 255).astype(np.uint8)].swapaxes(0, 1)[::-1]
    image = Image.fromarray(picture).resize((columns, 2 * MEL_BANDS), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()


def frequency_ticks(sampling_rate: int) -> list[dict[str, Any]]:
    """Labels of the spectrogram's frequency axis: Hz, and the height of each as a share of the picture."""
    top = hertz_to_mel(sampling_rate / 2, mel_scale="slaney")
    ticks = []
    for hertz in (250, 1000, 2000, 4000, 8000, 16000):
        if hertz <= sampling_rate / 2:
            label = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
            ticks.append({"label": label, "at": round(hertz_to_mel(float(hertz), mel_scale="slaney") / top, 4)})
    return ticks


def card(studio: Studio, take: Take, with_files: bool = False) -> dict[str, Any]:
    """A take as the page shows it; `with_files` adds what the shelf keeps: the WAV file and the code."""
    recipe = take.recipe
    flac = data_uri(encode(studio, take, ".flac"), "audio/flac")
    shown = {
        "id": take.id,
        "name": file_name(take),
        "prompt": recipe.prompt,
        "seed": recipe.noise.seed,
        "steps": recipe.steps,
        "about": about(take),
        "seconds": round(take.seconds, 3),
        "image": data_uri(spectrogram_png(take.waveform, take.sampling_rate), "image/png"),
        "ticks": frequency_ticks(take.sampling_rate),
        "audio": flac,
        "is_loop": recipe.loop,
        "recipe": recipe.to_json(),
    }
    if with_files:
        shown["wav"] = data_uri(encode(studio, take, ".wav"), "audio/wav")
        shown["code"] = studio.code(recipe, f"{file_name(take)}.wav")
    return shown


def about(take: Take) -> str:
    """What kind of sound it is, in a few words."""
    recipe = take.recipe
    kind = ""
    if recipe.morph:
        kind = f"morph to “{recipe.morph.prompt}”"
    elif recipe.curve:
        kind = "drawn"
    elif recipe.loop:
        kind = "loop"
    elif recipe.source:
        kind = "filled" if recipe.spans else "continued"
    elif recipe.noise.variations:
        kind = "variation"
    steps = "1 step" if recipe.steps == 1 else f"{recipe.steps} steps"
    return ", ".join(part for part in (kind, f"seed {recipe.noise.seed}", steps) if part)


def _ink() -> np.ndarray:
    """A colour map of 256 (red, green, blue) from near black over blue and rose to light yellow."""
    stops = np.array([[9, 10, 25], [43, 33, 96], [124, 44, 125], [214, 76, 100], [250, 158, 92], [253, 243, 190]])
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, np.arange(len(stops)), stops[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


_INK = _ink()
