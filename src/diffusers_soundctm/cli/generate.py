"""`soundctm generate`: write sounds for prompts."""

import argparse
import secrets
import time
from pathlib import Path

from .arguments import add_device, add_dtype, add_model, add_output, check_loudness, output_paths
from .rendering import load_pipeline, render, step_progress, write_sound

EXAMPLE = 'example: soundctm generate "rain on a tin roof" -o rain.wav --steps 4 --seed 0'


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("generate", help="write sounds for prompts", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("prompt", nargs="?", help="description of the sound")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="text file with one prompt per line")
    add_output(parser, Path("sound.wav"), "default: %(default)s; several files are numbered")
    parser.add_argument("--steps", type=int, help="network steps; more steps refine the same sound (default: 1)")
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


def run(arguments: argparse.Namespace) -> None:
    """Write one sound after the other.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    prompts = read_prompts(arguments.prompt, arguments.prompts)
    if arguments.num < 1:
        raise ValueError(f"--num is {arguments.num}; choose at least 1.")
    check_loudness(arguments.loudness)
    paths = output_paths(arguments.output, len(prompts) * arguments.num, arguments.force)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}; choose a number from 0 to 2^63 - 1.")

    pipe = load_pipeline(arguments.model, arguments.dtype, arguments.device)

    from tqdm import tqdm

    options = {
        "num_inference_steps": arguments.steps,
        "nu": arguments.nu,
        "guidance_scale": arguments.omega,
        "gamma": arguments.gamma,
        "negative_prompt": arguments.negative_prompt,
        "audio_length_in_s": arguments.duration,
    }
    options = {name: value for name, value in options.items() if value is not None}
    prompts = [prompt for prompt in prompts for _ in range(arguments.num)]
    with step_progress(len(paths) * options.get("num_inference_steps", 1)) as progress:
        for i, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
            start = time.perf_counter()
            waveform, settings = render(pipe, prompt, seed + i, options, progress)
            seconds = time.perf_counter() - start
            settings |= {"model": arguments.model or "embedded", "dtype": arguments.dtype}
            write_sound(path, waveform, pipe.sampling_rate, settings, arguments.loudness)
            duration = settings["duration"]
            speed = f" ({duration / seconds:.1f} times real time)" if seconds > 0 else ""
            level = f", turned down by {settings['turned_down_db']} dB" if "turned_down_db" in settings else ""
            tqdm.write(f"{path}: {duration:.2f} s of sound in {seconds:.2f} s{speed}, seed {seed + i}{level}")


def read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """Return `prompt`, or the lines of `file` that are not empty.

    Raises:
        ValueError: both or neither are given, or the file holds no prompts or is not UTF-8.
    """
    if (prompt is None) == (file is None):
        raise ValueError(f"Pass either a prompt or --prompts FILE; {EXAMPLE}")
    if file is None:
        return [prompt]
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file} is not a UTF-8 text file; save it as UTF-8.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"--prompts {file} has no prompts; write one prompt per line.")
    return prompts
