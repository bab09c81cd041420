"""What the commands share that work on a recording, whoever made it."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .editing import Model, make_files, open_studio, outputs
from .made import Made, read_made

if TYPE_CHECKING:
    from ..app.recipe import Recipe, Upload
    from ..app.studio import Studio

_ANY_RATE = 16000  # in Hz, to check a file while the model, which determines the rate, is not loaded
_ANY_DIGEST = 16 * "0"


def length_of(file: Path) -> float:
    """Return the length of a recording in seconds.

    Raises:
        ValueError: it is not audio, or is too short, too long or silent.
    """
    from ..app.uploads import read_upload

    try:
        return read_upload(file, _ANY_RATE, 1).shape[-1] / _ANY_RATE
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def prompt_of(prompt: str | None, recording: Path) -> str:
    """Return the prompt that the user passed, or the one that the recording was made from.

    Raises:
        ValueError: there is neither.
    """
    if prompt is not None:
        return prompt
    try:
        return read_made(recording).recipe.prompt
    except ValueError as error:
        raise ValueError(f"{recording} does not say what it sounds like; describe the new part.") from error


def edit_recording(arguments: argparse.Namespace, build: "Callable[[Upload, float], Recipe]") -> None:
    """Write the sound of a recipe whose source is the recording.

    Args:
        arguments: Of the command.
        build: Makes the recipe from the source and its length in seconds. Its errors come before the model is loaded.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..app.recipe import Upload

    (path,) = outputs(arguments, arguments.recording)
    build(Upload(_ANY_DIGEST), length_of(arguments.recording))
    studio = open_studio(Model(arguments.model or "embedded", arguments.dtype, arguments.device, tuple(arguments.lora)))
    upload = studio.add_upload(arguments.recording)
    recipe = build(upload, studio.upload(upload).shape[-1] / studio.pipe.sampling_rate)
    make_files(studio, [recipe], [path], arguments.loudness, arguments.recording)


def find_recording(made: Made) -> Path | None:
    """Return the file that a sound was filled or extended from; None if it was made from noise or by the app's own.

    Raises:
        ValueError: the file is not where it was.
    """
    from ..app.recipe import Upload

    source = made.recipe.source
    while source is not None and not isinstance(source, Upload):
        source = source.source
    if source is None:
        return None
    if made.recording is None or not Path(made.recording).is_file():
        where = "" if made.recording is None else f" ({made.recording})"
        raise ValueError(f"{made.file} was made from a recording that is not here{where}; fill or extend it again.")
    return Path(made.recording)


def add_recording(studio: "Studio", made: Made, recording: Path) -> None:
    """Give the studio the recording of a sound.

    Raises:
        ValueError: the file has other samples than the one that the sound was made from.
    """
    from ..app.recipe import Upload

    upload: Recipe | Upload | None = made.recipe.source
    while upload is not None and not isinstance(upload, Upload):
        upload = upload.source
    if studio.add_upload(recording) != upload:
        raise ValueError(f"{recording} is not the recording that {made.file} was made from; fill or extend it again.")
