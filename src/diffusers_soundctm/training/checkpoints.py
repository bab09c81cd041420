"""Checkpoints of a run. A folder `checkpoint-N` is complete or does not exist."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.optim.lr_scheduler import LambdaLR

from ..files import atomic_folder

_STATE_FILE = "state.pt"
# What a run can go on without: counters of steps and of a stream's clips, and fp16's loss scale, which other precisions
# do not use.
_OPTIONAL = {"identity", "skips", "losses", "data", "scaler"}


def save_checkpoint(
    output_dir: str | os.PathLike,
    step: int,
    state: Mapping[str, Any],
    total_limit: int | None = None,
    identity: Mapping[str, str] | None = None,
    main_process: bool = True,
) -> Path:
    """Write the state of a run to `output_dir/checkpoint-{step}`, and remove older checkpoints.

    Args:
        output_dir: Folder of the run.
        step: Number of finished optimization steps.
        state: Name to module, optimizer, scheduler or anything else with `state_dict` and `load_state_dict`.
        total_limit: Number of checkpoints up to this one that are kept; None keeps all.
        identity: What a resumed run must share with this one, see `identity.run_identity`.
        main_process: False on processes that only help to gather sharded states.

    Returns:
        The folder of the checkpoint.

    Raises:
        OSError: The checkpoint cannot be written, for example because the disk is full. Older checkpoints are intact.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    stored = {"step": step, **{name: part.state_dict() for name, part in state.items()}}
    if not main_process:
        return folder
    if identity is not None:
        stored["identity"] = dict(identity)
    try:
        with atomic_folder(folder, overwrite=True) as temporary, (temporary / _STATE_FILE).open("wb") as file:
            torch.save(stored, file)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        last = latest_checkpoint(output_dir)
        kept = f"{last.name} is intact" if last else "there is no earlier checkpoint"
        free = shutil.disk_usage(Path(output_dir)).free if Path(output_dir).is_dir() else 0
        raise OSError(
            f"{folder} could not be written ({error}); {kept}. {free / 1e9:.2f} GB are free on this disk: make room, "
            "then resume with --resume_from_checkpoint latest."
        ) from error
    if total_limit is not None:
        for old in [found for found in _checkpoints(output_dir) if _step(found) <= step][:-total_limit]:
            shutil.rmtree(old)
    return folder


def load_checkpoint(
    folder: str | os.PathLike, state: Mapping[str, Any], identity: Mapping[str, str] | None = None
) -> int:
    """Load a checkpoint into `state`.

    Args:
        folder: What `save_checkpoint` wrote.
        state: The objects that were saved, by the same names.
        identity: Identity of the run that resumes.

    Returns:
        The number of finished steps.

    Raises:
        ValueError: The folder holds no checkpoint of this training script, is damaged, belongs to other networks, or to
            a run with another identity.
    """
    path = Path(folder) / _STATE_FILE
    if not path.is_file():
        raise ValueError(f"`resume_from_checkpoint` {str(folder)!r} has no {_STATE_FILE}; give a folder checkpoint-N.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        found = set(stored) - _OPTIONAL
    except Exception as error:  # a damaged file can fail in any of the libraries that read it
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} is damaged ({type(error).__name__}); give an earlier one."
        ) from error
    wanted = {"step", *state} - _OPTIONAL
    if found != wanted:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} holds {sorted(found)}, not {sorted(wanted)}: it comes from "
            "another training script. Give a checkpoint of this script."
        )
    _check_identity(folder, stored.get("identity", {}), identity or {})
    try:
        for name, part in state.items():
            if name in stored:
                part.load_state_dict(stored[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} does not fit this run's networks ({str(error)[:300]}); use the "
            "teacher and arguments that the run was started with."
        ) from error
    return stored["step"]


def resume(
    checkpoint: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    state: Mapping[str, Any],
    identity: Mapping[str, str] | None = None,
) -> int:
    """Load the checkpoint that `--resume_from_checkpoint` names into `state`, and print which one it is.

    Args:
        checkpoint: Folder of a checkpoint, or "latest" for the one of the highest step in `output_dir`. With None, or
            if there is no checkpoint in `output_dir`, nothing is loaded.
        output_dir: Folder of the run.
        state: What to load into, see `save_checkpoint`.
        identity: Identity of the run, see `load_checkpoint`.

    Returns:
        The number of finished steps.

    Raises:
        ValueError: The checkpoint does not belong to this run, see `load_checkpoint`.
    """
    if checkpoint is None:
        return 0
    folder = latest_checkpoint(output_dir) if checkpoint == "latest" else checkpoint
    if folder is None:
        PartialState().print(f"There is no checkpoint in {output_dir} yet; training starts at step 0.")
        return 0
    done = load_checkpoint(folder, state, identity)
    PartialState().print(f"Resuming from {folder}.")
    return done


def set_learning_rate(lr_scheduler: LambdaLR, learning_rate: float) -> None:
    """Replace the learning rate of a loaded checkpoint by `learning_rate`, at the same point of the schedule."""
    lr_scheduler.base_lrs = [learning_rate] * len(lr_scheduler.base_lrs)
    for group, schedule in zip(lr_scheduler.optimizer.param_groups, lr_scheduler.lr_lambdas, strict=True):
        group["initial_lr"] = learning_rate
        group["lr"] = learning_rate * schedule(lr_scheduler.last_epoch)


def latest_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The checkpoint of the highest step in `output_dir`, or None if there is none."""
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def checkpoint_bytes(output_dir: str | os.PathLike) -> int:
    """The size in bytes of all checkpoints in `output_dir`."""
    return sum(file.stat().st_size for folder in _checkpoints(output_dir) for file in folder.iterdir())


def save_model(model: Any, folder: str | os.PathLike) -> None:
    """Call `model.save_pretrained`; `folder` is complete or does not exist."""
    with atomic_folder(folder, overwrite=True) as temporary:
        model.save_pretrained(temporary)


def _check_identity(folder: str | os.PathLike, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    changed = [f"{k} {theirs[k]}, now {value}" for k, value in ours.items() if k in theirs and theirs[k] != value]
    if changed:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} is of another run ({'; '.join(changed)}); use the arguments and "
            "the data that the run was started with, or another `output_dir`."
        )


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    found = [folder for folder in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
