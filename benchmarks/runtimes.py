"""A model in ONNX against the same model in PyTorch: speed, cold start, and how near the sounds are.

python benchmarks/runtimes.py sounds-onnx --threads 1

The two take turns, so that a busy machine slows them alike; all times are ratios of medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from common import print_command, print_table
from diffusers_soundctm import OnnxSoundCTMPipeline, SoundCTMPipeline
from diffusers_soundctm.control import drift
from diffusers_soundctm.onnx import NoiseGenerator

PROMPTS = ("rain on a tin roof", "a dog barks", "a church bell rings", "a car engine", "a piano", "birds sing")


def ratio(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> float:
    """Median time of `ours` ÷ that of `theirs`; the first call of each is left out."""
    times: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for function, found in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            function()
            if repeat:
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def command(*options: str) -> Callable[[], float]:
    """A function that runs `soundctm generate` and returns the seconds of the processor."""

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, "-m", "diffusers_soundctm", "generate", PROMPTS[0], "--seed", "0", *options]
            process = subprocess.Popen([*words, "-o", str(Path(folder) / "sound.wav")], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(words)} failed")
            return usage.ru_utime + usage.ru_stime

    return run


def compare(pipe: OnnxSoundCTMPipeline, in_pytorch: SoundCTMPipeline) -> tuple[float, float]:
    """Largest difference of a sample, and largest drift (1 − correlation of log-mels), over the prompts."""
    errors, drifts = [], []
    for seed, prompt in enumerate(PROMPTS):
        expected = in_pytorch(prompt, generator=torch.Generator().manual_seed(seed)).audios
        found = pipe(prompt, generator=NoiseGenerator(seed)).audios
        errors.append(np.abs(found - expected).max())
        drifts.append(drift(torch.from_numpy(expected), torch.from_numpy(found), pipe.sampling_rate).item())
    return max(errors), max(drifts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="model that soundctm export wrote")
    parser.add_argument("--model", help="the same model for PyTorch (default: the embedded one)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cold", type=int, default=3, help="repeats of a cold start")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    model = arguments.model
    in_pytorch = SoundCTMPipeline.from_pretrained(model) if model else SoundCTMPipeline.from_embedded()
    in_pytorch.set_progress_bar_config(disable=True)
    pipe = OnnxSoundCTMPipeline(arguments.folder, arguments.threads)
    error, drifted = compare(pipe, in_pytorch)
    warm = {
        steps: ratio(
            lambda steps=steps: pipe(PROMPTS[0], num_inference_steps=steps),
            lambda steps=steps: in_pytorch(PROMPTS[0], num_inference_steps=steps),
            arguments.repeats,
        )
        for steps in (1, 4)
    }
    commands = (
        command("--runtime", "onnx", "--model", arguments.folder),
        command(*(["--model", model] if model else [])),
    )
    cold = [[run() for run in commands] for _ in range(arguments.cold)]
    seconds, seconds_pytorch = (statistics.median(times) for times in zip(*cold, strict=True))
    print_command()
    print_table(
        ["ONNX ÷ PyTorch", "value"],
        [
            *((f"{steps} steps, warm, {arguments.threads} threads", f"{value:.2f}") for steps, value in warm.items()),
            ("command to file, processor time", f"{seconds / seconds_pytorch:.2f}"),
            ("largest difference of a sample", f"{error:.1e}"),
            ("largest drift", f"{drifted:.1e}"),
        ],
    )


if __name__ == "__main__":
    main()
