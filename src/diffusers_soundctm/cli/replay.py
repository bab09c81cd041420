"""The commands that make a sound again, from the settings in its file."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .made import Made

if TYPE_CHECKING:
    from ..app.recipe import Recipe

DEFAULTS = {"nu": 1.0, "omega": 3.5, "gamma": 0.0}
UPLOAD = "recording.wav"  # stands for a file that was uploaded to the app, whose name is not known


def plain_command(settings: dict[str, Any], output: str) -> str:
    """Return the `soundctm generate` of a sound that was made from a prompt and a seed alone."""
    words = ["generate", settings["prompt"], "--seed", settings["seed"], "--steps", settings["steps"]]
    words += ["--duration", settings["duration"]]
    for name, default in DEFAULTS.items():
        words += [] if settings[name] == default else [f"--{name}", settings[name]]
    if settings["negative_prompt"]:
        words += ["--negative-prompt", settings["negative_prompt"]]
    return _command(words, settings, output)


def recipe_commands(made: Made, settings: dict[str, Any], output: str) -> list[str]:
    """Return the commands of any other sound, in order; all but the last make what the next one starts from."""
    from ..app.recipe import Recipe
    from .sketch import CURVES

    settings = settings | {"lora": made.recipe.lora}
    if isinstance(made.recipe.source, Recipe):
        # The parts of it were never written to files.
        return [_command(["refine", str(made.file), "--steps", made.recipe.steps], settings, output)]
    stem, suffix = Path(output).stem, Path(output).suffix
    commands: list[str] = []
    model = {name: settings[name] for name in ("model", "dtype", "lora")}

    def write(recipe: "Recipe", file: str, last: dict[str, Any]) -> None:
        before, words = recipe.change(morph=None, curve=(), loop=False, sketch=None), []
        if recipe.source is not None:
            recording = made.recording or UPLOAD
            words = ["extend", recording, recipe.prompt, "--to", recipe.duration]
            if recipe.spans:
                words = ["fill", recording, recipe.prompt, "--spans", *(f"{a:g}:{b:g}" for a, b in recipe.spans)]
            words += ["--seed", recipe.noise.seed]
        elif recipe.morph is not None:
            other = before.change(prompt=recipe.morph.prompt, noise=recipe.morph.noise)
            write(before, f"{stem}-first{suffix}", model)
            write(other, f"{stem}-last{suffix}", model)
            words = ["morph", f"{stem}-first{suffix}", f"{stem}-last{suffix}"]
        elif recipe.curve or recipe.loop:
            write(before, f"{stem}-draft{suffix}", model)
            words = ["loop" if recipe.loop else "draw", f"{stem}-draft{suffix}"]
            if recipe.curve:
                words += ["--strength", recipe.strength, "--curve", *recipe.curve]
        elif recipe.sketch is not None and not recipe.noise.variations:
            words = ["sketch", made.recording or UPLOAD, recipe.prompt, "--seed", recipe.noise.seed]
            words += ["--strength", recipe.strength]
            words += [f"--no-{name}" for name in CURVES if name not in recipe.sketch.followed]
        elif recipe.noise.variations:
            *earlier, (amount, seed) = recipe.noise.variations
            before = recipe.change(noise=type(recipe.noise)(recipe.noise.seed, tuple(earlier)))
            draft = f"{Path(file).stem}-{len(earlier)}{suffix}"
            write(before, draft, model)
            words = ["vary", draft, "--amount", amount, "--seed", seed, "--num", 1]
        else:
            plain = {name: getattr(recipe, name) for name in ("prompt", "negative_prompt", "steps", "duration")}
            plain |= {name: getattr(recipe, name) for name in DEFAULTS}
            commands.append(plain_command(plain | {"seed": recipe.noise.seed} | last, file))
            return
        commands.append(_command([*words, "--steps", recipe.steps], last, file))

    write(made.recipe, output, settings)
    return commands


def _command(words: list[Any], settings: dict[str, Any], output: str) -> str:
    model = settings["model"]
    words = [*words, *([] if model == "embedded" else ["--model", model])]
    words += [] if settings["dtype"] == "float32" else ["--dtype", settings["dtype"]]
    words += [word for text in settings.get("lora", ()) for word in ("--lora", text)]
    words += ["--loudness", settings["loudness"]] if "loudness" in settings else []
    return shlex.join(["soundctm", *map(str, words), "-o", output])
