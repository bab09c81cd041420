"""Runs of the training scripts on tiny inputs, in this process or in a subprocess."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

SCRIPTS = Path(__file__).parents[1] / "training"
SOURCES = SCRIPTS.parent / "src"
TINY = {
    "max_train_steps": 2,
    "train_batch_size": 2,
    "num_scales": 3,
    "trajectory_reuse": 2,
    "checkpointing_steps": 100,
    "mixed_precision": "no",
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
}


def arguments(**given) -> list[str]:
    argv = []
    for name, value in {**TINY, **given}.items():
        if value is True:
            argv.append(f"--{name}")
        elif isinstance(value, (list, tuple)):
            argv += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            argv.append(f"--{name}={value}")
    return argv


def load(script: str):
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # accelerate keeps the first run's precision for the whole process.
    AcceleratorState._reset_state(reset_partial_state=True)
    return module


def distil(output_dir, **given) -> Path:
    load("train_ctm").main(arguments(output_dir=output_dir, **given))
    return Path(output_dir)


def start(output_dir, prologue: str = "", **given) -> subprocess.Popen:
    """Start train_ctm.py in a subprocess, after the code `prologue`."""
    code = (
        f"import runpy, sys\n{prologue}\nsys.argv = ['train_ctm.py', *sys.argv[1:]]\n"
        f"runpy.run_path({str(SCRIPTS / 'train_ctm.py')!r}, run_name='__main__')"
    )
    # Sums depend in their last bit on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(SOURCES)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments(output_dir=output_dir, **given)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def signalled(step_generator: Callable, step: int) -> Callable:
    """A `sampling.step_generator` that sends SIGTERM at the beginning of `step`, counted from 0."""

    def generator(seed, number, *given, **more):
        if number == step:
            signal.raise_signal(signal.SIGTERM)
        return step_generator(seed, number, *given, **more)

    return generator
