"""`soundctm generate --runtime onnx`: sounds from an exported folder. Nothing here imports torch by itself."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..audio_files import edge_fades, write_samples
from ..onnx.noise import NoiseGenerator
from ..onnx.pipeline import OnnxSoundCTMPipeline
from .rendering import file_tags, write_sound

if TYPE_CHECKING:
    from tqdm import tqdm


def check_runtime(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` if options do not fit to exported models."""
    if arguments.model in (None, "embedded"):
        raise ValueError(
            "--runtime onnx needs an exported model; run: soundctm export embedded -o FOLDER, and pass --model FOLDER."
        )
    if arguments.device is not None:
        raise ValueError("--runtime onnx computes on the CPU; leave out --device.")
    if arguments.dtype != "float32":
        raise ValueError("--dtype is chosen when a model is exported; leave it out with --runtime onnx.")
    if arguments.lora:
        raise ValueError("--lora needs torch; leave it out with --runtime onnx.")


def render(
    pipe: OnnxSoundCTMPipeline, prompt: str, seed: int, options: dict[str, Any], progress: "tqdm"
) -> tuple[np.ndarray, dict[str, Any]]:
    """Generate one sound; arguments and results as in `rendering.render`, with an array (channels, samples)."""
    hashes = []

    def on_step_end(call: Any, step: int, sigma: float, tensors: dict[str, np.ndarray]) -> None:
        if step == 0:
            starting = tensors["previous_latents"]
            hashes.append(hashlib.sha256(str(starting.shape).encode() + starting.tobytes()).hexdigest()[:16])
        progress.update()

    output = pipe(
        prompt,
        generator=NoiseGenerator(seed),
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=("previous_latents",),
        **options,
    )
    waveform = output.audios[0]
    settings = {
        "prompt": prompt,
        "negative_prompt": options.get("negative_prompt"),
        "seed": seed,
        "noise": hashes[0],
        "steps": options.get("num_inference_steps", 1),
        "nu": float(options.get("nu", 1.0)),
        "omega": float(options.get("guidance_scale", pipe.settings.guidance_scale)),
        "gamma": options.get("gamma", 0.0),
        "duration": waveform.shape[-1] / pipe.sampling_rate,
        "runtime": "onnx",
    }
    if output.turned_down_db[0] >= 0.05:
        settings["turned_down_db"] = round(output.turned_down_db[0], 1)
    return waveform, settings


def write(
    path: Path, waveform: np.ndarray, sampling_rate: int, settings: dict[str, Any], loudness: float | None
) -> str:
    """Write an audio file as `rendering.write_sound` does. Only a loudness to bring it to needs torch."""
    if loudness is not None:
        import torch

        return write_sound(path, torch.from_numpy(waveform), sampling_rate, settings, loudness)
    faded = waveform * edge_fades(waveform.shape[-1], sampling_rate)
    write_samples(path, faded, sampling_rate, file_tags(settings))
    return f", turned down by {settings['turned_down_db']} dB" if "turned_down_db" in settings else ""
