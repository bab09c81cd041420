"""`soundctm refine`: generate a draft again with more steps."""

import argparse
import json
from pathlib import Path
from typing import Any

from .arguments import DTYPES, add_device, add_dtype, add_model, add_output, check_loudness, output_paths
from .rendering import load_pipeline, render, step_progress, write_sound

EXAMPLE = "example: soundctm refine rain.wav --steps 16 -o rain-final.wav"
_NUMBER = (int, float)
# The settings in the comment of a draft that determine the sound, and their types.
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
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("refine", help="generate a draft again with more steps", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("draft", type=Path, help="file that soundctm generate wrote")
    add_output(parser, None, "default: the draft's name with -refined")
    parser.add_argument("--steps", type=int, default=16, help="network steps (default: %(default)s)")
    add_dtype(parser, default=None)
    add_device(parser)
    add_model(parser, "the draft's, if that is the embedded model")


def run(arguments: argparse.Namespace) -> None:
    """Write the refined sound and print how far it drifted from the draft.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    draft = arguments.draft
    output = draft.with_stem(f"{draft.stem}-refined") if arguments.output is None else arguments.output
    check_loudness(arguments.loudness)
    (path,) = output_paths(output, 1, arguments.force)
    if arguments.steps < 1:
        raise ValueError(f"--steps is {arguments.steps}; choose at least 1.")

    from .. import audio, hub

    recorded, rate = audio.read_audio(draft)
    settings = read_settings(draft)
    model = hub.model_to_load(settings["model"], draft, passed=arguments.model)
    dtype = arguments.dtype or settings["dtype"]
    pipe = load_pipeline(model, dtype, arguments.device)
    options = {
        "num_inference_steps": arguments.steps,
        "nu": settings["nu"],
        "guidance_scale": settings["omega"],
        "negative_prompt": settings["negative_prompt"],
        "audio_length_in_s": settings["duration"],
    }
    with step_progress(arguments.steps) as progress:
        waveform, refined = render(pipe, settings["prompt"], settings["seed"], options, progress, settings["noise"])
    write_sound(path, waveform, pipe.sampling_rate, refined | {"model": model, "dtype": dtype}, arguments.loudness)

    from ..control import drift

    recorded = audio.resample(recorded.mean(dim=0), rate, pipe.sampling_rate)
    try:
        moved = f"drift {drift(recorded, waveform.mean(dim=0), pipe.sampling_rate).item():.3f} (0 is the same sound)"
    except ValueError:
        moved = "too short or too quiet to measure the drift"
    models = f"made with the model {settings['model']!r}, refined with {model!r}"
    level = f", turned down by {refined['turned_down_db']} dB" if "turned_down_db" in refined else ""
    print(f"{path}: {arguments.steps} steps from the noise of {draft} ({models}), {moved}{level}")


def read_settings(draft: Path) -> dict[str, Any]:
    """Read the settings that `soundctm generate` stored in a file.

    Raises:
        ValueError: settings are missing or malformed, or the sound is not deterministic.
    """
    from .. import audio

    try:
        settings = json.loads(audio.read_tags(draft).get("comment", ""))
        missing = [name for name in SETTINGS if name not in settings]
    except (TypeError, ValueError):
        missing = list(SETTINGS)
    if missing:
        raise ValueError(
            f"{draft} lacks {', '.join(missing)} in its metadata; pass a file that soundctm generate wrote."
        )
    malformed = [
        name
        for name, types in SETTINGS.items()
        if not isinstance(settings[name], types) or isinstance(settings[name], bool)
    ]
    if settings["dtype"] not in DTYPES:
        malformed.append("dtype")
    if malformed:
        name = malformed[0]
        raise ValueError(
            f"{draft} has {name} = {settings[name]!r} in its metadata; pass a file that soundctm generate wrote."
        )
    if settings["gamma"] != 0:
        raise ValueError(
            f"{draft} was made with --gamma {settings['gamma']:g}, so more steps give another sound; only drafts with "
            "--gamma 0 can be refined."
        )
    return settings
