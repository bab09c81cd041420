"""Loss-based guidance: at every step of the sampler, estimate the final sound and correct the latents."""

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from ..preconditioning import c_in
from .gradients import LookAhead, check_finite, frozen, objective_gradient, per_sample_norm
from .heads import LatentHeads
from .objectives import name_of
from .sound import Sound

logger = logging.get_logger(__name__)


class LossGuidance(PipelineCallback):
    """Guidance by the gradient of an objective, for use as `callback_on_step_end`. Each waveform is guided on its own:

        z_s = G(z_t, t, s) − ρ_t·∇_{z_t} L(Dec(ẑ_0)),      ẑ_0 = G(z_t, t, σ_min)

    The step is normalized. At z_t, its length is L/‖∇L‖, which brings a linear L to 0 and halves the error whose square
    is L. Its root mean square is limited to `scale`·(t − s), where t − s is the noise that the jump removes. At z_s, it
    is multiplied by c_in(t)/c_in(s), as the jump would do with Gaussian latents. Without this factor, calls with one or
    two steps leave the range that the decoder was trained on.

    Each inner step costs one more forward and backward pass of the network and the decoder.

    `LatentHeads` make this cheap where they read all that the objective measures. They read the final sound off z_s,
    and the network and the decoder take no part:

        z_s = G(z_t, t, s) − ρ_s·∇_{z_s} L(heads(z_s, s))

    Args:
        objective: An objective of `diffusers_soundctm.control`, a weighted sum of several, or any function of a `Sound`
            that returns one number per waveform, 0 when it is met.
        scale: Largest step in units of the noise that a jump removes, as a number or a function of the noise level t.
            With the embedded model, values above 0.2 change nothing in 16 steps and cause distortion in 4 steps.
        inner_steps: Gradient steps per noise level. Use more than one if there are few noise levels.
        start_sigma: Highest noise level that is guided.
        stop_sigma: Lowest noise level that is guided.
        heads: `LatentHeads` to use. "auto" takes those of the model, if it has some that read all that the objective
            measures. None always decodes.
        checkpointing: Whether the backward pass runs the decoders again instead of keeping their activations.

    Attributes:
        losses: L (B,) at each guided noise level of the last call, before its first inner step.
        num_skipped: How often in that call a gradient was not finite, so that its waveform was not guided.

    Raises:
        TypeError: `objective` is not a function. At the first guided level: it returns no tensor.
        ValueError: An argument is out of range. At the first guided level: the objective is NaN, has another shape than
            (B,) or has no gradient.

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
        heads: "LatentHeads | str | None" = "auto",
    ):
        super().__init__()
        if not callable(objective):
            raise TypeError(f"`objective` is a {type(objective).__name__}; pass a function of a `Sound`.")
        if not callable(scale) and not 0 < scale < math.inf:
            raise ValueError(f"`scale` is {scale}; pass a positive number, or a function of the noise level.")
        if not isinstance(inner_steps, numbers.Integral) or inner_steps < 1:
            raise ValueError(f"`inner_steps` is {inner_steps!r}; pass an integer of at least 1.")
        if not 0 <= stop_sigma < start_sigma:
            raise ValueError(
                f"`stop_sigma` is {stop_sigma} and `start_sigma` is {start_sigma}; choose 0 ≤ stop_sigma < start_sigma."
            )
        self.objective, self.scale, self.inner_steps = objective, scale, inner_steps
        if isinstance(heads, str) and heads != "auto":
            raise ValueError(f"`heads` is {heads!r}; pass `LatentHeads`, 'auto' or None.")
        if isinstance(heads, LatentHeads) and not heads.can_read(objective):
            raise ValueError(f"`heads` do not read all that `objective` {name_of(objective)} measures; pass None.")
        self.start_sigma, self.stop_sigma, self.checkpointing = start_sigma, stop_sigma, checkpointing
        self.heads = heads
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
                raise ValueError(f"`scale` returned {scale} at σ = {sigma:g}; return a finite number of 0 or more.")
            largest = scale * (sigma - next_sigma)
            heads = self._heads_of(pipeline)
            guide = self._by_decoding if heads is None else partial(self._by_reading, heads)
            with frozen(pipeline):
                displacement = guide(pipeline, (sigma, next_sigma), timestep, largest, callback_kwargs)
            callback_kwargs["latents"] = callback_kwargs["latents"] + displacement
        if step_index == pipeline.num_timesteps - 1 and self.num_skipped:
            logger.warning(
                f"The gradient of {name_of(self.objective)} was not finite {self.num_skipped} times. Those steps were "
                "not guided."
            )
        return callback_kwargs

    def _heads_of(self, pipeline: SoundCTMPipeline) -> LatentHeads | None:
        if not isinstance(self.heads, str):
            return self.heads
        heads = LatentHeads.of_pipeline(pipeline)
        return heads if heads is not None and heads.can_read(self.objective) else None

    def _by_decoding(self, pipeline, sigmas, timestep, largest, tensors) -> torch.Tensor:
        """The correction of z_s by the gradient at z_t through network and decoder, (B, C, time, width)."""
        look_ahead = LookAhead.of_call(pipeline, tensors)

        def decode(sample: torch.Tensor) -> Sound:
            ahead = look_ahead(sample, sigmas[0], timestep)
            return Sound.of_latents(pipeline, ahead, pipeline.num_samples, self.checkpointing)

        displacement = self._displacement(decode, tensors["previous_latents"], largest)
        config = pipeline.scheduler.config
        sizes = [c_in(level, config.prediction_type, config.sigma_data) for level in sigmas]
        return sizes[0] / sizes[1] * displacement

    def _by_reading(self, heads, pipeline, sigmas, timestep, largest, tensors) -> torch.Tensor:
        """The correction of z_s by the gradient at z_s through the heads."""
        level = sigmas[1].clamp(min=pipeline.scheduler.config.sigma_min)
        read = partial(heads.sound, pipeline, sigma=level, num_samples=pipeline.num_samples)
        return self._displacement(read, tensors["latents"], largest)

    def _displacement(self, decode, start: torch.Tensor, largest) -> torch.Tensor:
        """Sum of the gradient steps from `start`. Each begins where the previous one ends."""
        displacement = torch.zeros_like(start)
        for number in range(self.inner_steps):
            loss, gradient = objective_gradient(decode, self.objective, start + displacement)
            if not self.losses:
                check_finite(loss, self.objective)
            if number == 0:
                self.losses.append(loss)
            step, skipped = normalized_step(loss, gradient, largest)
            displacement = displacement - step
            self.num_skipped += skipped
        return displacement


def normalized_step(
    loss: torch.Tensor, gradient: torch.Tensor, largest: float | torch.Tensor
) -> tuple[torch.Tensor, int]:
    """Compute the step ρ·∇L that brings a linear L to 0, with a root mean square of at most `largest`.

    If L is negative, no such step exists, and the step has the root mean square `largest`. If L or ∇L is not finite,
    the step is 0.

    Args:
        loss: L, (B,).
        gradient: ∇L, (B, ...).
        largest: Limit of the root mean square.

    Returns:
        The steps (B, ...), and the number of those that are 0 because they are not finite.
    """
    norm = per_sample_norm(gradient)
    loss = loss.reshape(norm.shape)
    usable = loss.isfinite() & norm.isfinite()
    longest = largest * math.sqrt(gradient[0].numel())
    length = torch.where(loss >= 0, (loss / norm).clamp(max=longest), longest)
    step = torch.where(usable & (norm > 0), length / norm * gradient, torch.zeros_like(gradient))
    return step, int((~usable).sum())


def callback_list(callback_on_step_end: PipelineCallback | MultiPipelineCallbacks | None) -> list[Any]:
    """Return `callback_on_step_end` as a list, to be chained with further callbacks.

    Raises:
        TypeError: It is a plain function, which does not say which tensors it needs.
    """
    if callback_on_step_end is None:
        return []
    if not hasattr(callback_on_step_end, "tensor_inputs"):
        raise TypeError(
            f"`callback_on_step_end` is a {type(callback_on_step_end).__name__}; pass a `PipelineCallback`, which "
            "names the tensors that it needs."
        )
    return [callback_on_step_end]
