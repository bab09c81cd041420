"""The objective of distillation: from two points of a teacher's trajectory to the gradients of θ."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import torch

from .. import preconditioning
from .denoisers import Denoiser
from .features import FeatureSpace, feature_distance
from .losses import adaptive_weight, denoising_loss, l2_distance, output_distance, pseudo_huber_distance

FEATURE_DISTANCES = ("full", "half", "output", "l2", "pseudo_huber")


@dataclass
class Triples:
    """What one training step looks at; noise levels and ω are (B,), samples (B, ...), all float32.

    Attributes:
        start, sigma: z_t and t.
        solved, solved_sigma: z_u and u, where the teacher's solver went from z_t. u is None if all of them are s.
        target_sigma: s ≤ u, where both jumps land.
        guidance_scale: ω. None for a student without guidance.
        network_kwargs: conditioning of the B prompts.
    """

    start: torch.Tensor
    sigma: torch.Tensor
    solved: torch.Tensor
    solved_sigma: torch.Tensor | None
    target_sigma: torch.Tensor
    guidance_scale: torch.Tensor | None
    network_kwargs: dict[str, torch.Tensor | None]


@dataclass
class NoisyLatents:
    """Denoising score matching's samples: z_0 (B, ...), σ' (B,) and ε' (B, ...)."""

    clean: torch.Tensor
    sigma: torch.Tensor
    noise: torch.Tensor


def micro_batches(
    triples: Triples, noisy: NoisyLatents | None, parts: int
) -> Iterator[tuple[Triples, NoisyLatents | None]]:
    """A batch cut into `parts` equal ones, which take turns: rows next to each other have like noise levels."""

    def cut(value, rows: slice):
        if isinstance(value, dict):
            return {name: cut(item, rows) for name, item in value.items()}
        return None if value is None else value[rows]

    def cut_fields(batch, rows: slice):
        return type(batch)(**{field.name: cut(getattr(batch, field.name), rows) for field in fields(batch)})

    for part in range(parts):
        rows = slice(part, None, parts)
        yield cut_fields(triples, rows), None if noisy is None else cut_fields(noisy, rows)


@dataclass
class StepLosses:
    """Per-sample losses (B,), detached, and `total`, a scalar whose gradient is that of L_CTM + λ·a·L_DSM."""

    total: torch.Tensor
    consistency: torch.Tensor
    denoising: torch.Tensor | None
    balance: torch.Tensor | None


class CTMObjective:
    """L_CTM + λ·a·L_DSM of a student.

    Args:
        student: the trained network as a denoiser.
        target: its moving average, which nothing trains.
        features: the teacher's feature space, or None for distances in latent space.
        last_layer: the student's last layer, where a compares gradients.
        distance: how two jumps are compared. "full" or "half" with `features`. Without: "output" in units of the
            network's output (see `output_distance`), "l2" or "pseudo_huber" of the latents.
        denoising_weight: λ; 0 leaves denoising score matching out.
        adaptive: False fixes a at 1.
        match_sigma: level the points are compared at: None for s itself, or σ_min, reached by a jump of the target.
        reduce: averages a tensor over processes.
        gradient_scale: factor that gradients through half-precision networks are taken at, and divided by again, so
            that float16 does not flush them to zero.
    """

    def __init__(
        self,
        student: Denoiser,
        target: Denoiser,
        features: FeatureSpace | None,
        last_layer: torch.nn.Module,
        *,
        distance: str = "full",
        denoising_weight: float = 1.0,
        adaptive: bool = True,
        match_sigma: float | None = None,
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
        gradient_scale: float = 1.0,
    ):
        if distance not in FEATURE_DISTANCES:
            raise ValueError(f"`distance` is {distance!r}; choose one of {', '.join(FEATURE_DISTANCES)}.")
        if (features is not None) != (distance in ("full", "half")):
            raise ValueError(f"`distance` {distance!r} does not go with features={features!r}.")
        if distance == "output" and match_sigma is not None:
            raise ValueError('`distance` "output" compares jumps where they land; leave out `match_sigma`.')
        self.student, self.target, self.features = student, target, features
        # A sharded network has its whole weight only while it runs.
        last_layer.register_forward_hook(self._remember_weight)
        self.distance = distance
        self.denoising_weight = denoising_weight
        self.adaptive = adaptive
        self.match_sigma = match_sigma
        self.reduce = reduce
        self.gradient_scale = gradient_scale

    def __call__(self, triples: Triples, noisy: NoisyLatents | None = None) -> StepLosses:
        """Losses of one step; call `backward()` on `.total`. `noisy` shares prompts and ω with `triples`."""
        estimate, denoised = self._student(triples, noisy)
        with torch.no_grad():
            target = self._target(triples)
        # L_CTM's gradient is taken at the estimate first: the way back through the teacher is then walked once, though
        # the student's last layer is asked for it twice, by a and by the update.
        leaf = estimate.detach().requires_grad_()
        consistency = self._consistency(leaf, target, triples)
        (gradient,) = torch.autograd.grad(self.gradient_scale * consistency.mean(), leaf)
        total = (estimate * (gradient / self.gradient_scale)).sum()
        if noisy is None:
            return StepLosses(total, consistency.detach(), None, None)
        settings = self.student.preconditioning
        denoising = denoising_loss(denoised, noisy.clean, noisy.sigma, settings.sigma_data, settings.prediction_type)
        balance = self._balance(total, denoising.mean())
        total = total + self.denoising_weight * balance * denoising.mean()
        return StepLosses(total, consistency.detach(), denoising.detach(), balance)

    def _remember_weight(self, layer: torch.nn.Module, *args) -> None:
        self.last_weight = layer.weight

    def _student(self, triples: Triples, noisy: NoisyLatents | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(G(z_t, t, s), g(z_0 + σ'ε', σ', σ')), both halves in one call of the network."""
        if noisy is None:
            return jump(self.student, triples.start, triples.sigma, triples.target_sigma, triples), None
        perturbed = noisy.clean + preconditioning.per_sample(noisy.sigma, noisy.noise) * noisy.noise
        both = self.student(
            torch.cat([triples.start, perturbed]),
            torch.cat([triples.sigma, noisy.sigma]),
            timestep_cond=_timestep_cond(
                torch.cat([triples.target_sigma, noisy.sigma]), _twice(triples.guidance_scale)
            ),
            **{name: _twice(value) for name, value in triples.network_kwargs.items()},
        )
        denoised_start, denoised = both.split([len(triples.start), len(perturbed)])
        return preconditioning.jump(denoised_start, triples.start, triples.sigma, triples.target_sigma), denoised

    def _target(self, triples: Triples) -> torch.Tensor:
        """G_sg(z_u, u, s), which is z_u itself if u = s."""
        if triples.solved_sigma is None:
            return triples.solved
        return jump(self.target, triples.solved, triples.solved_sigma, triples.target_sigma, triples)

    def _consistency(self, estimate: torch.Tensor, target: torch.Tensor, triples: Triples) -> torch.Tensor:
        sigma = triples.target_sigma
        if self.match_sigma is not None:
            end = torch.full_like(sigma, self.match_sigma)
            with torch.no_grad():
                target = jump(self.target, target, sigma, end, triples)
            estimate = jump(self.target, estimate, sigma, end, triples)
            sigma = end
        if self.distance == "output":
            settings = self.student.preconditioning
            return output_distance(
                estimate, target, triples.sigma, sigma, settings.sigma_data, settings.prediction_type
            )
        if self.distance == "l2":
            return l2_distance(estimate, target)
        if self.distance == "pseudo_huber":
            return pseudo_huber_distance(estimate, target)
        with torch.no_grad():
            wanted = self.features(target, sigma, triples.network_kwargs)
        return feature_distance(self.features(estimate, sigma, triples.network_kwargs), wanted)

    def _balance(self, consistency: torch.Tensor, denoising: torch.Tensor) -> torch.Tensor:
        if not self.adaptive:
            return torch.ones((), device=denoising.device)
        gradients = [
            self.reduce(torch.autograd.grad(self.gradient_scale * loss, self.last_weight, retain_graph=True)[0].float())
            / self.gradient_scale
            for loss in (consistency, denoising)
        ]
        return adaptive_weight(*gradients)


def jump(
    denoise: Denoiser, sample: torch.Tensor, sigma: torch.Tensor, target_sigma: torch.Tensor, triples: Triples
) -> torch.Tensor:
    """G(z_t, c, ω, t, s) of a student, prompts and ω from `triples`; (B, ...), float32."""
    denoised = denoise(
        sample, sigma, timestep_cond=_timestep_cond(target_sigma, triples.guidance_scale), **triples.network_kwargs
    )
    return preconditioning.jump(denoised, sample, sigma, target_sigma)


def _timestep_cond(target_sigma: torch.Tensor, guidance_scale: torch.Tensor | None) -> torch.Tensor:
    columns = [target_sigma] if guidance_scale is None else [target_sigma, guidance_scale]
    return torch.stack(columns, dim=-1)


def _twice(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else torch.cat([value, value])
