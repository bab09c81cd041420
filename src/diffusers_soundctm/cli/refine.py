"""`soundctm refine`: generate a draft again with more steps."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..app.defaults import FINAL_STEPS
from .editing import Model, add_edit_options, lora_of, make_files, model_of, open_studio, outputs
from .made import Made, read_made, read_settings
from .recordings import add_recording, find_recording
from .rendering import load_pipeline, render, step_progress, write_sound

if TYPE_CHECKING:
    import torch

EXAMPLE = "example: soundctm refine rain.wav --steps 4 -o rain-final.wav"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("refine", help="generate a draft again with more steps", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm or its app wrote")
    add_edit_options(parser, "refined", steps=FINAL_STEPS)


def run(arguments: argparse.Namespace) -> None:
    """Write the refined sound and print how far it drifted from the draft.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    (path,) = outputs(arguments, arguments.draft)
    settings = read_settings(arguments.draft)
    values = {"gamma": 0, "steps": 1} | settings["recipe"] if "recipe" in settings else settings
    gamma = values["gamma"]
    if gamma != 0 and arguments.steps != values["steps"]:
        raise ValueError(
            f"{arguments.draft} was made with --gamma {gamma:g}, so more steps give another sound; only drafts with "
            "--gamma 0 can be refined."
        )
    if "recipe" in settings:
        refine_recipe(arguments, read_made(arguments.draft), path)
    else:
        refine_plain(arguments, settings, path)


def refine_plain(arguments: argparse.Namespace, settings: dict, path: Path) -> None:
    """Write a sound that was made from a prompt and a seed alone. Its ranges are those of the model."""
    from .. import hub

    name = hub.model_to_load(settings["model"], arguments.draft, passed=arguments.model)
    lora = lora_of(arguments, settings.get("lora", ()), arguments.draft)
    model = Model(name, arguments.dtype or settings["dtype"], arguments.device, lora)
    pipe = load_pipeline(model.name, model.dtype, model.device, model.lora)
    options = {
        "num_inference_steps": arguments.steps,
        "nu": settings["nu"],
        "guidance_scale": settings["omega"],
        "negative_prompt": settings["negative_prompt"],
        "audio_length_in_s": settings["duration"],
    }
    with step_progress(arguments.steps) as progress:
        waveform, refined = render(pipe, settings["prompt"], settings["seed"], options, progress, settings["noise"])
    refined |= {"model": model.name, "dtype": model.dtype} | ({"lora": list(lora)} if lora else {})
    level = write_sound(path, waveform, pipe.sampling_rate, refined, arguments.loudness)
    models = f"made with the model {settings['model']!r}, refined with {model.name!r}"
    moved = distance(arguments.draft, waveform, pipe.sampling_rate)
    print(f"{path}: {arguments.steps} steps from the noise of {arguments.draft} ({models}), {moved}{level}")


def refine_recipe(arguments: argparse.Namespace, made: Made, path: Path) -> None:
    """Write a sound that was varied, morphed, drawn, sketched, looped, filled or extended."""
    recording = find_recording(made)
    studio = open_studio(model_of(arguments, made))
    if recording is not None:
        add_recording(studio, made, recording)
    recipe = made.recipe.change(steps=arguments.steps)
    if recording is None and made.recording is not None:  # the voice of a sketch, which is not needed again
        recording = Path(made.recording)

    def say(take):
        return f", {distance(made.file, take.waveform, take.sampling_rate)}"

    make_files(studio, [recipe], [path], arguments.loudness, recording, say)


def distance(draft: Path, waveform: "torch.Tensor", sampling_rate: int) -> str:
    """Return what to print about the difference between a draft and its refined waveform (channels, samples)."""
    from .. import audio
    from ..control import drift

    recorded, rate = audio.read_audio(draft)
    recorded = audio.resample(recorded.mean(dim=0), rate, sampling_rate)
    try:
        edge = round(0.005 * sampling_rate)  # so much of a file's beginning and end is faded
        moved = drift(recorded[edge:-edge], waveform.mean(dim=0)[edge:-edge], sampling_rate).item()
    except ValueError:
        return "too short or too quiet to measure the drift"
    return f"drift {moved:.3f} (0 is the same sound)"
