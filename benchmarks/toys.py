"""Toys with a known answer: classes in place of prompts, points in 16 dimensions in place of latents."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import torch
from torch import nn

from diffusers_soundctm.data.sampling import clip_indices
from diffusers_soundctm.distillation.denoisers import Preconditioning, TeacherDenoiser

TOYS = ("mixture", "gaussian")
DIMENSIONS, CLASSES, COMPONENT_STD = 16, 32, 0.19
CAPTION_DIMENSIONS, CAPTION_NOISE = 32, 0.5
MEAN_GUIDANCE_SCALE = 3.5


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
            hidden = hidden + self.branch(torch.cat([landing, guidance_scale[:, None] - MEAN_GUIDANCE_SCALE], dim=1))
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
        means = torch.stack([0.42 * centers + 0.2 * offset for offset in offsets], dim=1).flatten(0, 1)
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
        """A new caption for every class 1..C, (B, E)."""
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
        kwargs = {"caption": torch.cat([caption, torch.zeros_like(caption)])}
        teacher = copy.deepcopy(self.teacher).double()
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
