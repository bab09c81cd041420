"""Checks before the first step: arguments, machine, teacher and disk."""

import argparse
import os
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import InitProcessGroupKwargs

from ..data.latents import has_posterior
from ..distillation.teachers import AudioLDM2, Teacher
from ..precision import is_precise, jump_error, rounding_factor
from ..schedulers.scheduling_ctm import CTMScheduler
from .checkpoints import checkpoint_bytes
from .optimizers import check_optimizer
from .publish import publishing_problems

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Weights, EMA and two moments, all float32.
_STATE_BYTES_PER_PARAMETER = 16


def check_arguments(args: argparse.Namespace) -> None:
    """Check arguments that this machine may be unable to satisfy.

    Raises:
        ValueError: A list of them, with remedies.
    """
    problems = _precision_problems(args.mixed_precision)
    try:
        check_optimizer(args.optimizer, args.use_8bit_adam)
    except ValueError as error:
        problems.append(str(error))
    _raise(problems + publishing_problems(args))


def choose_precision(
    args: argparse.Namespace, scheduler: CTMScheduler, network_config: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Set `args.mixed_precision` and `args.teacher_precision` where they are None, and check both.

    The student is in bfloat16 where that is precise enough for a jump from the teacher's highest noise level, else in
    float32. Teacher and target follow the student.

    Args:
        args: Arguments of train_ctm.py, which are changed.
        scheduler: Noise levels and prediction type of the teacher.
        network_config: Configuration of the teacher's network.

    Raises:
        ValueError: A given precision would make the error of a jump larger than `precision.MAX_JUMP_ERROR`.
    """
    highest, prediction_type = scheduler.config.sigma_max, scheduler.config.prediction_type
    factor = rounding_factor(network_config)
    reason = (
        "the teacher's network amplifies rounding errors"
        if factor > 1
        else f"the teacher predicts {prediction_type}, whose rounding errors are multiplied by the noise level"
    )
    problems = []
    for name in ("mixed_precision", "teacher_precision"):
        given = PRECISIONS.get(getattr(args, name))
        if given is not None and not is_precise(given, highest, prediction_type, factor):
            error = jump_error(given, highest, prediction_type, factor=factor)
            problems.append(
                f"--{name} {getattr(args, name)}: {reason}. A jump from its highest noise level, {highest:.3g}, would "
                f"be wrong by {error:.0%} of the latents' standard deviation. Pass --{name} no."
            )
    _raise(problems)
    if args.mixed_precision is None:
        half = is_precise(torch.bfloat16, highest, prediction_type, factor)
        args.mixed_precision = "bf16" if half else "no"
    if args.teacher_precision is None:
        args.teacher_precision = args.mixed_precision


def make_accelerator(mixed_precision: str = "no", **settings: Any) -> Accelerator:
    """Make the accelerator of a run, whose processes wait while the main one decodes and encodes the data set.

    Raises:
        ValueError: This machine lacks the hardware for `mixed_precision`.
    """
    _raise(_precision_problems(mixed_precision))
    # Encoding takes hours for a large data set. By default, torch gives up after 10 or 30 minutes of waiting.
    waiting = InitProcessGroupKwargs(timeout=timedelta(days=1))
    return Accelerator(mixed_precision=mixed_precision, **settings, kwargs_handlers=[waiting])


def check_processes(accelerator: Accelerator, use_8bit_adam: bool = False) -> None:
    """Check that training supports the way in which the launch configuration distributes it.

    Raises:
        ValueError: A list of what is unsupported, with remedies.
    """
    kind, plugin = accelerator.distributed_type, getattr(accelerator.state, "fsdp_plugin", None)
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    problems = []
    if kind in (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM):
        problems.append(
            f"{kind.value} updates the weights itself, before a step without a finite gradient can be skipped, and its "
            "checkpoints fit one number of processes only. Launch with training/configs/accelerate/fsdp2_zero2.yaml, "
            "which shards the same states."
        )
    elif kind == DistributedType.FSDP and plugin.fsdp_version != 2:
        problems.append("FSDP 1 is not supported; set fsdp_version: 2, as in training/configs/accelerate/fsdp2.yaml.")
    elif kind == DistributedType.FSDP and plugin.cpu_ram_efficient_loading:
        problems.append(
            "fsdp_cpu_ram_efficient_loading leaves the text encoder empty on all processes but one; set it to false."
        )
    elif kind == DistributedType.FSDP and use_8bit_adam:
        problems.append("--use_8bit_adam does not support sharded tensors; leave it out, or launch with ddp.yaml.")
    elif wants_fsdp and kind != DistributedType.FSDP:
        problems.append("accelerate supports FSDP only with GPUs and several processes; launch with ddp.yaml.")
    _raise(problems)


def check_run(args: argparse.Namespace, teacher: Teacher, num_processes: int = 1) -> None:
    """Check that the arguments, the teacher and the disk fit together.

    Raises:
        ValueError: A list of what does not fit, with remedies.
    """
    problems = [
        *_batch_problems(args, num_processes),
        *_length_problems(args, teacher),
        *_disk_problems(args, teacher),
    ]
    if args.gradient_checkpointing and teacher.family is AudioLDM2:
        problems.append("--gradient_checkpointing fails inside diffusers' AudioLDM2 network; leave it out.")
    if args.sample_posterior and not has_posterior(teacher.components["vae"]):
        problems.append("--sample_posterior: the teacher's autoencoder has no posterior to sample; leave it out.")
    for name in ("validation_prompts", "push_to_hub"):
        if getattr(args, name) and not teacher.can_decode:
            problems.append(f"--{name} needs a vocoder to generate audio; pass --vocoder FOLDER.")
    _raise(problems)


def _raise(problems: list[str]) -> None:
    if problems:
        raise ValueError("Nothing was trained:\n" + "\n".join(f"- {problem}" for problem in problems))


def _precision_problems(mixed_precision: str) -> list[str]:
    if mixed_precision == "fp16" and not torch.cuda.is_available():
        return ["--mixed_precision fp16 needs a CUDA GPU, and there is none; use bf16 or no."]
    return []


def _batch_problems(args: argparse.Namespace, num_processes: int) -> list[str]:
    parts = num_processes * args.gradient_accumulation_steps
    if args.train_batch_size % parts:
        return [
            f"--train_batch_size {args.train_batch_size} counts the clips of all processes and accumulation steps; it "
            f"is not divisible by {num_processes} × {args.gradient_accumulation_steps}. Give a multiple of {parts}."
        ]
    return []


def _length_problems(args: argparse.Namespace, teacher: Teacher) -> list[str]:
    problems = []
    if args.sampling_rate != teacher.sampling_rate:
        problems.append(
            f"--sampling_rate {args.sampling_rate} is not the teacher's {teacher.sampling_rate} Hz; leave it out."
        )
    positions, multiple, unit = teacher.latent_positions(args.num_samples)
    if positions is None:
        groups = -(-args.num_samples // (unit * multiple))
        problems.append(
            f"--num_samples {args.num_samples} is not a multiple of {unit * multiple}: the networks work on groups of "
            f"{multiple} latent positions of {unit} samples. Give {groups} × {unit * multiple} = "
            f"{groups * unit * multiple}."
        )
    if teacher.conditioning.fixed_length and positions and positions > teacher.network.config.sample_size:
        problems.append(
            f"--num_samples {args.num_samples} is {positions} latent positions; this teacher supports at most "
            f"{teacher.network.config.sample_size}."
        )
    longest = teacher.conditioning.max_audio_length_in_s
    if longest is not None and args.num_samples > longest * teacher.sampling_rate:
        problems.append(
            f"--num_samples {args.num_samples} is {args.num_samples / teacher.sampling_rate:.1f} s; this teacher "
            f"supports at most {longest:g} s."
        )
    return problems


def _disk_problems(args: argparse.Namespace, teacher: Teacher) -> list[str]:
    folder = Path(args.output_dir).absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    parameters = sum(parameter.numel() for parameter in teacher.network.parameters())
    checkpoint = parameters * _STATE_BYTES_PER_PARAMETER
    # One more than are kept: a new checkpoint is complete before the oldest is removed.
    needed = checkpoint * ((args.checkpoints_total_limit or 1) + 1)
    needed = max(needed - checkpoint_bytes(folder), checkpoint)
    free = shutil.disk_usage(existing).free
    if free < needed:
        return [
            f"--output_dir {args.output_dir}: {free / 1e9:.1f} GB are free, but the checkpoints of this run need "
            f"{needed / 1e9:.1f} GB more; make room, lower --checkpoints_total_limit or choose another disk."
        ]
    return []
