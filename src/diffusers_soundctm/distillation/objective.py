"""The objective of distillation: L_CTM + λ·a·L_DSM."""

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
    """The batch of a training step, float32.

    Attributes:
        start: z_t, (B, ...).
        sigma: t, (B,).
        solved: z_u, which the teacher's solver reaches from z_t, (B, ...).
        solved_sigma: u, (B,). None if u = s for all samples.
        target_sigma: s ≤ u, where both jumps end, (B,).
        guidance_scale: ω, (B,). None for a student without guidance.
        network_kwargs: The network's arguments for the B prompts.
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
    """The samples of denoising score matching.

    Attributes:
        clean: z_0, (B, ...).
        sigma: σ', (B,).
        noise: ε', (B, ...).
    """

    clean: torch.Tensor
    sigma: torch.Tensor
    noise: torch.Tensor


def micro_batches(
    triples: Triples, noisy: NoisyLatents | None, parts: int
) -> Iterator[tuple[Triples, NoisyLatents | None]]:
    """Split a batch into `parts` interleaved micro-batches, since neighboring rows have similar noise levels."""

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
    """The losses of a training step.

    Attributes:
        total: A scalar with the gradient of L_CTM + λ·a·L_DSM.
        consistency: L_CTM per sample, (B,), detached.
        denoising: L_DSM per sample, (B,), detached. None without denoising score matching.
        adaptive_weight: a, a scalar. None without denoising score matching.
    """

    total: torch.Tensor
    consistency: torch.Tensor
    denoising: torch.Tensor | None
    adaptive_weight: torch.Tensor | None


class CTMObjective:
    """The objective of a student.

        L_CTM = d(G_θ(z_t, t, s), G_sg(z_u, u, s))        L_DSM = w(σ')·‖g_θ(z_0 + σ'·ε', σ', σ') − z_0‖²

    Args:
        student: The trained network θ as a denoiser.
        target: Its EMA sg, which is not trained.
        features: The teacher's feature space, for the distances "full" and "half"; else None.
        last_layer: The student's last layer, on whose weight the gradients of both losses are compared.
        distance: d. "full" or "half" of the teacher's features, "output" in units of the network's output (see
            `output_distance`), or "l2" or "pseudo_huber" of the latents.
        denoising_weight: λ.
        adaptive: Whether a is the adaptive weight; else a = 1.
        match_sigma: Noise level at which the jumps are compared. None stands for s, σ_min for the paper's z_0, which
            the target reaches by another jump.
        reduce: Averages a tensor over processes.
        gradient_scale: Factor on gradients through half-precision networks, divided out afterwards, so that they do not
            vanish in float16.

    Raises:
        ValueError: An unknown `distance`, or one that does not fit `features` or `match_sigma`.
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
            needed = "a feature space" if features is None else "None"
            raise ValueError(f"`distance` is {distance!r}; pass {needed} as `features`.")
        if distance == "output" and match_sigma is not None:
            raise ValueError('`distance` "output" compares jumps at s; leave out `match_sigma`.')
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
        """Compute the losses of a step.

        Args:
            triples: Batch of the consistency loss.
            noisy: Batch of the denoising loss, with the prompts and ω of `triples`. None leaves it out.

        Returns:
            The losses; call `backward()` on `.total`.
        """
        estimate, denoised = self._student(triples, noisy)
        with torch.no_grad():
            target = self._target(triples)
        # The adaptive weight and the update both need this gradient. It is computed at the estimate once, so that there
        # is only one backward pass through the teacher.
        leaf = estimate.detach().requires_grad_()
        consistency = self._consistency(leaf, target, triples)
        (gradient,) = torch.autograd.grad(self.gradient_scale * consistency.mean(), leaf)
        total = (estimate * (gradient / self.gradient_scale)).sum()
        if noisy is None:
            return StepLosses(total, consistency.detach(), None, None)
        settings = self.student.preconditioning
        denoising = denoising_loss(denoised, noisy.clean, noisy.sigma, settings.sigma_data, settings.prediction_type)
        weight = self._adaptive_weight(total, denoising.mean())
        total = total + self.denoising_weight * weight * denoising.mean()
        return StepLosses(total, consistency.detach(), denoising.detach(), weight)

    def _remember_weight(self, layer: torch.nn.Module, *args) -> None:
        self.last_weight = layer.weight

    def _student(self, triples: Triples, noisy: NoisyLatents | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(G_θ(z_t, t, s), g_θ(z_0 + σ'·ε', σ', σ')), both in one call of the network."""
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
        """G_sg(z_u, u, s), which is z_u if u = s."""
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
            target_features = self.features(target, sigma, triples.network_kwargs)
        return feature_distance(self.features(estimate, sigma, triples.network_kwargs), target_features)

    def _adaptive_weight(self, consistency: torch.Tensor, denoising: torch.Tensor) -> torch.Tensor:
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
    """Compute a student's jump G(z_t, c, ω, t, s).

    Args:
        denoise: The student.
        sample: z_t, (B, ...).
        sigma: t, (B,).
        target_sigma: s, (B,).
        triples: Prompts c and guidance scales ω.

    Returns:
        G, (B, ...), float32.
    """
    denoised = denoise(
        sample, sigma, timestep_cond=_timestep_cond(target_sigma, triples.guidance_scale), **triples.network_kwargs
    )
    return preconditioning.jump(denoised, sample, sigma, target_sigma)


def _timestep_cond(target_sigma: torch.Tensor, guidance_scale: torch.Tensor | None) -> torch.Tensor:
    columns = [target_sigma] if guidance_scale is None else [target_sigma, guidance_scale]
    return torch.stack(columns, dim=-1)


def _twice(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else torch.cat([value, value])
