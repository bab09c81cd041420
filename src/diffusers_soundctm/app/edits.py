"""Recipes made from other recipes: drafts, variations, morphs, drawn curves, loops, fills and continuations."""

import secrets
from typing import Any

from .recipe import CURVE_POINTS, DURATION, Morph, Noise, Recipe, Upload
from .sketches import Sketch
from .validators import is_list

NUM_DRAFTS = 8
NUM_VARIATIONS = 4


def random_seed() -> int:
    """Return a seed of at most six digits, short enough to read out and to type."""
    return secrets.randbelow(10**6)


def draft_recipes(prompt: str, duration: float, seed: int | None = None, **settings: Any) -> list[Recipe]:
    """Return `NUM_DRAFTS` one-step recipes with successive seeds. The first seed is random if `seed` is None."""
    first = Recipe(prompt, Noise(random_seed() if seed is None else seed), duration, **settings)
    return [first.change(noise=Noise(first.noise.seed + i)) for i in range(NUM_DRAFTS)]


def variation_recipes(recipe: Recipe, amount: float, seed: int = 0, count: int = NUM_VARIATIONS) -> list[Recipe]:
    """Return recipes whose noise differs by `amount`: 0 is the same sound, 1 an unrelated one.

    With the same seeds, larger amounts go further in the same directions.
    """
    before = recipe.noise.variations
    return [recipe.change(noise=Noise(recipe.noise.seed, (*before, (amount, seed + i)))) for i in range(count)]


def morphed(first: Recipe, second: Recipe, steps: int) -> Recipe:
    """Return a sound that begins as `first` and ends as `second`, with the settings of `first`."""
    return _without_control(first).change(morph=Morph(second.prompt, _without_control(second).noise), steps=steps)


def drawn(recipe: Recipe, curve: list[float], strength: float, steps: int) -> Recipe:
    """Return the sound that follows a loudness curve (dB)."""
    if not is_list(curve) or not curve:
        raise ValueError("The curve is empty; draw a line over the spectrogram.")
    if len(curve) > CURVE_POINTS[1]:
        raise ValueError(f"The curve has {len(curve)} values; give at most {CURVE_POINTS[1]}.")
    return _without_control(recipe).change(curve=tuple(curve), strength=strength, steps=steps)


def sketched(
    prompt: str, seconds: float, sketch: Sketch, strength: float, steps: int, seed: int, **settings: Any
) -> Recipe:
    """Return a sound of `prompt` that follows a sketch."""
    return Recipe(prompt, Noise(seed), seconds, sketch=sketch, strength=strength, steps=steps, **settings)


def looped(recipe: Recipe, steps: int) -> Recipe:
    """Return the sound as one that loops seamlessly."""
    return _without_control(recipe).change(loop=True, steps=steps)


def _without_control(recipe: Recipe) -> Recipe:
    """Return the plain sound of the same noise."""
    if recipe.source is not None:
        raise ValueError("A filled or continued sound is not made from noise alone; pick a draft for this.")
    return recipe.change(morph=None, curve=(), loop=False, sketch=None)


def filled(
    source: Recipe | Upload,
    seconds: float,
    prompt: str,
    spans: list[tuple[float, float]],
    steps: int,
    seed: int = 0,
    **settings: Any,
) -> Recipe:
    """Return `source`, which lasts `seconds`, with its marked spans (pairs of seconds) generated anew."""
    if not is_list(spans) or not spans:
        raise ValueError("Nothing is marked; drag over the part of the spectrogram that you want to replace.")
    return Recipe(prompt, Noise(seed), seconds, source=source, spans=tuple(spans), steps=steps, **settings)


def continued(
    source: Recipe | Upload, seconds: float, prompt: str, more: float, steps: int, seed: int = 0, **settings: Any
) -> Recipe:
    """Return `source`, which lasts `seconds`, made longer by `more` seconds."""
    return extended(source, seconds, prompt, seconds + more, steps, seed, **settings)


def extended(
    source: Recipe | Upload, seconds: float, prompt: str, to: float, steps: int, seed: int = 0, **settings: Any
) -> Recipe:
    """Return `source`, which lasts `seconds`, extended `to` seconds."""
    longest = DURATION[1]
    if not seconds < to <= longest:
        raise ValueError(
            f"A sound of {seconds:.2f} s cannot be extended to {to:g} s; choose more, and at most {longest:g} s."
        )
    return Recipe(prompt, Noise(seed), to, source=source, steps=steps, **settings)
