"""Load a pipeline, generate one sound with it and write the file. Shared by the commands that make sounds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from ..pipelines.pipeline_soundctm import SoundCTMPipeline


def load_pipeline(model: str | None, dtype: str, device: str | None) -> "SoundCTMPipeline":
    """Load a model onto a device.

    Args:
        model: folder or Hub id; None or "embedded" is the embedded model.
        dtype: name of the dtype of the weights.
        device: device; None is cuda if available, else cpu.

    Raises:
        ValueError: the device is not available.
        OSError: the model is missing or damaged.
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

    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

    dtype = getattr(torch, dtype)
    if model in (None, "embedded"):
        pipe = SoundCTMPipeline.from_embedded(dtype=dtype)
    else:
        pipe = SoundCTMPipeline.from_pretrained(model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
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
            if noise not in (None, hashes[0]):
                raise ValueError(
                    f"Seed {seed} gives the noise {hashes[0]}, but the draft was made from the noise {noise}; use the "
                    "model and the version of torch that made the draft."
                )
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


def write_sound(
    path: Path, waveform: "torch.Tensor", sampling_rate: int, settings: dict[str, Any], loudness: float | None
) -> None:
    """Write an audio file whose comment holds `settings` as JSON; normalize its loudness unless that is None."""
    from .. import audio

    if loudness is not None:
        waveform = audio.normalize_loudness(waveform, sampling_rate, loudness)
        settings = settings | {"loudness": loudness}
    tags = {
        "title": settings["prompt"],
        "software": f"diffusers-soundctm {__version__}",
        "comment": json.dumps(settings, ensure_ascii=False),
    }
    audio.write_audio(path, waveform, sampling_rate, tags)
