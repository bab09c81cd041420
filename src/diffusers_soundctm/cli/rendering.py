"""Load a pipeline, generate one sound with it and write the file. Shared by the commands that make sounds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__
from .made import read_settings

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from ..pipelines.pipeline_soundctm import SoundCTMPipeline


def load_pipeline(model: str | None, dtype: str, device: str | None, lora: Sequence[str] = ()) -> "SoundCTMPipeline":
    """Load a model onto a device.

    Args:
        model: folder or Hub id; None or "embedded" is the embedded model.
        dtype: name of the dtype of the weights.
        device: device; None is cuda if available, else cpu.
        lora: adapters to load and activate, such as "my-creature:0.8".

    Raises:
        ValueError: the device is not available, or an adapter does not fit the model.
        OSError: the model or an adapter is missing or damaged.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {device} is not available ({str(error).splitlines()[0]}); try cpu.") from error

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()

    from ..lora import load_adapters
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

    dtype = getattr(torch, dtype)
    if model in (None, "embedded"):
        pipe = SoundCTMPipeline.from_embedded(dtype=dtype)
    else:
        pipe = SoundCTMPipeline.from_pretrained(model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    if lora:
        load_adapters(pipe, lora)
    return pipe.to(device)


def step_progress(steps: int) -> "tqdm":
    """Return a progress bar over network steps that shows only on a terminal."""
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", disable=None, leave=False)


def render(
    pipe: "SoundCTMPipeline",
    prompt: str,
    seed: int,
    options: dict[str, Any],
    progress: "tqdm",
    noise: str | None = None,
) -> tuple["torch.Tensor", dict[str, Any]]:
    """Generate one sound.

    Args:
        pipe: the pipeline.
        prompt: the prompt.
        seed: seed of the starting noise.
        options: further arguments of the pipeline's call.
        progress: advances by one per step.
        noise: hash that the starting noise must have; None accepts any.

    Returns:
        The waveform (channels, samples), and the settings to store in its file.

    Raises:
        ValueError: the starting noise has another hash than `noise`.
    """
    import torch

    from ..control import noise_hash

    hashes = []

    def on_step_end(pipe, step, timestep, tensors):
        if step == 0:
            hashes.append(noise_hash(tensors["previous_latents"]))
            check_noise(seed, hashes[0], noise)
        progress.update()
        return tensors

    output = pipe(
        prompt,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=["latents", "previous_latents"],
        **options,
    )
    waveform = output.audios[0]
    settings = {
        "prompt": prompt,
        "negative_prompt": options.get("negative_prompt"),
        "seed": seed,
        "noise": hashes[0],
        "steps": pipe.num_timesteps,
        "nu": pipe.nu,
        "omega": pipe.guidance_scale,
        "gamma": pipe.scheduler.gamma,
        "duration": waveform.shape[-1] / pipe.sampling_rate,
    }
    (turned_down_db,) = output.turned_down_db
    if turned_down_db >= 0.05:
        settings["turned_down_db"] = round(turned_down_db, 1)
    return waveform.cpu(), settings


def check_noise(seed: int, found: str, expected: str | None) -> None:
    """Raise `ValueError` if a seed gives noise with another hash than the draft's. None expects nothing."""
    if expected not in (None, found):
        raise ValueError(
            f"Seed {seed} gives the noise {found}, but the draft was made from the noise {expected}; use the model "
            "and the version of torch that made the draft."
        )


def write_sound(
    path: Path,
    waveform: "torch.Tensor",
    sampling_rate: int,
    settings: dict[str, Any],
    loudness: float | None,
    fade: bool = True,
) -> str:
    """Write an audio file whose comment holds `settings` as JSON, with the loudness that the sound has in the file.

    Args:
        path: the file.
        waveform: (channels, samples).
        sampling_rate: in Hz.
        settings: how the sound was made.
        loudness: LUFS to bring it to, as far as its peaks allow; None keeps its level.
        fade: whether to fade the edges so that they do not click. Loops are never faded.

    Returns:
        What to say about the level, after the name of the file.
    """
    from .. import audio

    if fade and not settings.get("recipe", {}).get("loop"):
        waveform = audio.fade_edges(waveform, sampling_rate)
    excess = audio.excess_db(waveform.reshape(-1)).item()
    if excess >= 0.05 and loudness is None:  # of sounds that the pipeline did not decode itself, such as loops
        waveform = audio.limit_peak(waveform.reshape(1, -1)).reshape(waveform.shape)
        settings = settings | {"turned_down_db": round(settings.get("turned_down_db", 0) + excess, 1)}
    said = f", turned down by {settings['turned_down_db']} dB" if "turned_down_db" in settings else ""
    try:
        measured = audio.measure_loudness(waveform, sampling_rate)
    except ValueError:  # silent or very short: such a sound has no loudness
        if loudness is not None:
            raise
        measured = None
    if loudness is not None:
        measured = min(loudness, audio.highest_loudness(waveform, sampling_rate))
        waveform = audio.normalize_loudness(waveform, sampling_rate, measured)
        settings = settings | {"loudness": loudness}
        said = f", {measured:.1f} LUFS"
        if measured < loudness - 0.05:
            said += f" instead of {loudness:g} because its peaks are at -1 dBTP"
    if measured is not None:
        settings = settings | {"measured_loudness": round(measured, 1)}
    audio.write_audio(path, waveform, sampling_rate, file_tags(settings))
    return said


def file_tags(settings: dict[str, Any]) -> dict[str, str]:
    """Metadata of a file whose sound was made with `settings`."""
    return {
        "title": settings.get("prompt") or settings["recipe"]["prompt"],
        "software": f"diffusers-soundctm {__version__}",
        "comment": json.dumps(settings, ensure_ascii=False),
    }


def match_loudness(paths: list[Path]) -> tuple[float, Path]:
    """Bring files to one loudness: the highest one that the peaks of all of them allow.

    The files keep their settings, so that a stopped run can be repeated.

    Returns:
        The loudness in LUFS, and the file whose peaks limit it.

    Raises:
        ValueError: a file is silent.
    """
    from .. import audio

    highest = []
    for path in paths:
        try:
            highest.append(audio.highest_loudness(*audio.read_audio(path)))
        except ValueError as error:
            raise ValueError(f"--match: {path} has no loudness ({error})") from error
    limit, limiting = min(zip(highest, paths, strict=True))
    for path in paths:
        write_sound(path, *audio.read_audio(path), read_settings(path), limit, fade=False)
    return limit, limiting
