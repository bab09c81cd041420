"""How a sound file was made: the settings in its metadata, and the recipe that they amount to."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DTYPES

if TYPE_CHECKING:
    from ..app.recipe import Recipe

_NUMBER = (int, float)
# The settings in the comment of a plain sound that determine it, and their types.
SETTINGS: dict[str, Any] = {
    "prompt": str,
    "negative_prompt": (str, type(None)),
    "model": str,
    "seed": int,
    "nu": _NUMBER,
    "omega": _NUMBER,
    "gamma": _NUMBER,
    "duration": _NUMBER,
    "dtype": str,
    "noise": str,
    "steps": int,
}
# Of every other sound, whose recipe says the rest.
RECIPE_SETTINGS: dict[str, Any] = {"model": str, "dtype": str, "recipe": dict}


@dataclass(frozen=True)
class Made:
    """How a file was made.

    Attributes:
        file: The file.
        recipe: What determines the sound, given the model.
        model: "embedded", a folder or a Hub id.
        dtype: Name of the dtype of the weights.
        noise: Hash of the starting noise of a plain sound; None for others.
        recording: The file that was filled or extended, if there is one.
    """

    file: Path
    recipe: "Recipe"
    model: str
    dtype: str
    noise: str | None
    recording: str | None


def read_settings(file: Path) -> dict[str, Any]:
    """Read the settings that the command line or the app stored in a file.

    Raises:
        ValueError: settings are missing or malformed.
    """
    from .. import audio

    audio.read_audio(file)  # its errors name the file
    remedy = "pass a file that soundctm or its app wrote."
    try:
        settings = json.loads(audio.read_tags(file).get("comment", ""))
        wanted = RECIPE_SETTINGS if "recipe" in settings else SETTINGS
        missing = [name for name in wanted if name not in settings]
    except (TypeError, ValueError):
        settings, wanted, missing = {}, SETTINGS, list(SETTINGS)
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)} in its metadata; {remedy}")
    lora = settings.get("lora", [])
    if not isinstance(lora, list) or not all(isinstance(text, str) for text in lora):
        raise ValueError(f"{file} has lora = {lora!r} in its metadata; {remedy}")
    malformed = [
        name
        for name, types in wanted.items()
        if not isinstance(settings[name], types) or isinstance(settings[name], bool)
    ]
    if settings["dtype"] not in DTYPES:
        malformed.append("dtype")
    if malformed:
        name = malformed[0]
        raise ValueError(f"{file} has {name} = {settings[name]!r} in its metadata; {remedy}")
    return settings


def read_made(file: Path) -> Made:
    """Read how a file was made.

    Raises:
        ValueError: The file says nothing about it, or its values are out of the ranges of a recipe.
    """
    from ..app.recipe import Noise, Recipe

    settings = read_settings(file)
    try:
        if "recipe" in settings:
            recipe = Recipe.from_json(settings["recipe"])
        else:
            recipe = Recipe(
                settings["prompt"],
                Noise(settings["seed"]),
                settings["duration"],
                negative_prompt=settings["negative_prompt"] or "",
                steps=settings["steps"],
                omega=settings["omega"],
                nu=settings["nu"],
                gamma=settings["gamma"],
                lora=tuple(settings.get("lora", ())),
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    recording = settings.get("recording")
    return Made(
        file,
        recipe,
        settings["model"],
        settings["dtype"],
        settings.get("noise"),
        recording if isinstance(recording, str) else None,
    )
