"""The training loop that all scripts share. A script adds a `Recipe`: its networks, its step, and what it saves."""

import argparse
import contextlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import get_scheduler
from tqdm import tqdm

from ..files import remove_unfinished, write_json
from .checkpoints import resume, save_checkpoint, save_model, set_learning_rate
from .config import cache_dir
from .counters import RunningLosses, SkippedSteps
from .ema import ema_update, warmed_up_decay
from .identity import run_identity
from .optimizers import scaler_state, step_if_finite
from .output_folder import check_output_dir, locked
from .signals import StopSignal

STOPPED = "Stopped by a signal after {0} steps. checkpoint-{0} resumes from here."


class Recipe:
    """What one training script adds to `train`: data and networks, one step, and what it saves.

    Attributes:
        args: Arguments of the script.
        accelerator: The processes of the run.
        output_dir: Folder of the run.
        model: The network to call in `train_step`; `setup` sets it.
        network: The network whose weights are averaged, usually `model` without wrappers; `setup` sets it.
        average: The EMA of `network`, which is the resulting model; `setup` sets it.
        optimizer: The optimizer of the loop; `setup` sets it.
        lr_scheduler: Its learning rate schedule; `setup` sets it.
        folder: Name of the model's folder in `output_dir`.
        loss_weight: Weight of one step in the mean losses that are reported.
    """

    folder: str
    loss_weight = 0.02
    model: torch.nn.Module
    network: torch.nn.Module
    average: torch.nn.Module
    optimizer: torch.optim.Optimizer
    lr_scheduler: torch.optim.lr_scheduler.LambdaLR

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator):
        self.args = args
        self.accelerator = accelerator
        self.output_dir = Path(args.output_dir)

    def setup(self) -> None:
        """Load data and networks, and check that the arguments fit them."""
        raise NotImplementedError

    def train_step(self, step: int) -> dict[str, float]:
        """Draw the batch of a step, and run forward and backward.

        All draws depend on the seed and `step` alone, so that a resumed run repeats them.

        Args:
            step: Number of the step, from 0.

        Returns:
            Name to loss. A loss that is not finite counts the step as skipped.
        """
        raise NotImplementedError

    def identity(self) -> dict[str, object]:
        """Fingerprints of the data and of frozen networks, see `identity.run_identity`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Name to module or optimizer: what a checkpoint holds apart from schedule and counters."""
        return {self.folder: self.network, "ema": self.average, "optimizer": self.optimizer}

    def ema_decay(self, step: int) -> float:
        """Decay of the EMA at a step."""
        return warmed_up_decay(self.args.ema_decay, step)

    def progress(self) -> dict[str, str]:
        """What the progress bar shows beside the losses."""
        return {}

    def started(self) -> None:
        """Called once before the first step, after a checkpoint is loaded, on every process."""

    def after_step(self, done: int) -> None:
        """Called after each step, on every process, with the number of finished steps."""

    def save(self) -> None:
        """Save the model, with every checkpoint and at the end, on every process."""
        if self.accelerator.is_main_process:
            save_model(self.average, self.output_dir / self.folder)

    def finish(self) -> dict[str, Any]:
        """Save and measure what is due at the end, on the main process; returns more entries of training.json."""
        return {}

    def publish(self, record: dict[str, Any]) -> None:
        """Called on the main process after a complete run, with the content of training.json."""

    def make_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        """The learning rate schedule that the arguments name."""
        return get_scheduler(
            self.args.lr_scheduler,
            optimizer,
            num_warmup_steps=self.args.lr_warmup_steps,
            num_training_steps=self.args.max_train_steps,
        )


def train(recipe: Recipe) -> None:
    """Train a recipe to `args.max_train_steps`, or until a signal stops it.

    A resumed run computes the same weights as one that was never stopped. The output folder is locked, signals end the
    run with a checkpoint, steps without a finite gradient are skipped, and non-finite weights are never saved.

    Raises:
        ValueError: The arguments do not fit the output folder, the data or the networks.
        FloatingPointError: Training diverged.
        OSError: A checkpoint could not be written.
    """
    args, accelerator = recipe.args, recipe.accelerator
    check_output_dir(args.output_dir, args.resume_from_checkpoint)
    set_seed(args.seed)
    main_process = accelerator.is_main_process
    lock = locked(args.output_dir) if main_process else contextlib.nullcontext()
    with StopSignal() as stop:
        with lock:
            if main_process:
                remove_unfinished(recipe.output_dir)
                remove_unfinished(cache_dir(args))
            recipe.setup()
            run = _Run(recipe)
            stop.start()
            complete = run.to_the_end(stop)
            if complete:
                run.finish()
        accelerator.end_training()
        if complete and main_process:
            recipe.publish(run.record)


def accumulate(
    accelerator: Accelerator, model: torch.nn.Module, parts: Iterable[Any], count: int, losses_of: Callable
) -> dict[str, float]:
    """Run forward and backward for each part of a batch, and exchange gradients between processes once, at the last.

    Args:
        accelerator: The processes of the run.
        model: The network whose gradients are accumulated.
        parts: Micro-batches.
        count: Number of micro-batches.
        losses_of: Micro-batch → (total loss, name to loss), scalar tensors.

    Returns:
        Name to the mean loss over the micro-batches.
    """
    means: dict[str, float] = {}
    for number, part in enumerate(parts, 1):
        with contextlib.nullcontext() if number == count else accelerator.no_sync(model):
            with accelerator.autocast():
                total, losses = losses_of(part)
            accelerator.backward(total / count)
        for name, value in losses.items():
            means[name] = means.get(name, 0.0) + value.item() / count
    return means


def check_finite(accelerator: Accelerator, modules: Iterable[torch.nn.Module]) -> None:
    """Check that all weights are finite, on all processes together.

    Raises:
        FloatingPointError: They are not.
    """
    local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor
             for module in modules for tensor in module.state_dict().values()]  # fmt: skip
    broken = sum((~tensor.isfinite()).any().float() for tensor in local if tensor.is_floating_point())
    if accelerator.reduce(torch.as_tensor(broken, device=accelerator.device), "sum").item():
        raise FloatingPointError(
            "The weights are no longer finite, so nothing more was saved. Resume from the last checkpoint with a "
            "smaller --learning_rate."
        )


class _Run:
    """The state of one call of `train`."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.args, self.accelerator = recipe, recipe.args, recipe.accelerator
        self.skips, self.losses = SkippedSteps(self.args.max_skipped_steps), RunningLosses()
        self.state = {**recipe.state(), "lr": recipe.lr_scheduler, "skips": self.skips, "losses": self.losses,
                      **scaler_state(self.accelerator)}  # fmt: skip
        self.identity = run_identity(self.args, **recipe.identity())
        self.first = resume(self.args.resume_from_checkpoint, recipe.output_dir, self.state, self.identity)
        set_learning_rate(recipe.lr_scheduler, self.args.learning_rate)
        self.parameters = [p for group in recipe.optimizer.param_groups for p in group["params"]]
        self.started = time.time()
        self.record: dict[str, Any] = {}
        if self.accelerator.is_main_process:
            write_json(recipe.output_dir / "settings.json", settings_of(self.args))
        recipe.started()

    def to_the_end(self, stop: StopSignal) -> bool:
        """Take all steps. Returns whether they were taken, so False if a signal stopped the run."""
        steps = range(self.first, self.args.max_train_steps)
        with tqdm(steps, initial=self.first, total=self.args.max_train_steps, unit="step", mininterval=1,
                  disable=not self.accelerator.is_main_process) as progress:  # fmt: skip
            for step in progress:
                told = self.step(step, stop)
                done = step + 1
                shown = {name: f"{value:.4f}" for name, value in self.losses.items()} | self.recipe.progress()
                progress.set_postfix(shown, skipped=self.skips.total, refresh=False)
                stopped = told and done < self.args.max_train_steps
                if stopped or done % self.args.checkpointing_steps == 0:
                    self.checkpoint(done)
                self.recipe.after_step(done)
                if stopped:
                    self.accelerator.print(STOPPED.format(done))
                    return False
        return True

    def step(self, step: int, stop: StopSignal) -> bool:
        """Take one step. Returns whether any process was told to stop."""
        recipe = self.recipe
        losses = recipe.train_step(step)
        # One exchange per step: the losses of the whole batch, and whether any process was told to stop.
        shared = torch.tensor([*losses.values(), float(stop.requested)], device=self.accelerator.device)
        *means, told = self.accelerator.reduce(shared, "mean").tolist()
        losses = dict(zip(losses, means, strict=True))
        finite = step_if_finite(self.accelerator, recipe.optimizer, self.parameters, self.args.max_grad_norm)
        if finite:
            ema_update(recipe.average, recipe.network, recipe.ema_decay(step))
        recipe.model.zero_grad(set_to_none=True)
        recipe.lr_scheduler.step()
        usable = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        self.skips.record(not finite or len(usable) < len(losses))
        if finite:
            self.losses.record(usable, recipe.loss_weight)
        rate = recipe.lr_scheduler.get_last_lr()[0]
        self.accelerator.log({**losses, "lr": rate, "skipped": self.skips.total}, step=step + 1)
        return told > 0

    def checkpoint(self, done: int) -> None:
        """Save the checkpoint of `done` steps, then the model."""
        self.check_finite()
        save_checkpoint(self.recipe.output_dir, done, self.state, self.args.checkpoints_total_limit, self.identity,
                        self.accelerator.is_main_process)  # fmt: skip
        self.recipe.save()

    def finish(self) -> None:
        """Save the model and training.json."""
        seconds = round(time.time() - self.started)
        self.check_finite()
        self.recipe.save()
        if self.accelerator.is_main_process:
            more = self.recipe.finish()
            self.record = {"arguments": settings_of(self.args), "steps": self.args.max_train_steps,
                           "skipped_steps": self.skips.total, "losses": dict(self.losses),
                           "processes": self.accelerator.num_processes,
                           "seconds": seconds, **more}  # fmt: skip
            write_json(self.recipe.output_dir / "training.json", self.record)

    def check_finite(self) -> None:
        """Check the weights before they are saved, see `check_finite`."""
        check_finite(self.accelerator, [self.recipe.network, self.recipe.average])


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments without secrets."""
    return {name: value for name, value in vars(args).items() if name != "hub_token"}
