"""Loss-based guidance: at every step of the sampler, look where the sound will end and nudge it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from ..preconditioning import c_in
from .gradients import LookAhead, check_finite, frozen, objective_gradient, per_sample_norm
from .objectives import name_of
from .sound import Sound

logger = logging.get_logger(__name__)


class LossGuidance(PipelineCallback):
    """z_s = G(z_t, t, s) − ρ_t·∇_{z_t} L(Dec(ẑ_0)) with ẑ_0 = G(z_t, t, σ_min), for each sample on its own.

    The step is normalised. At z_t, a step of L/‖∇L‖² would bring L, were it linear, to 0, and halves the error that L
    is the square of; it is taken as far as it does not exceed `scale`·(t − s) in root mean square, t − s being what the
    jump itself takes away of the noise. At z_s it is smaller by c_in(t)/c_in(s), which is what the jump would make of
    it if latents were Gaussian. Without that, calls of one or two steps end beyond what the decoder knows.

    Each inner step runs the network and the decoder once more, forwards and backwards.

    Args:
        objective: from `diffusers_soundctm.control`, a weighted sum of these, or any function of a `Sound` that returns
            one number a sample, 0 when it is met.
        scale: largest step, in units of the noise that a jump removes; a number, or a function of the noise level t.
            On the embedded model it does not bind from 0.2 on in 16 steps; in four, more ends in distorted sounds.
        inner_steps: gradient steps a level; more than one where there are few levels.
        start_sigma, stop_sigma: guide while stop_sigma ≤ t ≤ start_sigma.
        checkpointing: run the decoders twice rather than keep their activations.

    Attributes:
        losses: L (B,) at the first inner step of each guided level of the last call, before the step.
        num_skipped: how often in that call a sample was left alone because its gradient was not finite.

    Raises:
        ValueError, TypeError: an argument is out of range; at the first guided level, the objective returns NaN,
            something else than (B,), or has no gradient.

    Example:
        >>> louder = LossGuidance(IntensityObjective({0: -40, 5: -15}))
        >>> audio = pipe("rain on a tin roof", num_inference_steps=16, callback_on_step_end=louder).audios[0]
    """

    tensor_inputs = ("latents", *LookAhead.tensor_inputs)

    def __init__(
        self,
        objective: Callable[[Sound], torch.Tensor],
        scale: float | Callable[[float], float] = 0.2,
        inner_steps: int = 1,
        start_sigma: float = math.inf,
        stop_sigma: float = 0.0,
        checkpointing: bool = True,
    ):
        super().__init__()
        if not callable(objective):
            raise TypeError(f"`objective` is a {type(objective).__name__}; pass a function of a `Sound`.")
        if not callable(scale) and not 0 < scale < math.inf:
            raise ValueError(f"`scale` is {scale}; give a positive number, or a function of the noise level.")
        if not isinstance(inner_steps, int) or inner_steps < 1:
            raise ValueError(f"`inner_steps` is {inner_steps!r}; it must be an integer of at least 1.")
        if not 0 <= stop_sigma < start_sigma:
            raise ValueError(
                f"`stop_sigma` {stop_sigma} and `start_sigma` {start_sigma} must satisfy 0 ≤ stop < start."
            )
        self.objective, self.scale, self.inner_steps = objective, scale, inner_steps
        self.start_sigma, self.stop_sigma, self.checkpointing = start_sigma, stop_sigma, checkpointing
        self.losses: list[torch.Tensor] = []
        self.num_skipped = 0

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if step_index == 0:
            self.losses, self.num_skipped = [], 0
        sigma, next_sigma = pipeline.scheduler.sigmas[step_index : step_index + 2]
        if self.stop_sigma <= sigma <= self.start_sigma:
            scale = self.scale(sigma.item()) if callable(self.scale) else self.scale
            if not 0 <= scale < math.inf:
                raise ValueError(f"`scale` is {scale} at σ = {sigma:g}; its function must give 0 or more.")
            largest = scale * (sigma - next_sigma)
            with frozen(pipeline):
                displacement = self._displacement(pipeline, sigma, timestep, largest, callback_kwargs)
            config = pipeline.scheduler.config
            sizes = [c_in(level, config.prediction_type, config.sigma_data) for level in (sigma, next_sigma)]
            callback_kwargs["latents"] = callback_kwargs["latents"] + sizes[0] / sizes[1] * displacement
        if step_index == pipeline.num_timesteps - 1 and self.num_skipped:
            logger.warning(
                f"The gradient of {name_of(self.objective)} was not finite {self.num_skipped} times; there the sound "
                "went on without guidance."
            )
        return callback_kwargs

    def _displacement(self, pipeline, sigma, timestep, largest, tensors) -> torch.Tensor:
        """Where z_t should go, (B, C, time, width): the sum of the inner steps, each from where those before led."""
        look_ahead = LookAhead.of_call(pipeline, tensors)

        def decode(sample: torch.Tensor) -> Sound:
            ahead = look_ahead(sample, sigma, timestep)
            return Sound.of_latents(pipeline, ahead, pipeline.num_samples, self.checkpointing)

        start = tensors["previous_latents"]
        displacement = torch.zeros_like(start)
        for inner_step in range(self.inner_steps):
            loss, gradient = objective_gradient(decode, self.objective, start + displacement)
            if not self.losses:
                check_finite(loss, self.objective)
            if inner_step == 0:
                self.losses.append(loss)
            step, skipped = normalized_step(loss, gradient, largest)
            displacement = displacement - step
            self.num_skipped += skipped
        return displacement


def normalized_step(
    loss: torch.Tensor, gradient: torch.Tensor, largest: float | torch.Tensor
) -> tuple[torch.Tensor, int]:
    """ρ·∇L (B, ...) that would bring a linear L to 0, of root mean square `largest` at most; and how many were skipped.

    A loss below zero has no such step: its sample moves by `largest`. A sample whose loss or gradient is not finite
    does not move.
    """
    norm = per_sample_norm(gradient)
    loss = loss.reshape(norm.shape)
    usable = loss.isfinite() & norm.isfinite()
    longest = largest * math.sqrt(gradient[0].numel())
    length = torch.where(loss >= 0, (loss / norm).clamp(max=longest), longest)
    step = torch.where(usable & (norm > 0), length / norm * gradient, torch.zeros_like(gradient))
    return step, int((~usable).sum())


def callback_list(callback_on_step_end: PipelineCallback | MultiPipelineCallbacks | None) -> list[PipelineCallback]:
    """What `callback_on_step_end` adds to callbacks of ours; `TypeError` for a function, whose tensors are unknown."""
    if callback_on_step_end is None:
        return []
    if not hasattr(callback_on_step_end, "tensor_inputs"):
        raise TypeError(
            f"`callback_on_step_end` is a {type(callback_on_step_end).__name__}; pass a `PipelineCallback`, which says "
            "which tensors it needs."
        )
    return [callback_on_step_end]
