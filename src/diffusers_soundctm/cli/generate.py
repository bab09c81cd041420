"""`soundctm generate`: write sounds for prompts."""

import argparse
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..app.validators import text
from ..call_checks import MAX_AUDIO_LENGTH_IN_S
from .arguments import (
    add_device,
    add_dtype,
    add_lora,
    add_model,
    add_output,
    check_duration,
    check_loudness,
    check_output,
    check_overwrite,
    check_seed,
    check_steps,
)
from .batches import Row, file_names, read_rows, row_options
from .made import read_settings
from .rendering import load_pipeline, match_loudness, render, step_progress, write_sound

EXAMPLE = 'example: soundctm generate "rain on a tin roof" -o rain.wav --steps 4 --seed 0'


@dataclass(frozen=True)
class Job:
    """One sound to make: its file, prompt, seed, further arguments of the pipeline's call, and loudness."""

    path: Path
    prompt: str
    seed: int
    options: dict[str, Any]
    loudness: float | None


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("generate", help="write sounds for prompts", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("prompt", nargs="?", help="description of the sound")
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="text file with one prompt per line, or a .csv or .tsv table with the column prompt and any of name, "
        "seed, duration, loudness and steps; lines that begin with # are skipped",
    )
    add_output(parser, Path("sound.wav"), "default: %(default)s; several files are numbered")
    parser.add_argument("--name-from-prompt", action="store_true", help="name files after their prompts")
    parser.add_argument(
        "--match", action="store_true", help="bring all files to one loudness, the highest that their peaks allow"
    )
    parser.add_argument("--resume", action="store_true", help="skip files that an earlier run has written")
    parser.add_argument("--steps", type=int, help="network steps: 1 for a draft, 4 for a good final (default: 1)")
    parser.add_argument(
        "--nu", type=float, help="weight of the prompt against the negative prompt; 1 ignores the latter (default: 1)"
    )
    parser.add_argument("--omega", type=float, help="guidance scale that the student imitates (default: 3.5)")
    parser.add_argument("--gamma", type=float, help="0 is deterministic, 1 adds the most noise (default: 0)")
    parser.add_argument("--negative-prompt", help="description of what to avoid; needs a --nu other than 1")
    parser.add_argument("--seed", type=int, help="seed of the first sound; each further sound adds 1 (default: random)")
    parser.add_argument(
        "--duration", type=float, metavar="SECONDS", help="at most 30 (default: the model's training length)"
    )
    parser.add_argument("--num", type=int, default=1, help="sounds per prompt (default: %(default)s)")
    add_dtype(parser)
    add_device(parser)
    add_model(parser)
    add_lora(parser)
    parser.add_argument(
        "--runtime",
        choices=("torch", "onnx"),
        default="torch",
        help="onnx starts faster, and needs a --model that `soundctm export` wrote (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write one sound after the other.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    check_arguments(arguments)
    jobs = plan(arguments)
    finished = [job for job in jobs if arguments.resume and job.path.exists()]
    for job in finished:
        check_finished(job, arguments)
    waiting = [job for job in jobs if job not in finished]
    if finished:
        print(f"{len(finished)} of {len(jobs)} files are there already")
    if waiting:
        make(arguments, waiting, len(finished), len(jobs))
    if arguments.match:
        loudness, limiting = match_loudness([job.path for job in jobs])
        print(f"{len(jobs)} files have {loudness:.1f} LUFS now, the highest that the peaks of {limiting} allow")


def make(arguments: argparse.Namespace, jobs: list[Job], done: int, total: int) -> None:
    """Make the sounds of `jobs`. `done` of the `total` files are there already."""
    from tqdm import tqdm

    pipe, make_sound, write = _runtime(arguments)
    with step_progress(sum(job.options.get("num_inference_steps", 1) for job in jobs)) as progress:
        for i, job in enumerate(jobs, done + 1):
            if total > 1:
                progress.set_description(f"{i} of {total}")
            start = time.perf_counter()
            waveform, settings = make_sound(pipe, job.prompt, job.seed, job.options, progress)
            seconds = time.perf_counter() - start
            settings |= {"model": arguments.model or "embedded", "dtype": arguments.dtype}
            settings |= {"lora": arguments.lora} if arguments.lora else {}
            level = write(job.path, waveform, pipe.sampling_rate, settings, job.loudness)
            duration = settings["duration"]
            speed = f" ({duration / seconds:.1f} times real time)" if seconds > 0 else ""
            tqdm.write(f"{job.path}: {duration:.2f} s of sound in {seconds:.2f} s{speed}, seed {job.seed}{level}")


def _runtime(arguments: argparse.Namespace) -> tuple[Any, Callable, Callable]:
    """The pipeline, and the functions that make a sound with it and write its file."""
    if arguments.runtime == "torch":
        return load_pipeline(arguments.model, arguments.dtype, arguments.device, arguments.lora), render, write_sound
    from . import onnx_runtime

    return onnx_runtime.OnnxSoundCTMPipeline(arguments.model), onnx_runtime.render, onnx_runtime.write


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise `ValueError` if an option is out of its range, or options exclude each other."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise ValueError(f"Pass either a prompt or --prompts FILE; {EXAMPLE}")
    if arguments.num < 1:
        raise ValueError(f"--num is {arguments.num}; choose at least 1.")
    if arguments.match and arguments.loudness is not None:
        raise ValueError("--match finds the loudness itself; leave out --loudness, or --match.")
    for check, value in (
        (check_steps, arguments.steps),
        (check_duration, arguments.duration),
        (check_seed, arguments.seed),
        (check_loudness, arguments.loudness),
    ):
        if value is not None:
            check(value)
    for name in ("nu", "omega", "gamma"):
        value = getattr(arguments, name)
        if value is not None and not math.isfinite(value):
            raise ValueError(f"--{name} is {value}; choose a finite number.")
    if arguments.gamma is not None and not 0 <= arguments.gamma <= 1:
        raise ValueError(f"--gamma is {arguments.gamma:g}; choose 0 (deterministic) to 1.")
    check_output(arguments.output)
    if arguments.runtime == "onnx":
        from .onnx_runtime import check_runtime

        check_runtime(arguments)


def plan(arguments: argparse.Namespace) -> list[Job]:
    """Return what to make, in order.

    Raises:
        ValueError: the list of prompts cannot be used, or a file cannot be written.
    """
    rows = [Row(arguments.prompt)] if arguments.prompts is None else read_rows(arguments.prompts)
    if arguments.match and any(row.loudness is not None for row in rows):
        raise ValueError("--match finds the loudness itself; leave out the column loudness, or --match.")
    output, num = arguments.output, arguments.num
    names = file_names(rows, num, output.stem, arguments.name_from_prompt)
    paths = [output.with_name(f"{name}{output.suffix}") for name in names]
    rows = [replace(row, prompt=text("prompt", row.prompt)) for row in rows]
    if arguments.negative_prompt is not None:
        text("negative prompt", arguments.negative_prompt, may_be_empty=True)
    for path in paths:
        check_overwrite(path, arguments.force or arguments.resume)
    options = {
        "num_inference_steps": arguments.steps,
        "nu": arguments.nu,
        "guidance_scale": arguments.omega,
        "gamma": arguments.gamma,
        "negative_prompt": arguments.negative_prompt,
        "audio_length_in_s": arguments.duration,
    }
    options = {name: value for name, value in options.items() if value is not None}
    each = [(row, i) for row in rows for i in range(num)]
    first = arguments.seed
    if first is None:
        first = earlier_seed(each, paths) if arguments.resume else None
    if first is None:
        first = secrets.randbelow(2**31)
    jobs = []
    for number, ((row, i), path) in enumerate(zip(each, paths, strict=True)):
        seed = first + number if row.seed is None else row.seed + i
        loudness = arguments.loudness if row.loudness is None else row.loudness
        jobs.append(Job(path, row.prompt, seed, row_options(row, options), loudness))
        check_seed(seed)
        check_length(jobs[-1], arguments.model)
    return jobs


def check_length(job: Job, model: str | None) -> None:
    """Raise `ValueError` if a sound is longer than the embedded model makes. Other limits are known after loading."""
    seconds = job.options.get("audio_length_in_s", 0)
    if model in (None, "embedded") and seconds > MAX_AUDIO_LENGTH_IN_S:
        raise ValueError(f"--duration of {job.path} is {seconds:g}; choose at most {MAX_AUDIO_LENGTH_IN_S:g} seconds.")


def earlier_seed(each: list[tuple[Row, int]], paths: list[Path]) -> int | None:
    """Return the first seed of the run that wrote one of the files; None if there is none with a seed of its own."""
    for number, ((row, _), path) in enumerate(zip(each, paths, strict=True)):
        if row.seed is None and path.exists():
            return read_settings(path)["seed"] - number
    return None


def check_finished(job: Job, arguments: argparse.Namespace) -> None:
    """Raise `ValueError` unless the file of a job was made with the job's settings."""
    found = read_settings(job.path)
    names = {"num_inference_steps": "steps", "guidance_scale": "omega", "audio_length_in_s": "duration"}
    wanted = {"prompt": job.prompt, "seed": job.seed, "model": arguments.model or "embedded", "dtype": arguments.dtype}
    wanted |= {names.get(name, name): value for name, value in job.options.items()}
    wanted |= {"lora": arguments.lora or None}
    wanted |= {} if arguments.match else {"loudness": job.loudness}
    for name, value in wanted.items():
        has = found.get(name)
        # A duration is rounded to samples.
        if has != value and not (name == "duration" and abs(has - value) < 1e-3):
            raise ValueError(
                f"--resume: {job.path} was made with {name} = {has!r}, not {value!r}; choose another name, or pass "
                "--force without --resume to replace it."
            )
