"""`soundctm info`: print what a model consists of."""

import argparse
from pathlib import Path
from typing import Any

from ..audio import waveform_format
from .arguments import add_model


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("info", help="print what a model consists of", epilog="example: soundctm info")
    parser.set_defaults(run=run)
    add_model(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print components, sizes and audio format.

    Raises:
        OSError: the model is missing or damaged.
    """
    from .. import hub

    folder = hub.embedded_folder() if arguments.model is None else Path(arguments.model)
    if not folder.is_dir():
        folder = Path(hub.download_model(arguments.model))
    hub.check_folder(folder)
    told = facts(folder)  # before anything is printed, as it may find damage
    print(f"{arguments.model or 'embedded model'} ({folder})")
    total = 0
    for name, (library, class_name) in hub.components(folder).items():
        parameters, size = hub.count_parameters(folder / name)
        total += parameters
        weights = f"{parameters / 1e6:8.2f} M parameters {size / 1e6:7.1f} MB" if parameters else ""
        print(f"  {name:13} {f'{library}.{class_name}':43} {weights}".rstrip())
    print(f"  {'total':13} {total / 1e6:.1f} M parameters")
    for label, value in told.items():
        print(f"  {label:13} {value}")


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
