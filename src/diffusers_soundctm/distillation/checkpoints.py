"""Training states on disk: a folder `checkpoint-N` is complete or does not exist."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_STATE_FILE = "state.pt"


def save_checkpoint(
    output_dir: str | os.PathLike, step: int, state: Mapping[str, Any], total_limit: int | None = None
) -> Path:
    """Write the `state_dict()` of everything in `state` to `output_dir/checkpoint-{step}`, and remove the oldest ones.

    Args:
        step: finished optimisation steps.
        state: name → module, optimizer, scheduler or anything else with `state_dict` and `load_state_dict`.
        total_limit: how many checkpoints to keep; None keeps all.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        with (temporary / _STATE_FILE).open("wb") as file:
            torch.save({"step": step, **{name: part.state_dict() for name, part in state.items()}}, file)
            file.flush()
            os.fsync(file.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if total_limit is not None:
        for old in _checkpoints(output_dir)[:-total_limit]:
            shutil.rmtree(old)
    return folder


def load_checkpoint(folder: str | os.PathLike, state: Mapping[str, Any]) -> int:
    """Load what `save_checkpoint` wrote into `state`; returns the number of finished steps.

    Raises:
        ValueError: the folder is no checkpoint of this training script.
    """
    path = Path(folder) / _STATE_FILE
    if not path.is_file():
        raise ValueError(f"`resume_from_checkpoint` {str(folder)!r} has no {_STATE_FILE}; give a folder checkpoint-N.")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    if set(stored) != {"step", *state}:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} holds {sorted(stored)}, not step and {sorted(state)}: it comes "
            "from another training script."
        )
    for name, part in state.items():
        part.load_state_dict(stored[name])
    return stored["step"]


def latest_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The checkpoint of the highest step under `output_dir`, None if there is none."""
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def save_model(model: Any, folder: str | os.PathLike) -> Path:
    """`model.save_pretrained(folder)`, so that the folder is complete or does not exist."""
    folder = Path(folder)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    found = [folder for folder in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("checkpoint-")))
