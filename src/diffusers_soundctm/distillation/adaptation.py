"""Objectives that teach a teacher or a student new sounds, and keep the others.

A batch has rows of new sounds, and rows of sounds that the model makes itself for other prompts. On the latter, the
frozen model's own output is the target (prior preservation).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from .. import preconditioning
from .denoisers import Denoiser
from .losses import denoising_loss, output_distance
from .solver import heun_trajectory


@dataclass
class AdaptationBatch:
    """The batch of a training step, B rows, of which the first `num_new` are new sounds.

    Attributes:
        clean: z_0, (B, ...).
        noise: ε, (B, ...).
        sigma: Noise level of score matching, and of the prior rows, (B,).
        target_sigma: s ≤ t of the prior rows, (B,).
        jumps: t, u and s of the new rows' consistency, t > u ≥ s, (3, num_new).
        guidance_scale: ω, (B,), of a student.
        network_kwargs: The network's arguments for the B prompts.
        num_new: Number of rows with new sounds.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    sigma: torch.Tensor
    target_sigma: torch.Tensor
    jumps: torch.Tensor
    guidance_scale: torch.Tensor
    network_kwargs: dict[str, torch.Tensor | None]
    num_new: int

    def noisy(self, sigma: torch.Tensor, rows: slice) -> torch.Tensor:
        """z_0 + σ·ε of some rows."""
        return self.clean[rows] + preconditioning.per_sample(sigma, self.clean[rows]) * self.noise[rows]


Losses = tuple[torch.Tensor, dict[str, torch.Tensor]]
Frozen = Callable[[], AbstractContextManager]


class TeacherAdaptation:
    """The teacher's own loss, denoising score matching, on new sounds.

    Args:
        teacher: The teacher with its adapter.
        frozen: Returns a context in which the teacher has no adapter.
    """

    def __init__(self, teacher: Denoiser, frozen: Frozen):
        self.teacher, self.frozen = teacher, frozen

    def __call__(self, batch: AdaptationBatch) -> Losses:
        """Return the loss of a batch, and its parts by name."""
        noisy, n = batch.noisy(batch.sigma, slice(None)), batch.num_new
        target = batch.clean.clone()
        prior = _rows(batch, torch.arange(n, len(noisy)))
        if n < len(noisy):
            with torch.no_grad(), self.frozen():
                target[n:] = self.teacher(noisy[n:], batch.sigma[n:], **prior)
        loss = _loss(self.teacher, self.teacher(noisy, batch.sigma, **batch.network_kwargs), target, batch.sigma)
        return loss.mean(), _parts(loss, n)


class StudentAdaptation:
    """Score matching at s = t on new sounds, and consistency with the student's EMA along the EMA's own trajectories.

        L = w(σ)·‖g_θ(z_σ, σ, σ) − z_0‖² + λ·d(G_θ(z_t, t, s), G_sg(Heun_sg(z_t, t, u), u, s))

    Args:
        student: The student θ with its adapter.
        target: Its EMA sg.
        frozen: Returns a context in which the student has no adapter.
        consistency_weight: λ; 0 leaves out the second term.
    """

    def __init__(self, student: Denoiser, target: Denoiser, frozen: Frozen, consistency_weight: float = 1.0):
        self.student, self.target, self.frozen = student, target, frozen
        self.consistency_weight = consistency_weight

    def __call__(self, batch: AdaptationBatch) -> Losses:
        """Return the loss of a batch, and its parts by name."""
        n, size = batch.num_new, len(batch.clean)
        noisy = batch.noisy(batch.sigma, slice(None))
        new, prior = torch.arange(n), torch.arange(n, size)
        target_sigma = torch.cat([batch.sigma[:n], batch.target_sigma[n:]])
        targets = batch.clean.clone()
        if n < size:
            with torch.no_grad(), self.frozen():
                targets[n:] = _denoised(self.student, noisy[n:], batch.sigma[n:], target_sigma[n:], batch, prior)
        sample, sigma, rows = noisy, batch.sigma, torch.arange(size)
        t, u, s = batch.jumps
        start = batch.noisy(t, slice(n))
        landed = self._target(start, t, u, s, batch) if self.consistency_weight else start
        if self.consistency_weight:
            sample, sigma = torch.cat([sample, start]), torch.cat([sigma, t])
            target_sigma, rows = torch.cat([target_sigma, s]), torch.cat([rows, new])
        denoised = _denoised(self.student, sample, sigma, target_sigma, batch, rows)
        loss = _loss(self.student, denoised[:size], targets, batch.sigma)
        if not self.consistency_weight:
            return loss.mean(), _parts(loss, n)
        settings = self.student.preconditioning
        jump = preconditioning.jump(denoised[size:], start, t, s)
        consistency = output_distance(jump, landed, t, s, settings.sigma_data, settings.prediction_type).mean()
        total = loss.mean() + self.consistency_weight * consistency
        return total, {**_parts(loss, n), "consistency": consistency}

    @torch.no_grad()
    def _target(
        self, start: torch.Tensor, t: torch.Tensor, u: torch.Tensor, s: torch.Tensor, batch: AdaptationBatch
    ) -> torch.Tensor:
        rows = torch.arange(batch.num_new)

        def denoise(sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return _denoised(self.target, sample, sigma, sigma, batch, rows)

        _, (solved, _) = heun_trajectory(denoise, start, torch.stack([t, u]))
        return preconditioning.jump(_denoised(self.target, solved, u, s, batch, rows), solved, u, s)


def _denoised(
    student: Denoiser,
    sample: torch.Tensor,
    sigma: torch.Tensor,
    target_sigma: torch.Tensor,
    batch: AdaptationBatch,
    rows: torch.Tensor,
) -> torch.Tensor:
    condition = torch.stack([target_sigma, batch.guidance_scale[rows]], dim=-1)
    return student(sample, sigma, timestep_cond=condition, **_rows(batch, rows))


def _rows(batch: AdaptationBatch, rows: torch.Tensor) -> dict[str, torch.Tensor | None]:
    return {name: None if value is None else value[rows] for name, value in batch.network_kwargs.items()}


def _loss(network: Denoiser, denoised: torch.Tensor, target: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    settings = network.preconditioning
    return denoising_loss(denoised, target, sigma, settings.sigma_data, settings.prediction_type)


def _parts(loss: torch.Tensor, num_new: int) -> dict[str, torch.Tensor]:
    parts = {"new": loss[:num_new].mean()}
    return parts | ({"prior": loss[num_new:].mean()} if num_new < len(loss) else {})
