"""Distillation on toys with a known answer: does every additional step bring a student closer to its teacher?

python benchmarks/analytic.py --recipe stage5 captions_only
python benchmarks/analytic.py --recipe captions_only captions_only:lr_scheduler=constant --updates 4800 --seeds 0 1
python benchmarks/analytic.py --toy gaussian --recipe paper captions_only

A toy has classes in place of prompts, points in 16 dimensions in place of latents, and a teacher that is exact. The
student is a small MLP. Everything between them is the library's own: solver, trajectories, objective, EMA, scheduler.
`NAME:option=value,option=value` changes options of a recipe; the options are the fields of `Recipe`.
One run of 1600 updates takes about half a minute on one core.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from torch import nn
from tqdm import tqdm

from common import print_command, print_table
from diffusers_soundctm import CTMScheduler
from diffusers_soundctm.data.sampling import clip_indices
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning, TeacherDenoiser
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.noise_levels import lognormal_sigmas
from diffusers_soundctm.distillation.objective import CTMObjective
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample
from diffusers_soundctm.training.ema import ema_copy, ema_update
from diffusers_soundctm.training.optimizers import make_optimizer

TOYS = ("mixture", "gaussian")
STEPS = (1, 2, 4, 8, 16, 39)
SIGMAS = (80.0, 20.0, 5.0, 1.0)
GUIDANCE_SCALES = (2.0, 5.0)
ASKED = 3.5  # the guidance scale that is compared with the effective one
DIMENSIONS, CLASSES, COMPONENT_STD = 16, 32, 0.19
CAPTION_DIMENSIONS, CAPTION_NOISE = 32, 0.5


# ---------------------------------------------------------------------------------------------------------------------
# The toy


class AnalyticTeacher(nn.Module):
    """The exact denoiser of mixtures of Gaussians, with the interface of an EDM network.

    Every class is a mixture of some of M components of standard deviation `std`. A caption is a vector, read as the
    class with the nearest embedding; embedding 0, zeros, is the empty prompt.

    Args:
        means: (M, D).
        members: which components each class has, bool (C + 1, M); row 0 is the empty prompt's.
        embeddings: (C + 1, E), captions of the classes.
    """

    def __init__(self, means: torch.Tensor, members: torch.Tensor, embeddings: torch.Tensor, std: float):
        super().__init__()
        self.means = nn.Parameter(means, requires_grad=False)
        self.register_buffer("members", members)
        self.register_buffer("embeddings", embeddings)
        self.std, self.preconditioning = std, Preconditioning()
        # Blocks for `TeacherFeatures`: random projections of the input, the estimate and the output.
        generator = torch.Generator().manual_seed(0)
        projections = torch.randn(3, 64, DIMENSIONS, generator=generator) / math.sqrt(DIMENSIONS)
        input_block, self.mid_block, output_block = (_projection(weight) for weight in projections)
        self.down_blocks, self.up_blocks = nn.ModuleList([input_block]), nn.ModuleList([output_block])

    def denoised(self, sample: torch.Tensor, sigma: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        """D(z; σ, c): the posterior mean of z_0."""
        members = self.members[torch.cdist(caption, self.embeddings).argmin(1)]
        variance = self.std**2 + sigma[:, None] ** 2
        logits = (sample @ self.means.T - self.means.square().sum(1) / 2) / variance  # ‖z‖² is common to all
        mean = logits.masked_fill(~members, -math.inf).softmax(1) @ self.means
        return mean + self.std**2 / variance * (sample - mean)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, caption: torch.Tensor) -> SimpleNamespace:
        """F for c_in·z and ln(σ)/4."""
        sigma = (4 * timestep).exp().to(sample.dtype).expand(len(sample))
        data_variance = self.preconditioning.sigma_data**2
        scale = (sigma**2 + data_variance).sqrt()[:, None]  # 1/c_in
        estimate = self.denoised(scale * sample, sigma, caption)
        output = (estimate - data_variance / scale * sample) * scale / (sigma[:, None] * data_variance**0.5)
        if self.down_blocks[0]._forward_hooks:  # somebody collects features
            self.down_blocks[0](sample), self.mid_block(estimate), self.up_blocks[0](output)
        return SimpleNamespace(sample=output)


def _projection(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    return layer


class Student(nn.Module):
    """MLP of 3 × `width` on [c_in·z, caption, features of ln(t)/4], plus a linear branch for ω and features of ln(s)/4.

    The features are Fourier's. The branch starts at zero.
    """

    FREQUENCIES = 4

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(DIMENSIONS + CAPTION_DIMENSIONS + 2 * self.FREQUENCIES, width)
        self.branch = nn.Linear(2 * self.FREQUENCIES + 1, width, bias=False)
        nn.init.zeros_(self.branch.weight)
        self.middle = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.last = nn.Linear(width, DIMENSIONS)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        caption: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
    ) -> SimpleNamespace:
        hidden = self.first(torch.cat([sample, caption, self._fourier(timestep)], dim=1))
        if timestep_cond is not None:
            target_sigma, guidance_scale = timestep_cond.unbind(1)
            landing = self._fourier(target_sigma.log() / 4)
            hidden = hidden + self.branch(torch.cat([landing, guidance_scale[:, None] - ASKED], dim=1))
        hidden = nn.functional.silu(hidden)
        for layer in self.middle:
            hidden = nn.functional.silu(layer(hidden))
        return SimpleNamespace(sample=self.last(hidden))

    def _fourier(self, timestep: torch.Tensor) -> torch.Tensor:
        angles = timestep[:, None] * 2.0 ** torch.arange(self.FREQUENCIES)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


@dataclass
class Toy:
    """A teacher, and the classes its captions name.

    Attributes:
        name: "mixture", where trajectories are solved numerically, or "gaussian", where they have a closed form.
    """

    name: str
    teacher: AnalyticTeacher

    @classmethod
    def mixture(cls, seed: int = 0) -> "Toy":
        """Every class is a mixture of two Gaussians, the empty prompt the mixture of all of them."""
        generator = torch.Generator().manual_seed(seed)
        centers, *offsets = torch.randn(3, CLASSES, DIMENSIONS, generator=generator)
        embeddings = torch.randn(CLASSES, CAPTION_DIMENSIONS, generator=generator)
        means = torch.stack([0.35 * centers + 0.3 * offset for offset in offsets], dim=1).flatten(0, 1)
        members = torch.eye(CLASSES).repeat_interleave(2, dim=1).bool()
        return cls("mixture", cls._teacher(means, torch.cat([torch.ones_like(members[:1]), members]), embeddings))

    @classmethod
    def gaussian(cls, seed: int = 0) -> "Toy":
        """Every class is one Gaussian, and so is the empty prompt, around 0."""
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(CLASSES, DIMENSIONS, generator=generator)
        embeddings = torch.randn(CLASSES, CAPTION_DIMENSIONS, generator=generator)
        means = torch.cat([torch.zeros(1, DIMENSIONS), 0.46 * centers])
        return cls("gaussian", cls._teacher(means, torch.eye(CLASSES + 1).bool(), embeddings))

    @staticmethod
    def _teacher(means: torch.Tensor, members: torch.Tensor, embeddings: torch.Tensor) -> AnalyticTeacher:
        embeddings = torch.cat([torch.zeros(1, CAPTION_DIMENSIONS), embeddings])
        return AnalyticTeacher(means, members, embeddings, COMPONENT_STD).eval()

    def captions(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A new caption for every class 1..C, (B, D)."""
        noise = torch.randn(len(classes), CAPTION_DIMENSIONS, generator=generator)
        return self.teacher.embeddings[classes] + CAPTION_NOISE * noise

    def latents(self, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A clean point of every class, (B, D)."""
        components = self.teacher.members[classes].float().multinomial(1, generator=generator)[:, 0]
        noise = torch.randn(len(classes), DIMENSIONS, generator=generator)
        return self.teacher.means[components] + self.teacher.std * noise

    def solution(
        self, start: torch.Tensor, caption: torch.Tensor, guidance_scale: torch.Tensor, sigmas: torch.Tensor
    ) -> list[torch.Tensor]:
        """The guided teacher's trajectory from `start` at `sigmas` (decreasing), float64: closed form or RK4."""
        start, sigmas = start.double(), sigmas.double()
        if self.name == "gaussian":
            label = torch.cdist(caption, self.teacher.embeddings).argmin(1)
            mean = guidance_scale[:, None] * self.teacher.means[label].double()
            deviation = (sigmas**2 + self.teacher.std**2).sqrt()
            return [mean + (start - mean) * (level / deviation[0]) for level in deviation]
        kwargs = {"caption": torch.cat([caption, torch.zeros_like(caption)]).double()}
        teacher = AnalyticTeacher(
            self.teacher.means.double(), self.teacher.members, self.teacher.embeddings, self.teacher.std
        ).double()
        denoise = TeacherDenoiser(teacher, teacher.preconditioning, kwargs, guidance_scale.double())
        return runge_kutta(denoise, start, sigmas)


@torch.no_grad()
def runge_kutta(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], sample: torch.Tensor, sigmas: torch.Tensor
) -> list[torch.Tensor]:
    """The points of dz/dt = (z − D(z; t))/t at `sigmas`, by the classical fourth-order method."""

    def slope(point: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (point - denoise(point, sigma.expand(len(point)))) / sigma

    points = [sample]
    for t, u in pairwise(sigmas):
        step, half = u - t, (t + u) / 2
        first = slope(sample, t)
        second = slope(sample + step / 2 * first, half)
        third = slope(sample + step / 2 * second, half)
        fourth = slope(sample + step * third, u)
        sample = sample + step / 6 * (first + 2 * second + 2 * third + fourth)
        points.append(sample)
    return points


@dataclass
class ToyData:
    """The toy as `DistillationData`.

    Attributes:
        captions_per_class: how many captions every class has in all; 0 words a new one every time.
        clips: whether trajectories start at clean points; otherwise at noise alone.
    """

    toy: Toy
    captions_per_class: int = 0
    clips: bool = False
    latent_shape: tuple[int, ...] = (DIMENSIONS,)

    def __post_init__(self):
        classes = torch.arange(1, CLASSES + 1).repeat(max(self.captions_per_class, 1))
        self.table = self.toy.captions(classes, torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.table)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        return clip_indices(len(self), batch_size, number, seed)

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator):
        classes = clips % CLASSES + 1
        worded = self.toy.captions(classes, generator)
        captions = self.table[clips] if self.captions_per_class else worded
        kept = torch.rand(len(clips), 1, generator=generator) >= caption_dropout
        captions = (captions * kept)[rows]
        latents = self.toy.latents(classes, generator) * float(self.clips)
        pair = torch.cat([captions, torch.zeros_like(captions)])
        return lambda device: (latents[rows], {"caption": captions}, {"caption": pair})


# ---------------------------------------------------------------------------------------------------------------------
# Recipes


@dataclass(frozen=True)
class Recipe:
    """What is varied; names are those of train_ctm.py's arguments where it has them."""

    # data
    clips: bool = True
    captions_per_class: int = 4
    caption_dropout: float = 0.1
    # trajectories
    num_scales: int = 18
    trajectory_reuse: int = 16
    step_count_power: float = 0.5
    target_sigma_min_rate: float = 0.3
    solve_to_target: bool = True
    sampler_rate: float = 0.0
    # objective
    feature_distance: str = "pseudo_huber"
    denoising_target: str = "teacher"
    denoising_levels: str = "uniform"
    denoising_weight: float = 0.5
    adaptive_weight: bool = True
    # optimization
    train_batch_size: int = 16
    optimizer: str = "radam"
    learning_rate: float = 2e-3
    lr_scheduler: str = "constant_with_warmup"
    lr_warmup_steps: int = 20
    ema_decay: float = 0.99
    width: int = 128


RECIPES = {
    "stage5": Recipe(),
    "G": Recipe(
        clips=False, captions_per_class=0, trajectory_reuse=4, sampler_rate=0.25, feature_distance="output",
        denoising_levels="mixed", denoising_weight=1.0, adaptive_weight=False, lr_scheduler="cosine",
    ),
    "paper": Recipe(
        num_scales=40, trajectory_reuse=1, step_count_power=1.0, target_sigma_min_rate=0.0, solve_to_target=False,
        feature_distance="full", denoising_target="data", denoising_weight=1.0, lr_scheduler="constant",
        ema_decay=0.999,
    ),
}  # fmt: skip


def parse_recipe(text: str) -> Recipe:
    """`NAME` or `NAME:option=value,option=value`."""
    name, _, changes = text.partition(":")
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    kinds = {item.name: item.type for item in fields(Recipe)}
    values = {}
    for change in filter(None, changes.split(",")):
        option, _, value = change.partition("=")
        if option not in kinds:
            raise ValueError(f"There is no option {option!r}; choose one of {', '.join(kinds)}.")
        values[option] = value == "True" if kinds[option] is bool else kinds[option](value)
    return replace(RECIPES[name], **values)


# ---------------------------------------------------------------------------------------------------------------------
# Training


def initial_student(toy: Toy, width: int, seed: int, updates: int = 4000, batch_size: int = 256) -> Student:
    """A student trained as a denoiser of its class, which is what a student initialized from its teacher is."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
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


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation


@dataclass
class Evaluation:
    """Unseen captions and noises, with the teacher's own solutions.

    Attributes:
        ends: where the teacher arrives, (B, D).
        points: its trajectory at `SIGMAS` for the guidance scale `ASKED`.
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
        asked = torch.full((len(self.some),), ASKED)
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
        """(effective ω, relative error of g) of g(t, t) at `SIGMAS`, where the guidance scale is `ASKED`.

        The effective ω is the projection of g − D_∅ on D_c − D_∅.
        """
        effective, errors = [], []
        preconditioning = self.toy.teacher.preconditioning
        teacher = Denoiser(self.toy.teacher, preconditioning)
        for sigma, point in self.points:
            sigma = sigma.expand(len(point))
            empty = teacher(point, sigma, caption=torch.zeros_like(self.some))
            direction = teacher(point, sigma, caption=self.some) - empty
            condition = torch.stack([sigma, torch.full_like(sigma, ASKED)], dim=1)
            estimate = Denoiser(student, preconditioning)(point, sigma, caption=self.some, timestep_cond=condition)
            effective.append((((estimate - empty) * direction).sum() / direction.square().sum()).item())
            guided = empty + ASKED * direction
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
    initial_students = functools.cache(partial(initial_student, toy))
    rows = []
    progress = tqdm(total=len(recipes) * len(args.seeds), unit="run")
    for text, recipe in recipes.items():
        several = []
        for seed in args.seeds:
            student = train(toy, recipe, initial_students(recipe.width, seed), args.updates, seed)
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
