"""Compare a student with its teacher's own trajectories: distance by steps, effective guidance, errors by level."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import torch

from .. import preconditioning
from ..preconditioning import karras_sigmas
from .denoisers import Denoiser, Preconditioning, TeacherDenoiser
from .losses import output_distance
from .noise_levels import SAMPLER_STEPS
from .solver import heun_trajectory

# A grid of 40 intervals; these rows of it are where estimates and jumps are compared, from sigma_max down.
NUM_INTERVALS = 40
LEVELS = (0, 5, 10, 15, 20, 25, 30, 35)
JUMP_LEVELS = (0, 10, 20, 30, 40)


@dataclass(frozen=True)
class Solution:
    """A batch of trajectories of the guided teacher, solved by Heun's method.

    Attributes:
        sigmas: noise levels, (N + 1,), decreasing.
        points: z at every level, (N + 1, B, ...).
        conditional, unconditional: D_c and D_∅ at the rows `LEVELS`, (8, B, ...).
        guidance_scale: ω of every sample, (B,).
        condition: network arguments of the B prompts.
    """

    sigmas: torch.Tensor
    points: torch.Tensor
    conditional: torch.Tensor
    unconditional: torch.Tensor
    guidance_scale: torch.Tensor
    condition: Mapping[str, torch.Tensor | None]


@torch.no_grad()
def solve_teacher(
    network: torch.nn.Module,
    settings: Preconditioning,
    noise: torch.Tensor,
    condition: Mapping[str, torch.Tensor | None],
    guided: Mapping[str, torch.Tensor | None],
    guidance_scale: float = 3.5,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Solution:
    """Solve the guided teacher's ODE from σ_max·`noise` to σ_min in 40 Heun steps.

    Args:
        network: the teacher's network.
        settings: its preconditioning.
        noise: unit Gaussian, (B, ...).
        condition: network arguments of the B prompts.
        guided: network arguments of these prompts followed by B empty ones.
        guidance_scale: ω.
        sigma_min, sigma_max, rho: the noise levels of the teacher's scheduler.
    """
    sigmas = karras_sigmas(NUM_INTERVALS, sigma_min, sigma_max, rho).to(noise.device)
    scale = torch.full((len(noise),), guidance_scale, device=noise.device)
    teacher = TeacherDenoiser(network, settings, dict(guided), scale)
    levels = sigmas[:, None].expand(-1, len(noise))
    points = torch.stack([point for point, _ in heun_trajectory(teacher, sigmas[0] * noise, levels)])
    conditional, unconditional = zip(*(teacher.halves(points[row], levels[row]) for row in LEVELS), strict=True)
    return Solution(sigmas, points, torch.stack(conditional), torch.stack(unconditional), scale, condition)


class TrajectoryComparison:
    """Accumulate how a student differs from the solutions of its teacher, batch by batch.

    Args:
        step_counts: numbers of sampling steps to compare.
        guidance_scales: values of ω whose effective strength is measured.
    """

    def __init__(
        self,
        step_counts: Sequence[int] = SAMPLER_STEPS,
        guidance_scales: Sequence[float] = (2.0, 3.5, 5.0),
    ):
        self.step_counts, self.guidance_scales = step_counts, guidance_scales
        self._sums: dict[str, dict] = defaultdict(lambda: defaultdict(lambda: torch.zeros(2, dtype=torch.float64)))

    @torch.no_grad()
    def add(self, student: Denoiser, solution: Solution) -> None:
        """Add a batch of solutions; `student` is the network as a denoiser."""
        self._add_distances(student, solution)
        self._add_estimates(student, solution)
        self._add_jumps(student, solution)

    @property
    def distance(self) -> dict[int, float]:
        """Number of steps → ‖z_n − z*‖/‖z*‖ of the latents at σ_min, the root of the ratio of both squared sums."""
        return self._roots("distance")

    @property
    def estimate_error(self) -> dict[float, float]:
        """σ → ‖g(z_σ, σ, σ) − D_ω(z_σ; σ)‖/‖D_ω(z_σ; σ)‖ on the teacher's trajectories."""
        return self._roots("estimate")

    @property
    def jump_error(self) -> dict[tuple[float, float], float]:
        """(t, s) → root mean square error of the jump from t to s, in units of the network's output F."""
        return self._roots("jump")

    @property
    def effective_guidance(self) -> dict[tuple[float, float], float]:
        """(ω, σ) → the strength that the student really applies: g(z_σ, σ, σ) − D_∅ projected on D_c − D_∅."""
        return {key: (value[0] / value[1]).item() for key, value in self._sums["guidance"].items()}

    def _roots(self, name: str) -> dict:
        return {key: (value[0] / value[1]).sqrt().item() for key, value in self._sums[name].items()}

    def _record(self, name: str, key: object, numerator: torch.Tensor, denominator: torch.Tensor | float) -> None:
        self._sums[name][key] += torch.tensor([float(numerator), float(denominator)], dtype=torch.float64)

    def _add_distances(self, student: Denoiser, solution: Solution) -> None:
        first, last = solution.sigmas[0].item(), solution.sigmas[-1].item()
        end = solution.points[-1]
        for count in self.step_counts:
            sample = solution.points[0]
            for t, s in pairwise(karras_sigmas(count, last, first).to(sample.device)):
                sample = _jump(student, sample, t, s, solution)
            self._record("distance", count, (sample - end).square().sum(), end.square().sum())

    def _add_estimates(self, student: Denoiser, solution: Solution) -> None:
        scale = preconditioning.per_sample(solution.guidance_scale, solution.points[0])
        for row, conditional, unconditional in zip(LEVELS, solution.conditional, solution.unconditional, strict=True):
            sigma, point, direction = solution.sigmas[row], solution.points[row], conditional - unconditional
            for omega in self.guidance_scales:
                g = _estimate(student, point, sigma, sigma, torch.full_like(solution.guidance_scale, omega), solution)
                projection = ((g - unconditional) * direction).sum()
                self._record("guidance", (omega, sigma.item()), projection, direction.square().sum())
            g = _estimate(student, point, sigma, sigma, solution.guidance_scale, solution)
            guided = unconditional + scale * direction
            self._record("estimate", sigma.item(), (g - guided).square().sum(), guided.square().sum())

    def _add_jumps(self, student: Denoiser, solution: Solution) -> None:
        settings = student.preconditioning
        for start, end in combinations(JUMP_LEVELS, 2):
            t, s = solution.sigmas[start], solution.sigmas[end]
            landed = _jump(student, solution.points[start], t, s, solution)
            error = output_distance(
                landed, solution.points[end], t.expand(len(landed)), s, settings.sigma_data, settings.prediction_type
            )
            self._record("jump", (t.item(), s.item()), error.sum(), len(error))


def _estimate(
    student: Denoiser,
    sample: torch.Tensor,
    sigma: torch.Tensor,
    target_sigma: torch.Tensor,
    guidance_scale: torch.Tensor,
    solution: Solution,
) -> torch.Tensor:
    """g(z_t, c, ω, t, s), t and s scalars."""
    timestep_cond = torch.stack([target_sigma.expand_as(guidance_scale), guidance_scale], dim=-1)
    return student(sample, sigma.expand(len(sample)), timestep_cond=timestep_cond, **solution.condition)


def _jump(
    student: Denoiser, sample: torch.Tensor, sigma: torch.Tensor, target_sigma: torch.Tensor, solution: Solution
) -> torch.Tensor:
    """G(z_t, c, ω, t, s), t and s scalars."""
    denoised = _estimate(student, sample, sigma, target_sigma, solution.guidance_scale, solution)
    return preconditioning.jump(denoised, sample, sigma.expand(len(sample)), target_sigma.expand(len(sample)))
