"""Trajectories of the teacher, and the triples (t, u, s) on them that the student is trained on."""

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
    """The noise levels of the solver, and how triples (t, u, s) are drawn from them.

    The paper solves k steps from a random level for every update. With `reuse` = K > 1, trajectories go down the whole
    grid and are used for K updates on average: a batch is solved every K updates, and each sample of an update comes
    from one of the last K batches. k, t and s are drawn anew per sample and update, with the paper's distribution.

    Attributes:
        sigmas: The N noise levels, (N,), decreasing.
        reuse: K.
        target_sigma_min_rate: Probability of s = σ_min, beyond the uniform draw.
        step_count_power: p in P(k) ∝ k^p.
        solve_to_target: Whether u = s: the solver integrates down to s, so the EMA is not needed for the target, and
            its errors do not accumulate. Requires `reuse` > 1.
        sampler_rate: Fraction of triples that are a random step of an n-step sampler, n one of 1, 2, 4, 8, 16. Requires
            `reuse` > 1.

    Raises:
        ValueError: `solve_to_target` or `sampler_rate` without `reuse` > 1, or a `sampler_rate` outside [0, 1].
    """

    sigmas: torch.Tensor
    reuse: int = 1
    target_sigma_min_rate: float = 0.0
    step_count_power: float = 1.0
    solve_to_target: bool = False
    sampler_rate: float = 0.0

    def __post_init__(self):
        if not 0 <= self.sampler_rate <= 1:
            raise ValueError(f"`sampler_rate` is {self.sampler_rate}; choose a value in [0, 1].")
        for name in ("solve_to_target", "sampler_rate"):
            if getattr(self, name) and self.reuse == 1:
                raise ValueError(f"`{name}` needs trajectories down the whole grid; pass `reuse` > 1.")

    def visited(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        """Draw the grid indices of the levels that a new trajectory visits, (k + 1, B)."""
        scales = len(self.sigmas)
        if self.reuse > 1:
            return torch.arange(scales)[:, None].expand(-1, batch_size)
        steps = heun_step_counts(1, scales, generator, self.step_count_power)
        first = start_indices(steps.expand(batch_size), scales, generator)
        return first + torch.arange(int(steps) + 1)[:, None]

    def triple(self, visited: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        """Draw triples on trajectories.

        Args:
            visited: Grid indices of the trajectories' levels, (P, B).
            generator: Source of the draws.

        Returns:
            Row of t in `visited`, row of u in `visited`, and grid index of s, each (B,).
        """
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
    """The trajectories of a batch.

    Attributes:
        visited: Grid indices of the P noise levels, (P, B).
        points: z at these levels, (P, B, ...).
        slopes: (z − D_ω)/t at all of them but the last, (P − 1, B, ...); None if they are not needed.
        clean: The latents z_0 that the trajectories start from, before noise is added, (B, ...).
        guidance_scale: ω, (B,).
        network_kwargs: The network's arguments for the B prompts.
    """

    visited: torch.Tensor
    points: torch.Tensor
    slopes: torch.Tensor | None
    clean: torch.Tensor
    guidance_scale: torch.Tensor
    network_kwargs: dict[str, torch.Tensor | None]


def mixed(pool: Sequence[Trajectories], which: Sequence[int]) -> Trajectories:
    """Take row b from `pool[which[b]]` for every b. Prompts are padded with zeros to the longest."""
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
    """The batches of the objective, a function of the step alone.

    All draws depend on the seed and the step, and are made for the batch of all processes. Trajectories are solved when
    a step first needs them, and again after a restart. The last `grid.reuse` batches of them are kept.

    Args:
        data: Source of latents and prompts.
        teacher: The frozen network.
        preconditioning: Its preconditioning.
        grid: Levels of the solver, and how trajectories are used.
        batch_size: Of all processes together.
        rows: The rows of a batch that this process computes.
        seed: Of all draws.
        guidance_scale_range: Range of ω, drawn uniformly per sample.
        caption_dropout: Probability of the empty prompt.
        denoising: Whether to draw samples for denoising score matching.
        denoising_target: What g is trained against there: the clips ("data"), or the guided teacher's estimates on the
            trajectories ("teacher"), which the solver has computed already.
        denoising_levels: Levels of the latter, "uniform" or "mixed", see `teacher_level_rows`.
        device: Device of the batches.

    Raises:
        ValueError: An unknown `denoising_target` or `denoising_levels`.
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
        """Return the batch of a step, the rows of this process."""
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
            # z = D_ω + σ·(z − D_ω)/σ: the teacher's estimate replaces the clip, and the slope its noise.
            return triples, NoisyLatents(point - per_sample(sigma, point) * slope, sigma, slope)
        lowest, highest = self.grid.sigmas[-1].item(), self.grid.sigmas[0].item()
        # A discrete teacher was not trained beyond the ends of its table.
        sigma = denoising_sigmas(self.batch_size, generator, lowest, highest)[self.rows].clamp(lowest, highest)
        return triples, NoisyLatents(trajectories.clean, sigma.to(self.device), self._noise(generator))

    def pool(self, step: int) -> list[Trajectories]:
        """Return the last `grid.reuse` batches of trajectories up to a step, the rows of this process."""
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
