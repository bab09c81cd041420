"""`soundctm info`: print how a file was made, or what a model consists of."""

import argparse
from pathlib import Path
from typing import Any

from .arguments import add_model
from .made import Made, read_made, read_settings
from .replay import plain_command, recipe_commands

# Of a file, in this order.
SHOWN = (
    "prompt",
    "negative_prompt",
    "seed",
    "variations",
    "steps",
    "duration",
    "omega",
    "nu",
    "gamma",
    "strength",
    "spans",
    "recording",
    "loudness",
    "measured_loudness",
    "turned_down_db",
    "curve_error_db",
    "model",
    "lora",
    "dtype",
)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "info",
        help="print how a sound file was made, or what a model consists of",
        epilog="example: soundctm info a.wav",
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", nargs="?", type=Path, help="file that soundctm or its app wrote (default: the model)")
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print how a file was made and the commands that make it again; or components, sizes and format of a model.

    Raises:
        ValueError: the file says nothing about it.
        OSError: the model is missing or damaged.
    """
    if arguments.file is not None:
        print_file(arguments.file)
    else:
        print_model(arguments.model)


def print_file(file: Path) -> None:
    """Print how a sound file was made, and the commands that make it again."""
    settings = read_settings(file)
    again = f"{file.stem}-again{file.suffix}"
    made = None
    if "recipe" in settings:
        made = read_made(file)
        commands = recipe_commands(made, settings, again)
    else:
        commands = [plain_command(settings, again)]
    print(f"{file}: {how(made)}")
    values = settings
    if made is not None:
        values = settings | vars(made.recipe) | vars(made.recipe.noise)
    for name in SHOWN:
        if values.get(name) not in (None, "", (), []):
            print(f"  {name.replace('_', ' '):17} {values[name]}")
    print("Make it again:")
    for command in commands:
        print(f"  {command}")


def how(made: "Made | None") -> str:
    """Return in a few words how a sound was made."""
    if made is None or made.recipe.is_plain:
        return "generated from a prompt"
    recipe = made.recipe
    if recipe.source is not None:
        return "a filled sound" if recipe.spans else "an extended sound"
    if recipe.morph is not None:
        return f"a draft that turns into {recipe.morph.prompt!r}"
    if recipe.curve or recipe.loop:
        return "a draft that loops" if recipe.loop else "a draft that follows a loudness curve"
    if recipe.sketch is not None:
        return f"a sound that follows the {', '.join(recipe.sketch.followed)} of a voice"
    return "a variation of a draft"


def print_model(model: str | None) -> None:
    """Print components, sizes and audio format of a model."""
    from .. import hub

    folder = hub.embedded_folder() if model is None else Path(model)
    if not folder.is_dir():
        folder = Path(hub.download_model(model))
    hub.check_folder(folder)
    told = facts(folder)  # before anything is printed, as it may find damage
    print(f"{model or 'embedded model'} ({folder})")
    total = 0
    for name, (library, class_name) in hub.components(folder).items():
        parameters, size = hub.count_parameters(folder / name)
        total += parameters
        weights = f"{parameters / 1e6:8.2f} M parameters {size / 1e6:7.1f} MB" if parameters else ""
        print(f"  {name:13} {f'{library}.{class_name}':43} {weights}".rstrip())
    print(f"  {'total':13} {total / 1e6:.1f} M parameters")
    for label, value in told.items():
        print(f"  {label:13} {value}")
    kinds = hub.read_known_sounds(folder).get("kinds", {})
    if kinds:
        print(f"It knows {len(kinds)} kinds of sounds, here with a prompt for each:")
        for kind, examples in kinds.items():
            print(f"  {kind:17} {examples[0] if examples else kind}")


def facts(folder: Path) -> dict[str, str]:
    """Return label and value of what the configurations in `folder` tell about audio, noise levels and guidance.

    Raises:
        OSError: a value is missing or has another type.
    """
    try:
        return _facts(folder)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(
            f"{folder} has a configuration with a missing or wrong value ({error}); download or copy the model again."
        ) from error


def _facts(folder: Path) -> dict[str, str]:
    from .. import hub
    from ..audio import waveform_format

    def config(file: str) -> dict[str, Any]:
        return hub.read_config(folder / file) if (folder / file).is_file() else {}

    vae, vocoder = config("vae/config.json"), config("vocoder/config.json")
    scheduler, index = config("scheduler/scheduler_config.json"), config(hub.INDEX)
    found = {}
    if vocoder.get("sampling_rate"):
        found["audio"] = f"mono, {vocoder['sampling_rate']} Hz, {vocoder.get('model_in_dim')} mel bands"
    elif vae.get("sampling_rate") or vae.get("sample_rate"):
        channels, sampling_rate = waveform_format(vae)
        found["audio"] = f"{'stereo' if channels == 2 else 'mono'}, {sampling_rate} Hz, waveform autoencoder"
    if scheduler.get("sigma_max"):
        found["noise levels"] = (
            f"{scheduler['sigma_min']:g} to {scheduler['sigma_max']:g}, {scheduler['prediction_type']}"
        )
    if index.get("guidance_scale_range"):
        low, high = index["guidance_scale_range"]
        found["omega"] = f"{low:g} to {high:g} in training"
    if (folder / "README.md").is_file():
        found["model card"] = str(folder / "README.md")
    return found
