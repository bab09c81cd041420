"""What the commands share that make a sound from another one: their options, and the way from a recipe to a file."""

import argparse
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..app.defaults import STEERED_STEPS
from .arguments import (
    add_device,
    add_dtype,
    add_lora,
    add_model,
    add_output,
    check_loudness,
    check_seed,
    check_steps,
    output_paths,
)
from .made import Made
from .rendering import check_noise, load_pipeline, step_progress, write_sound

if TYPE_CHECKING:
    from ..app.recipe import Recipe
    from ..app.studio import Studio, Take


@dataclass(frozen=True)
class Model:
    """The model to load: folder or Hub id ("embedded" for the one in the package), dtype, device and adapters."""

    name: str
    dtype: str
    device: str | None
    lora: tuple[str, ...] = ()


def add_edit_options(parser: argparse.ArgumentParser, suffix: str, steps: int | None = STEERED_STEPS) -> None:
    """Add the options of a command that writes a changed sound beside its draft. `steps` of None are the draft's."""
    add_output(parser, None, f"default: the draft's name with -{suffix}")
    shown = "the draft's" if steps is None else "%(default)s"
    parser.add_argument("--steps", type=int, default=steps, help=f"network steps (default: {shown})")
    add_dtype(parser, default=None)
    add_device(parser)
    add_model(parser, "the draft's, if that is the embedded model")
    add_lora(parser)
    parser.set_defaults(suffix=suffix)


def add_recording_options(parser: argparse.ArgumentParser, suffix: str, prompt: str | None = None) -> None:
    """Add the arguments and the options of a command that works on a recording. `prompt` is the help of a required one.

    Without it, the prompt is that of the new part and may be left out.
    """
    parser.add_argument("recording", type=Path, help="WAV, FLAC, OGG or MP3 file, 0.5 to 30 s")
    if prompt is None:
        parser.add_argument("prompt", nargs="?", help="description of the new part (default: that of the recording)")
    else:
        parser.add_argument("prompt", help=prompt)
    parser.add_argument("--seed", type=int, help="seed of what is new (default: random)")
    add_output(parser, None, f"default: the recording's name with -{suffix}")
    parser.add_argument("--steps", type=int, default=STEERED_STEPS, help="network steps (default: %(default)s)")
    add_dtype(parser)
    add_device(parser)
    add_model(parser)
    add_lora(parser)
    parser.set_defaults(suffix=suffix)


def outputs(arguments: argparse.Namespace, source: Path, count: int = 1) -> list[Path]:
    """Return the files to write, after a check of the shared options.

    Raises:
        ValueError: a file cannot be written, or a number is out of range.
    """
    output = arguments.output
    if output is None:
        suffix = source.suffix if source.suffix.lower() in (".wav", ".flac") else ".wav"
        output = source.with_name(f"{source.stem}-{arguments.suffix}{suffix}")
    if arguments.steps is not None:
        check_steps(arguments.steps)
    if arguments.loudness is not None:
        check_loudness(arguments.loudness)
    return output_paths(output, count, arguments.force)


def random_or(seed: int | None) -> int:
    """Return `seed`, or a random one if it is None.

    Raises:
        ValueError: `seed` is out of range.
    """
    if seed is None:
        return secrets.randbelow(10**6)  # short enough to read out and to type
    check_seed(seed)
    return seed


def model_of(arguments: argparse.Namespace, made: Made) -> Model:
    """Return the model that made a file, or the one that the user passed.

    Raises:
        ValueError: the file names a model or an adapter that is not loaded unless the user asks for it.
    """
    from .. import hub

    name = hub.model_to_load(made.model, made.file, passed=arguments.model)
    return Model(name, arguments.dtype or made.dtype, arguments.device, lora_of(arguments, made.recipe.lora, made.file))


def lora_of(arguments: argparse.Namespace, lora: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return the adapters that the user passed, which a file that was made with some requires.

    Raises:
        ValueError: the file was made with adapters, and the user passed none.
    """
    if lora and not arguments.lora:
        passed = " ".join(f"--lora {text}" for text in lora)
        raise ValueError(f"{file} was made with an adapter, which is loaded only if you ask for it; pass {passed}.")
    return tuple(arguments.lora)


def open_studio(model: Model, drafts: Sequence[Made] = ()) -> "Studio":
    """Load the model and check that it gives the noise that the drafts were made from.

    Raises:
        ValueError: the noise is another one, or the device is not available.
        OSError: the model is missing or damaged.
    """
    import torch

    from ..app.rendering import starting_noise
    from ..app.studio import Studio
    from ..control import noise_hash

    pipe = load_pipeline(model.name, model.dtype, model.device, model.lora)
    pipe.scheduler.set_timesteps(1)
    for made in drafts:
        if made.noise is not None:
            seed = made.recipe.noise.seed
            generator = torch.Generator().manual_seed(seed)
            noise = starting_noise(pipe, made.recipe.noise, made.recipe.duration, generator)
            check_noise(seed, noise_hash(noise * pipe.scheduler.sigmas[0].cpu()), made.noise)
    return Studio(pipe, model.name, lora=model.lora)


def make_files(
    studio: "Studio",
    recipes: "Sequence[Recipe]",
    paths: Sequence[Path],
    loudness: float | None,
    recording: Path | None = None,
    say: "Callable[[Take], str]" = lambda take: "",
) -> None:
    """Make the sound of each recipe, write its file and print a line about it.

    Args:
        studio: Makes the sounds.
        recipes: What to make.
        paths: The files to write.
        loudness: LUFS to bring them to; None keeps their level.
        recording: The file that is filled or extended.
        say: Returns what to print after a file's name and steps.
    """
    from tqdm import tqdm

    from ..app import sound_files

    with step_progress(sum(recipe.steps for recipe in recipes)) as progress:
        for recipe, path in zip(recipes, paths, strict=True):
            take = studio.make(recipe.change(lora=studio.lora), on_step=lambda done, total: progress.update())
            settings = sound_files.settings(studio, take)
            if recording is not None:
                settings |= {"recording": str(recording)}
            level = write_sound(path, take.waveform, take.sampling_rate, settings, loudness)
            steps = "1 step" if recipe.steps == 1 else f"{recipe.steps} steps"
            tqdm.write(f"{path}: {steps}, {take.seconds:.2f} s{say(take)}{level}")
