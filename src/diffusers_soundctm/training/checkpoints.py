"""Training states on disk: a folder `checkpoint-N` is complete or does not exist."""

import argparse
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.optim.lr_scheduler import LambdaLR

_STATE_FILE = "state.pt"
# What a run goes on without: counters that older checkpoints lack, and fp16's scale, which other precisions do not use.
_OPTIONAL = {"identity", "skips", "losses", "scaler"}


def save_checkpoint(
    output_dir: str | os.PathLike,
    step: int,
    state: Mapping[str, Any],
    total_limit: int | None = None,
    identity: Mapping[str, str] | None = None,
    main_process: bool = True,
) -> Path:
    """Write the `state_dict()` of everything in `state` to `output_dir/checkpoint-{step}`, and remove older ones.

    Args:
        step: finished optimisation steps.
        state: name → module, optimizer, scheduler or anything else with `state_dict` and `load_state_dict`.
        total_limit: how many checkpoints up to this one to keep; None keeps all.
        identity: what a run must share with this one to go on from here, see `load_checkpoint`.
        main_process: False on processes that help to put sharded states together and write nothing.

    Raises:
        OSError: it cannot be written, for example because the disk is full; older checkpoints are intact.
    """
    folder = Path(output_dir) / f"checkpoint-{step}"
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    stored = {"step": step, **{name: part.state_dict() for name, part in state.items()}}
    if not main_process:
        return folder
    if identity is not None:
        stored["identity"] = dict(identity)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with (temporary / _STATE_FILE).open("wb") as file:
            torch.save(stored, file)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, folder)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        last = latest_checkpoint(output_dir)
        kept = f"{last.name} is intact" if last else "there is no earlier one"
        free = shutil.disk_usage(Path(output_dir)).free if Path(output_dir).is_dir() else 0
        raise OSError(
            f"{folder} could not be written ({error}); {kept}. {free / 1e9:.2f} GB are free on this disk: make room, "
            "then go on with --resume_from_checkpoint latest."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if total_limit is not None:
        for old in [found for found in _checkpoints(output_dir) if _step(found) <= step][:-total_limit]:
            shutil.rmtree(old)
    return folder


def load_checkpoint(
    folder: str | os.PathLike, state: Mapping[str, Any], identity: Mapping[str, str] | None = None
) -> int:
    """Load what `save_checkpoint` wrote into `state`; returns the number of finished steps.

    Raises:
        ValueError: the folder is no checkpoint of this training script, is damaged, is of other networks, or its
            `identity` is another one.
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
            "another training script."
        )
    theirs = stored.get("identity", {})
    changed = [f"{key} {theirs[key]}, now {value}" for key, value in (identity or {}).items() if key in theirs
               and theirs[key] != value]  # fmt: skip
    if changed:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} is of another run ({'; '.join(changed)}); use the arguments it "
            "was started with, or another `output_dir`."
        )
    try:
        for name, part in state.items():
            if name in stored:
                part.load_state_dict(stored[name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"`resume_from_checkpoint` {str(folder)!r} does not fit this run's networks ({str(error)[:300]}); use the "
            "teacher and arguments it was started with."
        ) from error
    return stored["step"]


def resume(
    checkpoint: str | os.PathLike | None,
    output_dir: str | os.PathLike,
    state: Mapping[str, Any],
    identity: Mapping[str, str] | None = None,
) -> int:
    """Load the checkpoint that `--resume_from_checkpoint` names into `state`; returns the number of finished steps.

    The main process says which one it is.

    Args:
        checkpoint: its folder, or "latest" for the one of the highest step under `output_dir`. Without one, or without
            any under `output_dir`, nothing is loaded and no step is finished.
        output_dir: folder of the run.
        state: what to load into, see `save_checkpoint`.
        identity: what the runs must share, see `load_checkpoint`.

    Raises:
        ValueError: the checkpoint does not belong to this run, see `load_checkpoint`.
    """
    if checkpoint is None:
        return 0
    folder = latest_checkpoint(output_dir) if checkpoint == "latest" else checkpoint
    if folder is None:
        PartialState().print(f"There is no checkpoint in {output_dir} yet, so this run begins at step 0.")
        return 0
    done = load_checkpoint(folder, state, identity)
    PartialState().print(f"Going on from {folder}.")
    return done


def run_identity(args: argparse.Namespace, names: Sequence[str], **more: object) -> dict[str, str]:
    """The `identity` of a run: the arguments of these `names`, and what is not an argument."""
    return {name: str(value) for name, value in ({name: getattr(args, name) for name in names} | more).items()}


def set_learning_rate(lr_scheduler: LambdaLR, learning_rate: float) -> None:
    """Go on with this `learning_rate`, in place of the one that a checkpoint brought along."""
    lr_scheduler.base_lrs = [learning_rate] * len(lr_scheduler.base_lrs)
    for group, schedule in zip(lr_scheduler.optimizer.param_groups, lr_scheduler.lr_lambdas, strict=True):
        group["initial_lr"] = learning_rate
        group["lr"] = learning_rate * schedule(lr_scheduler.last_epoch)


def latest_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The checkpoint of the highest step under `output_dir`, None if there is none."""
    found = _checkpoints(output_dir)
    return found[-1] if found else None


def checkpoint_bytes(output_dir: str | os.PathLike) -> int:
    """What the checkpoints under `output_dir` take of the disk."""
    return sum(file.stat().st_size for folder in _checkpoints(output_dir) for file in folder.iterdir())


def remove_unfinished(output_dir: str | os.PathLike) -> None:
    """Remove what a killed run was just writing under `output_dir`."""
    for path in Path(output_dir).glob("*.tmp"):
        if re.fullmatch(r".+\.\d+\.tmp", path.name) and path.is_dir():
            shutil.rmtree(path)


def save_model(model: Any, folder: str | os.PathLike) -> Path:
    """`model.save_pretrained(folder)`, so that the folder is complete or does not exist."""
    folder = Path(folder)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        model.save_pretrained(temporary)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _replace(new: Path, folder: Path) -> None:
    """Put the folder `new` in the place of `folder`, and the names on the disk."""
    old = folder.with_name(f"{folder.name}.old.{os.getpid()}.tmp")
    if folder.exists():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    found = [folder for folder in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", folder.name)]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
