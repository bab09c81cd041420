"""Everything about a training run that can be wrong, found before the first step."""

import argparse
import os
import re
import shutil
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs

from ..distillation.teachers import AudioLDM2, Teacher
from .checkpoints import checkpoint_bytes, latest_checkpoint
from .optimizers import check_optimizer
from .publish import publishing_problems

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
_OUR_FILES = ("hub", "training.json", "settings.json", "cache", "logs", "samples", "scheduler",
              "pytorch_lora_weights.safetensors")  # fmt: skip
_OUR_PATTERN = re.compile(r"checkpoint-\d+|.+\.(tmp|log|out|err|txt)|\..+")
# Weights, moving average and two moments, all float32.
_STATE_BYTES_PER_PARAMETER = 16


def check_output_dir(args: argparse.Namespace) -> None:
    """Raise `ValueError` if `output_dir` holds what this run must not mix with."""
    folder = Path(args.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder.")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    foreign = {name for name in names if name not in _OUR_FILES and not _OUR_PATTERN.fullmatch(name)}
    if foreign and not names & {"training.json", "settings.json"} and not latest_checkpoint(folder):
        raise ValueError(
            f"--output_dir {folder} holds something else ({', '.join(sorted(foreign)[:5])}); give a new folder."
        )
    if latest_checkpoint(folder) and not args.resume_from_checkpoint:
        raise ValueError(
            f"--output_dir {folder} has checkpoints of an earlier run; pass --resume_from_checkpoint latest to go on, "
            "or give another folder."
        )
    named = args.resume_from_checkpoint not in (None, "latest")
    if named and not Path(args.resume_from_checkpoint).is_dir():
        raise ValueError(f"--resume_from_checkpoint {args.resume_from_checkpoint} is no folder.")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise `ValueError` listing what this machine cannot do of what the arguments ask for."""
    problems = []
    if args.mixed_precision == "fp16" and not torch.cuda.is_available():
        problems.append("--mixed_precision fp16 needs a CUDA GPU, and there is none; use bf16 or no.")
    for name in [] if args.report_to in (None, "none") else args.report_to.split(","):
        if name not in TRACKERS:
            problems.append(f"--report_to {name} is unknown; choose from none, {', '.join(TRACKERS)}.")
        elif find_spec(TRACKERS[name]) is None:
            problems.append(f"--report_to {name} needs a package that is missing: pip install {TRACKERS[name]}.")
    try:
        check_optimizer(args.optimizer, args.use_8bit_adam)
    except ValueError as error:
        problems.append(str(error))
    _raise(problems + publishing_problems(args))


def make_accelerator(**settings: Any) -> Accelerator:
    """An accelerator whose processes wait while the main one decodes and encodes the data set."""
    # That takes hours for a large one; torch gives up after 10 or 30 minutes. Launchers see for themselves who dies.
    return Accelerator(**settings, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))])


def check_processes(accelerator: Accelerator, use_8bit_adam: bool = False) -> None:
    """Raise `ValueError` if the processes share their work in a way that training cannot."""
    kind, plugin = accelerator.distributed_type, getattr(accelerator.state, "fsdp_plugin", None)
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    problems = []
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        problems.append(
            f"{kind.value} updates the weights by itself, before a step without finite gradient can be skipped, and "
            "its checkpoints fit one number of processes only; training/configs/accelerate/fsdp2_zero2.yaml shards "
            "the same states."
        )
    elif kind == DistributedType.FSDP and plugin.fsdp_version != 2:
        problems.append("FSDP 1 is not supported; set fsdp_version: 2, as training/configs/accelerate/fsdp2.yaml.")
    elif kind == DistributedType.FSDP and plugin.cpu_ram_efficient_loading:
        problems.append(
            "fsdp_cpu_ram_efficient_loading leaves the text encoder empty on all processes but one; set it to false."
        )
    elif kind == DistributedType.FSDP and use_8bit_adam:
        problems.append("--use_8bit_adam does not know sharded tensors; leave it out, or launch with ddp.yaml.")
    elif wants_fsdp and kind != DistributedType.FSDP:
        problems.append("accelerate has no FSDP without a GPU and several processes; launch with ddp.yaml.")
    _raise(problems)


def check_run(args: argparse.Namespace, teacher: Teacher, num_processes: int = 1) -> None:
    """Raise `ValueError` listing what does not fit between the arguments, this teacher and the disk."""
    problems = [
        *_batch_problems(args, num_processes),
        *_length_problems(args, teacher),
        *_disk_problems(args, teacher),
    ]
    if args.gradient_checkpointing and teacher.family is AudioLDM2:
        problems.append("--gradient_checkpointing fails inside diffusers' AudioLDM2 network; leave it out.")
    for name in ("validation_prompts", "push_to_hub"):
        if getattr(args, name) and not teacher.can_decode:
            problems.append(f"--{name} needs a vocoder to make sounds with; pass --vocoder FOLDER.")
    _raise(problems)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ValueError("Nothing was trained:\n" + "\n".join(f"- {problem}" for problem in problems))


def _batch_problems(args: argparse.Namespace, num_processes: int) -> list[str]:
    parts = num_processes * args.gradient_accumulation_steps
    if args.train_batch_size % parts:
        return [
            f"--train_batch_size {args.train_batch_size} is that of all processes and accumulation steps together; it "
            f"does not divide by {num_processes} × {args.gradient_accumulation_steps}."
        ]
    return []


def _length_problems(args: argparse.Namespace, teacher: Teacher) -> list[str]:
    problems = []
    if args.sampling_rate != teacher.sampling_rate:
        problems.append(f"--sampling_rate {args.sampling_rate} is not the teacher's {teacher.sampling_rate} Hz.")
    positions, multiple, unit = teacher.latent_positions(args.num_samples)
    if positions is None:
        problems.append(
            f"--num_samples {args.num_samples} is no multiple of {unit * multiple} samples, which the networks work in "
            f"({unit} a latent position, in groups of {multiple}): give {-(-args.num_samples // (unit * multiple))} "
            f"× {unit * multiple} = {-(-args.num_samples // (unit * multiple)) * unit * multiple}."
        )
    if teacher.conditioning.needs_audio_length and positions and positions > teacher.network.config.sample_size:
        problems.append(
            f"--num_samples {args.num_samples} is {positions} latent positions; this teacher knows at most "
            f"{teacher.network.config.sample_size}."
        )
    return problems


def _disk_problems(args: argparse.Namespace, teacher: Teacher) -> list[str]:
    folder = Path(args.output_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    parameters = sum(parameter.numel() for parameter in teacher.network.parameters())
    checkpoint = parameters * _STATE_BYTES_PER_PARAMETER
    # One more than are kept: the new one is complete before the oldest goes.
    needed = checkpoint * ((args.checkpoints_total_limit or 1) + 1)
    needed = max(needed - checkpoint_bytes(folder), checkpoint)
    free = shutil.disk_usage(existing).free
    if free < needed:
        return [
            f"--output_dir {args.output_dir}: {free / 1e9:.1f} GB are free, but the checkpoints of this run need "
            f"{needed / 1e9:.1f} GB more; make room, lower --checkpoints_total_limit or choose another disk."
        ]
    return []


def teacher_dtype(mixed_precision: str) -> torch.dtype:
    """What the frozen teacher runs in."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)
