"""Audio files that carry the settings that made them."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

from .. import audio
from ..control import noise_hash
from ..version import __version__
from .recipe import Noise, Recipe
from .rendering import starting_noise
from .studio import Studio, Take


def file_name(take: Take) -> str:
    """Return a file name without extension: letters, digits and hyphens from the prompt, and the start of the id."""
    words = re.sub(r"[^a-z0-9]+", "-", take.recipe.prompt.lower()).strip("-")[:40].strip("-")
    return f"{words or 'sound'}-{take.id[:6]}"


def settings(studio: Studio, take: Take) -> dict[str, Any]:
    """Return the settings that a file of the take carries.

    For a plain sound these are the values that `soundctm refine` reads. For any other sound they are its recipe.
    """
    recipe, dtype = take.recipe, str(studio.pipe.dtype).removeprefix("torch.")
    level = {"turned_down_db": take.turned_down_db} if take.turned_down_db else {}
    if recipe.curve:
        level["curve_error_db"] = studio.curve_error(take)
    if not recipe.is_plain:
        return {"model": studio.model, "dtype": dtype, "recipe": recipe.to_json(), **level}
    generator = torch.Generator().manual_seed(recipe.noise.seed)
    noise = starting_noise(studio.pipe, recipe.noise, recipe.duration, generator)
    # The command line hashes the noise at the sampler's first level. The pipeline's own scheduler may be at work for
    # somebody else, so the level comes from a copy.
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
        **({"lora": list(recipe.lora)} if recipe.lora else {}),
        **level,
    }


def read_settings(path: str | Path) -> tuple[str, Recipe] | None:
    """Return the model and the recipe that an audio file names, or None if it names none.

    A file can name any model. The caller decides whether that is the one in use; none is loaded here.

    Args:
        path: A file that the app or `soundctm generate` wrote, or any other audio file.
    """
    try:
        values = json.loads(audio.read_tags(path).get("comment", ""))
        if "recipe" in values:
            return str(values["model"]), Recipe.from_json(values["recipe"])
        settings = {name: values[name] for name in ("duration", "steps", "omega", "nu", "gamma")}
        settings["lora"] = values.get("lora", ())
        negative_prompt = values["negative_prompt"] or ""
        recipe = Recipe(values["prompt"], Noise(values["seed"]), negative_prompt=negative_prompt, **settings)
        return str(values["model"]), recipe
    except (KeyError, OSError, RecursionError, RuntimeError, TypeError, ValueError):
        return None


def encode(studio: Studio, take: Take, extension: str = ".wav") -> bytes:
    """Return the bytes of a WAV or FLAC file (`extension`) with the take's settings in its comment."""
    comment = comment_of(studio, take, extension)
    tags = {"title": take.recipe.prompt, "software": f"diffusers-soundctm {__version__}", "comment": comment}
    waveform = without_clicks(take)
    with tempfile.TemporaryDirectory() as folder:
        path = audio.write_audio(Path(folder) / f"sound{extension}", waveform, take.sampling_rate, tags)
        return path.read_bytes()


def comment_of(studio: Studio, take: Take, extension: str) -> str:
    """Return the settings of a take as the comment of a WAV or FLAC file (`extension`)."""
    comment = json.dumps(settings(studio, take), ensure_ascii=False)
    if extension == ".wav" and len(comment.encode()) > audio.LONGEST_WAV_TAG:
        return json.dumps({"model": studio.model, "settings": "too long for WAV; see the FLAC file"})
    return comment


def without_clicks(take: Take) -> torch.Tensor:
    """Return the waveform (channels, samples) as files have it: faded at its edges, unless it is a loop."""
    return take.waveform if take.recipe.loop else audio.fade_edges(take.waveform, take.sampling_rate)
