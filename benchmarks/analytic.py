"""Distillation on toys with a known answer: does every additional step bring a student closer to its teacher?

python benchmarks/analytic.py --recipe default stage5
python benchmarks/analytic.py --recipe default default:lr_scheduler=constant --updates 4800 --seeds 0 1
python benchmarks/analytic.py --toy gaussian --recipe default default:denoising_target=data

A toy has classes in place of prompts, points in 16 dimensions in place of latents, and a teacher that is exact (see
toys.py). The student is a small MLP. Everything between them is the library's own: solver, trajectories, objective,
EMA, scheduler. `NAME:option=value,option=value` changes options of a recipe; the options are the fields of `Recipe`.
A run of 1600 updates takes about half a minute on one core.
"""

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from torch import nn
from tqdm import tqdm

from common import print_command, print_table
from diffusers_soundctm import CTMScheduler
from diffusers_soundctm.distillation.denoisers import Denoiser
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.noise_levels import lognormal_sigmas
from diffusers_soundctm.distillation.objective import CTMObjective
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample
from diffusers_soundctm.training.config import load_preset
from diffusers_soundctm.training.ema import ema_copy, ema_update
from diffusers_soundctm.training.optimizers import make_optimizer
from toys import CLASSES, DIMENSIONS, MEAN_GUIDANCE_SCALE, TOYS, Student, Toy, ToyData

STEPS = (1, 2, 4, 8, 16, 39)
SIGMAS = (80.0, 20.0, 5.0, 1.0)
GUIDANCE_SCALES = (2.0, 5.0)


@dataclass(frozen=True)
class Recipe:
    """The options of a run, named after train_ctm.py's arguments.

    Defaults are train_ctm.py's, apart from those of the toy's own size (`num_scales`, `train_batch_size`,
    `learning_rate`, `ema_decay`) and those of its data:

    Attributes:
        clips: whether trajectories start at clean points plus noise; otherwise at noise alone.
        captions_per_class: how many captions every class has in all; 0 words a new one every time.
        width: of the student's hidden layers.
    """

    clips: bool = False
    captions_per_class: int = 0
    caption_dropout: float = 0.1
    num_scales: int = 18
    trajectory_reuse: int = 4
    step_count_power: float = 1.0
    target_sigma_min_rate: float = 0.0
    solve_to_target: bool = True
    sampler_rate: float = 0.25
    feature_distance: str = "output"
    denoising_target: str = "teacher"
    denoising_levels: str = "mixed"
    denoising_weight: float = 1.0
    adaptive_weight: bool = False
    train_batch_size: int = 16
    optimizer: str = "radam"
    learning_rate: float = 2e-3
    lr_scheduler: str = "cosine"
    lr_warmup_steps: int = 0
    ema_decay: float = 0.99
    width: int = 128


SIZES = ("num_scales", "train_batch_size", "learning_rate", "ema_decay")
PAPER = {name: value for name, value in load_preset("soundctm-16khz").items() if name in Recipe.__annotations__}
RECIPES = {
    "default": Recipe(),
    # The paper's, on clips.
    "paper": Recipe(clips=True, captions_per_class=4, **{k: v for k, v in PAPER.items() if k not in SIZES}),
    # The fifth of the stages that the first embedded model was distilled in.
    "stage5": Recipe(
        clips=True,
        captions_per_class=4,
        trajectory_reuse=16,
        step_count_power=0.5,
        target_sigma_min_rate=0.3,
        sampler_rate=0.0,
        feature_distance="pseudo_huber",
        denoising_levels="uniform",
        denoising_weight=0.5,
        adaptive_weight=True,
        lr_scheduler="constant",
    ),
}


def parse_recipe(text: str) -> Recipe:
    """The recipe that `NAME` or `NAME:option=value,option=value` names.

    Raises:
        ValueError: no such recipe or option, or a value that the option does not take.
    """
    name, _, changes = text.partition(":")
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    kinds = {item.name: item.type for item in fields(Recipe)}
    values = {}
    for change in filter(None, changes.split(",")):
        option, _, value = change.partition("=")
        if option not in kinds:
            raise ValueError(f"There is no option {option!r}; choose one of {', '.join(kinds)}.")
        if kinds[option] is bool and value not in ("True", "False"):
            raise ValueError(f"Option {option!r} is {value!r}; choose True or False.")
        values[option] = value == "True" if kinds[option] is bool else kinds[option](value)
    return replace(RECIPES[name], **values)


def initial_student(toy: Toy, width: int, updates: int = 6000, batch_size: int = 256) -> Student:
    """A student trained as a denoiser of its class, which is what a student initialized from its teacher is."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    student, preconditioning = Student(width), toy.teacher.preconditioning
    optimizer = torch.optim.Adam(student.parameters(), 2e-3)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=updates)
    for _ in range(updates):
        classes = torch.randint(1, CLASSES + 1, (batch_size,), generator=generator)
        sigma = lognormal_sigmas(batch_size, generator, p_mean=0.0, p_std=2.0).clamp(0.002, 80.0)
        clean = toy.latents(classes, generator)
        noisy = clean + per_sample(sigma, clean) * torch.randn(clean.shape, generator=generator)
        kept = torch.rand(batch_size, 1, generator=generator) >= 0.1
        inputs = (*preconditioning.network_input(noisy, sigma), toy.captions(classes, generator) * kept)
        loss = (student(*inputs).sample - toy.teacher(*inputs).sample).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


def train(toy: Toy, recipe: Recipe, student: Student, updates: int, seed: int) -> Student:
    """Distill the toy's teacher into a copy of `student`, as train_ctm.py does; returns the EMA."""
    student = ema_copy(student).train().requires_grad_(True)
    average, preconditioning = ema_copy(student), toy.teacher.preconditioning
    stream = TripleStream(
        ToyData(toy, recipe.captions_per_class, recipe.clips),
        toy.teacher,
        preconditioning,
        Grid(
            karras_sigmas(recipe.num_scales - 1),
            recipe.trajectory_reuse,
            recipe.target_sigma_min_rate,
            recipe.step_count_power,
            recipe.solve_to_target,
            recipe.sampler_rate,
        ),
        batch_size=recipe.train_batch_size,
        rows=slice(None),
        seed=seed,
        guidance_scale_range=GUIDANCE_SCALES,
        caption_dropout=recipe.caption_dropout,
        denoising=recipe.denoising_weight > 0,
        denoising_target=recipe.denoising_target,
        denoising_levels=recipe.denoising_levels,
    )
    in_feature_space = recipe.feature_distance in ("full", "half")
    objective = CTMObjective(
        Denoiser(student, preconditioning),
        Denoiser(average, preconditioning),
        FeatureSpace(toy.teacher, preconditioning, recipe.feature_distance) if in_feature_space else None,
        student.last,
        distance=recipe.feature_distance,
        denoising_weight=recipe.denoising_weight,
        adaptive=recipe.adaptive_weight,
    )
    optimizer = make_optimizer(student.parameters(), recipe.optimizer, recipe.learning_rate)
    schedule = get_scheduler(
        recipe.lr_scheduler, optimizer, num_warmup_steps=recipe.lr_warmup_steps, num_training_steps=updates
    )
    for step in range(updates):
        objective(*stream.at(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema_update(average, student, recipe.ema_decay)
    return average


@dataclass
class Evaluation:
    """Unseen captions and noises, with the teacher's own solutions.

    Attributes:
        ends: where the teacher arrives, (B, D).
        points: its trajectory at `SIGMAS` for the guidance scale `MEAN_GUIDANCE_SCALE`.
    """

    toy: Toy
    batch_size: int = 512
    rk4_steps: int = 600
    caption: torch.Tensor = field(init=False)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(2)
        classes = torch.arange(self.batch_size) % CLASSES + 1
        self.caption = self.toy.captions(classes, generator)
        self.noise = torch.randn(self.batch_size, DIMENSIONS, generator=generator)
        lowest, highest = GUIDANCE_SCALES
        self.guidance_scale = lowest + (highest - lowest) * torch.rand(self.batch_size, generator=generator)
        self.scheduler = CTMScheduler()
        levels = karras_sigmas(self.rk4_steps)
        # Both guidance scales in one run of the solver; a quarter of the captions is enough for the second.
        self.some = self.caption[: self.batch_size // 4]
        asked = torch.full((len(self.some),), MEAN_GUIDANCE_SCALE)
        trajectory = self.toy.solution(
            levels[0] * torch.cat([self.noise, self.noise[: len(self.some)]]),
            torch.cat([self.caption, self.some]),
            torch.cat([self.guidance_scale, asked]),
            levels,
        )
        self.ends = trajectory[-1][: self.batch_size].float()
        nearest = [(levels.log() - math.log(sigma)).abs().argmin().item() for sigma in SIGMAS]
        self.points = [(levels[i], trajectory[i][self.batch_size :].float()) for i in nearest]

    @torch.no_grad()
    def errors(self, student: nn.Module) -> list[float]:
        """RMS distance to the teacher's solution ÷ its standard deviation, for every number of `STEPS`."""
        return [self._error(student, steps) for steps in STEPS]

    def _error(self, student: nn.Module, steps: int) -> float:
        self.scheduler.set_timesteps(steps)
        sample = self.scheduler.init_noise_sigma * self.noise
        for timestep, target in zip(self.scheduler.timesteps, self.scheduler.target_sigmas, strict=True):
            scaled = self.scheduler.scale_model_input(sample, timestep)
            condition = torch.stack([target.expand(self.batch_size), self.guidance_scale], dim=1)
            output = student(scaled, timestep.expand(self.batch_size), self.caption, condition).sample
            sample = self.scheduler.step(output, timestep, sample).prev_sample
        return ((sample - self.ends).square().mean().sqrt() / self.ends.std()).item()

    @torch.no_grad()
    def estimates(self, student: nn.Module) -> tuple[list[float], list[float]]:
        """(effective ω, relative error of g) of g(t, t) at `SIGMAS`, where the guidance scale is `MEAN_GUIDANCE_SCALE`.

        The effective ω is the projection of g − D_∅ on D_c − D_∅.
        """
        effective, errors = [], []
        preconditioning = self.toy.teacher.preconditioning
        teacher = Denoiser(self.toy.teacher, preconditioning)
        for sigma, point in self.points:
            sigma = sigma.expand(len(point))
            empty = teacher(point, sigma, caption=torch.zeros_like(self.some))
            direction = teacher(point, sigma, caption=self.some) - empty
            condition = torch.stack([sigma, torch.full_like(sigma, MEAN_GUIDANCE_SCALE)], dim=1)
            estimate = Denoiser(student, preconditioning)(point, sigma, caption=self.some, timestep_cond=condition)
            effective.append((((estimate - empty) * direction).sum() / direction.square().sum()).item())
            guided = empty + MEAN_GUIDANCE_SCALE * direction
            errors.append(((estimate - guided).square().mean().sqrt() / guided.square().mean().sqrt()).item())
        return effective, errors


@dataclass
class Measured:
    """What is measured of one student: numbers by `STEPS`, and twice by `SIGMAS`."""

    errors: list[float]
    effective: list[float]
    estimate_errors: list[float]

    @classmethod
    def of(cls, student: nn.Module, evaluation: Evaluation) -> "Measured":
        return cls(evaluation.errors(student), *evaluation.estimates(student))

    @classmethod
    def mean(cls, several: Sequence["Measured"]) -> "Measured":
        return cls(*(np.mean([getattr(one, item.name) for one in several], axis=0).tolist() for item in fields(cls)))

    def cells(self) -> tuple[str, str, str]:
        """As cells of a table."""
        return tuple(
            " / ".join(f"{number:{form}}" for number in numbers)
            for numbers, form in ((self.errors, ".3f"), (self.effective, ".2f"), (self.estimate_errors, ".2f"))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", required=True, help=f"{', '.join(RECIPES)}, with options as above")
    parser.add_argument("--toy", choices=TOYS, default="mixture")
    parser.add_argument("--updates", type=int, default=1600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    try:
        recipes = {text: parse_recipe(text) for text in args.recipe}
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    toy = getattr(Toy, args.toy)()
    evaluation = Evaluation(toy)
    initial_students = functools.cache(functools.partial(initial_student, toy))
    rows = []
    progress = tqdm(total=len(recipes) * len(args.seeds), unit="run")
    for text, recipe in recipes.items():
        several = []
        for seed in args.seeds:
            student = train(toy, recipe, initial_students(recipe.width), args.updates, seed)
            several.append(Measured.of(student, evaluation))
            rows.append((text, str(seed), *several[-1].cells()))
            progress.write(" | ".join(rows[-1]), file=sys.stderr)
            progress.update()
        rows.append((text, "mean", *Measured.mean(several).cells()))
    progress.close()
    print_command()
    print_table(
        (
            "recipe",
            "seed",
            f"error ÷ std at {' / '.join(map(str, STEPS))} steps",
            f"effective ω at σ = {' / '.join(f'{sigma:g}' for sigma in SIGMAS)}",
            "error of g there",
        ),
        rows,
    )


if __name__ == "__main__":
    main()
