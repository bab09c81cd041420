"""Noise optimization: find starting noise whose one-step sound meets an objective."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils import logging

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .gradients import LookAhead, check_finite, frozen, objective_gradient, per_sample_norm
from .objectives import evaluate, name_of
from .sound import Sound

logger = logging.get_logger(__name__)

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999  # Adam's β
# Optimization stops when no loss falls by this fraction over `patience` iterations.
IMPROVEMENT = 0.01


@torch.no_grad()
def optimize_noise(
    pipe: SoundCTMPipeline,
    prompt: str | list[str],
    objective: Callable[[Sound], torch.Tensor],
    num_iterations: int = 50,
    learning_rate: float = 0.02,
    patience: int = 10,
    audio_length_in_s: float | None = None,
    guidance_scale: float = 3.5,
    nu: float = 1.0,
    negative_prompt: str | list[str] | None = None,
    num_waveforms_per_prompt: int = 1,
    generator: torch.Generator | list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    checkpointing: bool = True,
    return_losses: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Optimize the starting noise with Adam, for each waveform on its own: ε ← argmin L(Dec(G(σ_max·ε, σ_max, σ_min))).

    The noise is projected back onto the Gaussian sphere, ‖ε‖ ≈ √d, after each step, so that its level remains σ_max.
    Adam has one second moment per waveform, so that steps follow the gradient and change the noise as little as
    possible. With one per coordinate, the noise would leave its distribution, and sampling in more than one step would
    lose the result. Each iteration costs one forward and backward pass of the network and the decoder.

    Args:
        pipe: The pipeline.
        prompt: One prompt or a list.
        objective: See `LossGuidance`.
        num_iterations: Largest number of Adam steps.
        learning_rate: Of Adam. Because the noise has unit variance, this is the fraction of it that a step may change.
        patience: Number of iterations without a loss that falls by 1 % after which optimization stops.
        audio_length_in_s: Duration in seconds. Pass this and the following four to the pipeline's call as well.
        guidance_scale: ω.
        nu: ν.
        negative_prompt: One negative prompt or a list.
        num_waveforms_per_prompt: Waveforms per prompt.
        generator: Source of the noise, one generator or one per waveform.
        latents: Unit-variance noise to start from, in place of noise from `generator`.
        checkpointing: Whether the backward pass runs the decoders again instead of keeping their activations.
        return_losses: Whether to return the losses as well.

    Returns:
        The best noise of each waveform, (B, C, time, width), which can be passed to the pipeline as `latents` with any
        number of steps. With `return_losses`, also L of each iterate, (iterations + 1, B). Row 0 is L before the first
        step, and the minimum of each column belongs to the returned noise.

    Raises:
        TypeError: `objective` is not a function or returns no tensor.
        ValueError: An argument is out of range, or the objective is NaN, not of shape (B,) or has no gradient.

    Example:
        >>> latents = optimize_noise(pipe, "rain on a tin roof", IntensityObjective({0: -40, 5: -15}))
        >>> audio = pipe("rain on a tin roof", latents=latents, num_inference_steps=16).audios[0]
    """
    _check_arguments(objective, num_iterations, patience, learning_rate)
    look_ahead, start = _call_once(
        pipe,
        prompt,
        audio_length_in_s=audio_length_in_s,
        guidance_scale=guidance_scale,
        nu=nu,
        negative_prompt=negative_prompt,
        num_waveforms_per_prompt=num_waveforms_per_prompt,
        generator=generator,
        latents=latents,
    )
    call = look_ahead.pipe
    sigma, timestep = call.scheduler.sigmas[0], call.scheduler.timesteps[0]

    def decode(noise: torch.Tensor) -> Sound:
        return Sound.of_latents(pipe, look_ahead(sigma * noise, sigma, timestep), call.num_samples, checkpointing)

    optimizer = _SphericalAdam(start / sigma, learning_rate)
    with frozen(pipe), pipe.progress_bar(total=num_iterations) as progress_bar:
        best, losses = _minimize(optimizer, decode, objective, num_iterations, patience, progress_bar)
    if optimizer.num_skipped:
        logger.warning(
            f"{optimizer.num_skipped} steps were skipped: the gradient of {name_of(objective)} was not finite."
        )
    return (best, losses) if return_losses else best


def _minimize(
    optimizer: "_SphericalAdam",
    decode: Callable[[torch.Tensor], Sound],
    objective: Callable[[Sound], torch.Tensor],
    num_iterations: int,
    patience: int,
    progress_bar: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best noise of each waveform, (B, ...), and the losses of all iterates, (iterations + 1, B)."""
    best = optimizer.noise.clone()
    best_loss = torch.full((len(best),), math.inf, device=best.device)
    losses, since_improvement = [], 0
    for iteration in range(num_iterations + 1):
        noise = optimizer.noise
        if iteration < num_iterations:
            loss, gradient = objective_gradient(decode, objective, noise)
        else:
            loss, gradient = evaluate(objective, decode(noise)), None
        if iteration == 0:
            check_finite(loss, objective)
        losses.append(loss)
        since_improvement = 0 if (loss < (1 - IMPROVEMENT) * best_loss).any() else since_improvement + 1
        better = loss < best_loss
        best[better], best_loss[better] = noise[better], loss[better]
        if iteration == num_iterations or since_improvement >= patience:
            break
        optimizer.step(loss, gradient)
        progress_bar.set_postfix(loss=f"{best_loss.mean().item():.3g}")
        progress_bar.update()
    return best, torch.stack(losses)


class _SphericalAdam:
    """Adam with one second moment per waveform, and a projection onto the sphere of the starting noise.

    Attributes:
        noise: (B, ...), the current iterate.
        num_skipped: How often a loss or gradient was not finite and counted as 0.
    """

    def __init__(self, noise: torch.Tensor, learning_rate: float):
        self.noise, self.learning_rate, self.radius = noise, learning_rate, per_sample_norm(noise)
        self.first, self.second = torch.zeros_like(noise), torch.zeros_like(self.radius)  # moments of the gradient
        self.num_steps = self.num_skipped = 0

    def step(self, loss: torch.Tensor, gradient: torch.Tensor) -> None:
        """Move `noise` against the gradient (B, ...) of the loss (B,)."""
        mean_square = per_sample_norm(gradient).square() / gradient[0].numel()
        usable = loss.isfinite().reshape(self.radius.shape) & mean_square.isfinite()
        self.num_skipped += int((~usable).sum())
        gradient, mean_square = (torch.where(usable, x, torch.zeros_like(x)) for x in (gradient, mean_square))
        self.num_steps += 1
        self.first = FIRST_DECAY * self.first + (1 - FIRST_DECAY) * gradient
        self.second = SECOND_DECAY * self.second + (1 - SECOND_DECAY) * mean_square
        mean = self.first / (1 - FIRST_DECAY**self.num_steps)
        square = self.second / (1 - SECOND_DECAY**self.num_steps)
        noise = self.noise - self.learning_rate * mean / square.sqrt().clamp(min=1e-12)
        self.noise = noise * (self.radius / per_sample_norm(noise))


def _check_arguments(objective: Callable, num_iterations: int, patience: int, learning_rate: float) -> None:
    if not callable(objective):
        raise TypeError(f"`objective` is a {type(objective).__name__}; pass a function of a `Sound`.")
    for name, value in (("num_iterations", num_iterations), ("patience", patience)):
        if not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; pass an integer of at least 1.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` is {learning_rate}; pass a positive number, such as 0.02.")


def _call_once(pipe: SoundCTMPipeline, prompt, **kwargs) -> tuple[LookAhead, torch.Tensor]:
    """Check and prepare all inputs by a one-step call. Returns its look-ahead and its z_T."""
    prepared: list[tuple[LookAhead, torch.Tensor]] = []

    def keep(call, step, timestep, tensors):
        prepared.append((LookAhead.of_call(call, tensors), tensors["previous_latents"]))
        return tensors

    pipe(
        prompt,
        output_type="latent",
        callback_on_step_end=keep,
        callback_on_step_end_tensor_inputs=LookAhead.tensor_inputs,
        **kwargs,
    )
    return prepared[0]
