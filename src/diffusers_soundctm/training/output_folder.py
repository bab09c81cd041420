"""The folder of a run: what it may hold already, and a lock so that one run at a time writes to it."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..files import owned
from .checkpoints import latest_checkpoint

LOCK_FILE = ".lock"
_RECORDS = ("training.json", "settings.json")
_MODELS = ("training.json", "model_index.json", "unet", "transformer", "vae", "vocoder",
           "pytorch_lora_weights.safetensors")  # fmt: skip
_OUR_FILES = (*_RECORDS, "hub", "cache", "logs", "samples", "scheduler", "pytorch_lora_weights.safetensors")
_OUR_PATTERN = re.compile(r"checkpoint-\d+|.+\.(tmp|log|out|err|txt)|\..+")


def check_output_dir(output_dir: str | os.PathLike, checkpoint: str | None = None) -> None:
    """Check that a run may write to `output_dir`.

    Args:
        output_dir: Folder of the run; it need not exist.
        checkpoint: `--resume_from_checkpoint`.

    Raises:
        ValueError: The folder holds files of something else, checkpoints that are not resumed, or a finished model
            without checkpoints; or `checkpoint` does not exist.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = {name for name in names if name not in _OUR_FILES and not _OUR_PATTERN.fullmatch(name)}
    latest = latest_checkpoint(folder)
    if foreign and not names & {*_RECORDS} and not latest:
        raise ValueError(
            f"--output_dir {folder} holds something else ({', '.join(sorted(foreign)[:5])}); give a new folder."
        )
    if latest and not checkpoint:
        raise ValueError(
            f"--output_dir {folder} has checkpoints of an earlier run; pass --resume_from_checkpoint latest to resume "
            "it, or give another folder."
        )
    models = [name for name in _MODELS if name in names]
    if models and not latest:
        raise ValueError(
            f"--output_dir {folder} holds a model ({', '.join(models)}) but no checkpoint to resume from, and training "
            "would overwrite it; give another folder, or move the model away."
        )
    if checkpoint not in (None, "latest") and not Path(checkpoint).is_dir():
        raise ValueError(f"--resume_from_checkpoint {checkpoint} is not a folder; give one, or 'latest'.")


@contextlib.contextmanager
def locked(output_dir: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a run's folder, which is made if it is missing. The system releases it if the process dies.

    If the block writes nothing to a new folder, the folder is removed again.

    Raises:
        ValueError: Another run holds the lock.
    """
    folder = Path(output_dir)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK_FILE).touch()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(owned(folder / LOCK_FILE))
        except (BlockingIOError, FileNotFoundError) as error:  # the other run may be removing it
            raise ValueError(
                f"--output_dir {folder} is in use by another run; wait until it has ended, or give another folder."
            ) from error
        try:
            yield
        finally:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
