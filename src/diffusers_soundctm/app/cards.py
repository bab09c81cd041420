"""Sounds as the page shows them: plain values with the picture and the audio inside."""

import base64
from typing import Any

from .recipe import DURATION, Noise, Recipe, Upload
from .sound_files import encode, file_name
from .spectrograms import frequency_ticks, spectrogram_png
from .studio import Studio, Take


def card(studio: Studio, take: Take, with_files: bool = False) -> dict[str, Any]:
    """Return a take as JSON values for the page.

    Args:
        studio: The studio that made the take.
        take: The sound.
        with_files: Whether to add what the shelf keeps: the WAV file and the Python code.
    """
    recipe = take.recipe
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
        "audio": data_uri(encode(studio, take, ".flac"), "audio/flac"),
        "is_loop": recipe.loop,
        "recipe": recipe.to_json(),
    }
    if with_files:
        shown["wav"] = data_uri(encode(studio, take, ".wav"), "audio/wav")
        shown["code"] = studio.code(recipe, f"{file_name(take)}.wav")
    return shown


def upload_card(studio: Studio, upload: Upload) -> dict[str, Any]:
    """Return an uploaded sound as JSON values for the page. It has no recipe."""
    stand_in = Recipe("uploaded sound", Noise(0), DURATION[0])
    shown = card(studio, Take(stand_in, studio.upload(upload), studio.pipe.sampling_rate))
    return shown | {"id": upload.digest, "about": "", "recipe": None}


def about(take: Take) -> str:
    """Return how the sound was made, in a few words, such as "variation, seed 3, 8 steps"."""
    recipe, kind = take.recipe, kind_of(take.recipe)
    if recipe.morph:
        kind = f"morph to “{recipe.morph.prompt}”"
    elif kind == "plain":
        kind = ""
    steps = "1 step" if recipe.steps == 1 else f"{recipe.steps} steps"
    level = f"turned down by {take.turned_down_db:g} dB" if take.turned_down_db else ""
    return ", ".join(part for part in (kind, f"seed {recipe.noise.seed}", steps, level) if part)


def kind_of(recipe: Recipe) -> str:
    """Return how a sound was made, in one word."""
    if recipe.source:
        return "filled" if recipe.spans else "continued"
    kinds = {
        "morph": recipe.morph,
        "drawn": recipe.curve,
        "sketched": recipe.sketch,
        "loop": recipe.loop,
        "variation": recipe.noise.variations,
    }
    return next((kind for kind, is_set in kinds.items() if is_set), "plain")


def data_uri(content: bytes, media_type: str) -> str:
    """Return `content` as a data: URI, so that the page needs no file from the server."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
