"""Solved trajectories of the teacher, and the triples (t, u, s) that training takes from them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data.batches import DistillationData
from ..data.sampling import step_generator
from ..preconditioning import per_sample
from .denoisers import Preconditioning, TeacherDenoiser
from .noise_levels import (
    denoising_sigmas,
    heun_step_counts,
    sampler_step,
    start_indices,
    target_indices,
    teacher_level_rows,
)
from .objective import NoisyLatents, Triples
from .solver import heun_trajectory

DENOISING_TARGETS = ("data", "teacher")
DENOISING_LEVELS = ("uniform", "mixed")


@dataclass(frozen=True)
class Grid:
    """The N noise levels of the solver, (N,), decreasing, and which of them a batch's trajectories visit.

    The paper solves k steps from a random level for every update. With `reuse` = K > 1, trajectories run down the whole
    grid and serve K updates on average: a batch is solved every K updates, and each sample of an update comes from one
    of the last K batches. k, t and s are drawn anew for every sample and update, by the paper's own law.
    `step_count_power` is p in P(k) ∝ k^p. With `solve_to_target` u = s: the solver integrates down to s, so the EMA is
    not needed for the target and its errors do not accumulate. A share `sampler_rate` of the triples is a random step
    of an n-step sampler instead, n one of 1, 2, 4, 8, 16. Both need reused trajectories.

    Raises:
        ValueError: `solve_to_target` or `sampler_rate` with trajectories that are not reused, or a `sampler_rate`
            outside [0, 1].
    """

    sigmas: torch.Tensor
    reuse: int = 1
    target_sigma_min_rate: float = 0.0
    step_count_power: float = 1.0
    solve_to_target: bool = False
    sampler_rate: float = 0.0

    def __post_init__(self):
        if not 0 <= self.sampler_rate <= 1:
            raise ValueError(f"`sampler_rate` is {self.sampler_rate}; give a share in [0, 1].")
        for name in ("solve_to_target", "sampler_rate"):
            if getattr(self, name) and self.reuse == 1:
                raise ValueError(f"`{name}` needs trajectories down the whole grid: `reuse` > 1, not 1.")

    def visited(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Indices of the levels a new trajectory goes through, (k + 1, B)."""
        scales = len(self.sigmas)
        if self.reuse > 1:
            return torch.arange(scales)[:, None].expand(-1, batch_size)
        steps = heun_step_counts(1, scales, generator, self.step_count_power)
        first = start_indices(steps.expand(batch_size), scales, generator)
        return first + torch.arange(int(steps) + 1)[:, None]

    def triple(self, visited: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """(row of t, row of u, grid index of s), each (B,); rows are those of `visited`."""
        batch_size, scales = visited.shape[1], len(self.sigmas)
        if self.reuse > 1:
            steps = heun_step_counts(batch_size, scales, generator, self.step_count_power)
            start = start_indices(steps, scales, generator)
        else:
            steps = torch.full((batch_size,), len(visited) - 1)
            start = torch.zeros_like(steps)
        solved = visited[start + steps, torch.arange(batch_size)]
        target = target_indices(solved, scales, generator, self.target_sigma_min_rate)
        solved = start + steps
        if self.sampler_rate:
            sampled = torch.rand(batch_size, generator=generator) < self.sampler_rate
            sampler_start, sampler_target = sampler_step(batch_size, scales, generator)
            start, target = torch.where(sampled, sampler_start, start), torch.where(sampled, sampler_target, target)
            solved = torch.where(sampled, sampler_target, solved)
        return start, target if self.solve_to_target else solved, target


@dataclass
class Trajectories:
    """A batch's solved points: points[p] = z at grid level visited[p], (P, B, ...), from clean latents (B, ...).

    slopes[p] = (z − D_ω)/t there, (P − 1, B, ...), if they are kept.
    """

    visited: torch.Tensor
    points: torch.Tensor
    slopes: torch.Tensor | None
    clean: torch.Tensor
    guidance_scale: torch.Tensor
    network_kwargs: dict[str, torch.Tensor | None]


def mixed(pool: Sequence[Trajectories], which: Sequence[int]) -> Trajectories:
    """Row b from `pool[which[b]]` for every b; conditions are padded with zeros to the longest."""
    rows = list(enumerate(which))

    def gather(tensors: list[torch.Tensor | None]) -> torch.Tensor | None:
        if tensors[0] is None:
            return None
        return torch.nn.utils.rnn.pad_sequence([tensors[w][b] for b, w in rows], batch_first=True)

    return Trajectories(
        visited=pool[0].visited,
        points=torch.stack([pool[w].points[:, b] for b, w in rows], dim=1),
        slopes=None if pool[0].slopes is None else torch.stack([pool[w].slopes[:, b] for b, w in rows], dim=1),
        clean=torch.stack([pool[w].clean[b] for b, w in rows]),
        guidance_scale=torch.stack([pool[w].guidance_scale[b] for b, w in rows]),
        network_kwargs={
            name: gather([trajectories.network_kwargs[name] for trajectories in pool])
            for name in pool[0].network_kwargs
        },
    )


class TripleStream:
    """Batches of the distillation objective, a pure function of the step.

    Everything random comes from the seed and the step, for the whole batch of all processes; `rows` are those of this
    process. Trajectories are solved when a step first needs them, and again after a restart; the last `grid.reuse`
    batches of them are held.

    Args:
        data: latents and prompts of a batch of clips.
        teacher, preconditioning: the frozen network and how it sees noise levels.
        grid: the solver's levels and how trajectories are used.
        batch_size: of all processes together.
        rows: this process' share of a batch.
        seed: of every draw.
        guidance_scale_range: ω ~ U[min, max], one a sample.
        caption_dropout: share of empty prompts.
        denoising: whether to draw denoising score matching's samples.
        denoising_target: what they are held to: the clips ("data"), or the guided teacher ("teacher") at points of its
            trajectories, where its solver has asked it already.
        denoising_levels: levels of those points: "uniform" on the grid, or "mixed", half of them near exp(N(0, 1)).
        device: where the batches are wanted.

    Raises:
        ValueError: no such `denoising_target` or `denoising_levels`.
    """

    def __init__(
        self,
        data: DistillationData,
        teacher: torch.nn.Module,
        preconditioning: Preconditioning,
        grid: Grid,
        *,
        batch_size: int,
        rows: slice,
        seed: int,
        guidance_scale_range: tuple[float, float] = (2.0, 5.0),
        caption_dropout: float = 0.1,
        denoising: bool = True,
        denoising_target: str = "data",
        denoising_levels: str = "uniform",
        device: torch.device | str = "cpu",
    ):
        if denoising_target not in DENOISING_TARGETS:
            raise ValueError(
                f"`denoising_target` is {denoising_target!r}; choose one of {', '.join(DENOISING_TARGETS)}."
            )
        if denoising_levels not in DENOISING_LEVELS:
            raise ValueError(
                f"`denoising_levels` is {denoising_levels!r}; choose one of {', '.join(DENOISING_LEVELS)}."
            )
        self.data, self.teacher, self.preconditioning, self.grid = data, teacher, preconditioning, grid
        self.batch_size, self.rows, self.seed, self.device = batch_size, rows, seed, device
        self.guidance_scale_range = guidance_scale_range
        self.caption_dropout = caption_dropout
        self.denoising = denoising
        self.denoising_target = denoising_target
        self.denoising_levels = denoising_levels
        self._solved: dict[int, Trajectories] = {}

    def at(self, step: int) -> tuple[Triples, NoisyLatents | None]:
        """The batch of `step`, this process' rows."""
        pool, generator = self.pool(step), step_generator(self.seed, step, stream=1)
        if self.grid.reuse == 1:
            (trajectories,) = pool
        else:
            which = torch.randint(len(pool), (self.batch_size,), generator=generator)[self.rows]
            trajectories = mixed(pool, which.tolist())
        start, solved, target = (index[self.rows] for index in self.grid.triple(trajectories.visited, generator))
        samples = torch.arange(len(start))
        visited = self.grid.sigmas[trajectories.visited[:, self.rows]]
        triples = Triples(
            start=trajectories.points[start, samples],
            sigma=visited[start, samples].to(self.device),
            solved=trajectories.points[solved, samples],
            solved_sigma=None if self.grid.solve_to_target else visited[solved, samples].to(self.device),
            target_sigma=self.grid.sigmas[target].to(self.device),
            guidance_scale=trajectories.guidance_scale,
            network_kwargs=trajectories.network_kwargs,
        )
        if not self.denoising:
            return triples, None
        if self.denoising_target == "teacher":
            levels = self.grid.sigmas[trajectories.visited[:-1]]
            row = teacher_level_rows(levels, generator, self.denoising_levels)[self.rows]
            point, slope = trajectories.points[row, samples], trajectories.slopes[row, samples]
            sigma = visited[row, samples].to(self.device)
            # z = D_ω + σ·(z − D_ω)/σ: the teacher's estimate stands for the clip, the slope for its noise.
            return triples, NoisyLatents(point - per_sample(sigma, point) * slope, sigma, slope)
        lowest, highest = self.grid.sigmas[-1].item(), self.grid.sigmas[0].item()
        # A discrete teacher knows no levels beyond its table's ends.
        sigma = denoising_sigmas(self.batch_size, generator, lowest, highest)[self.rows].clamp(lowest, highest)
        return triples, NoisyLatents(trajectories.clean, sigma.to(self.device), self._noise(generator))

    def pool(self, step: int) -> list[Trajectories]:
        """The last `grid.reuse` solved batches, or as many as there are by `step`; this process' rows."""
        newest = step // self.grid.reuse
        numbers = range(max(0, newest - self.grid.reuse + 1), newest + 1)
        self._solved = {
            number: self._solved[number] if number in self._solved else self._solve(number) for number in numbers
        }
        return list(self._solved.values())

    @torch.no_grad()
    def _solve(self, number: int) -> Trajectories:
        generator = step_generator(self.seed, number)
        clips = self.data.order(self.batch_size, number, self.seed)
        batch = self.data.draw(clips, self.rows, self.caption_dropout, generator)
        lowest, highest = self.guidance_scale_range
        omega = lowest + (highest - lowest) * torch.rand(self.batch_size, generator=generator)
        omega = omega[self.rows].to(self.device)
        visited = self.grid.visited(self.batch_size, generator)
        sigmas = self.grid.sigmas[visited[:, self.rows]].to(self.device)

        clean, condition, guided = batch(self.device)
        start = clean + per_sample(sigmas[0], clean) * self._noise(generator)
        teacher = TeacherDenoiser(self.teacher, self.preconditioning, guided, omega)
        points, slopes = zip(*heun_trajectory(teacher, start, sigmas), strict=True)
        kept = torch.stack(slopes[:-1]) if self.denoising and self.denoising_target == "teacher" else None
        return Trajectories(visited, torch.stack(points), kept, clean, omega, condition)

    def _noise(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(self.batch_size, *self.data.latent_shape, generator=generator)[self.rows].to(self.device)
