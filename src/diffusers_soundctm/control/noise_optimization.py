"""Noise optimisation: find the starting noise whose one-step sound meets an objective, then sample from it as usual."""

import math
from collections.abc import Callable

import torch
from diffusers.utils import logging

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .gradients import LookAhead, check_finite, frozen, objective_gradient, per_sample_norm
from .objectives import evaluate, name_of
from .sound import Sound

logger = logging.get_logger(__name__)

FIRST_DECAY, SECOND_DECAY = 0.9, 0.999  # Adam's β
# An objective that falls by less than this share over `patience` iterations has stopped falling.
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
    """ε ← argmin L(Dec(G(σ_max·ε, σ_max, σ_min))) by Adam, each sample for itself.

    The prior stays honest: after each step, ε goes back to the sphere it was drawn on, ‖ε‖ ≈ √d, so that the network
    sees noise of the level it is told; and Adam has one second moment a sample, so that steps go along the gradient and
    change no more of the noise than they must. (With one a coordinate all of them move alike, and out of the noise's
    distribution: other steps than the one that was optimised lose the sound.) Each iteration runs the network and the
    decoder forwards and backwards once.

    Args:
        objective: see `LossGuidance`.
        num_iterations: most steps of Adam.
        learning_rate: of Adam; the noise has unit variance, so this is the share of it that a step may change.
        patience: stop when over so many iterations no sample's loss fell by a hundredth.
        latents: unit-variance noise to start from, in place of one drawn from `generator`.
        checkpointing: run the decoders twice rather than keep their activations.
        return_losses: also return the losses.
        audio_length_in_s, guidance_scale, nu, negative_prompt, num_waveforms_per_prompt, generator: as in a call of the
            pipeline; give the same to the call that samples from the result.

    Returns:
        Of each sample the best noise met, (B, C, time, width), to be passed as `latents` to the pipeline with any
        number of steps; with `return_losses` also L of each iterate, (iterations + 1, B): row 0 is before, and the
        minimum of each column is what the returned noise has in one step.

    Raises:
        ValueError, TypeError: an argument is wrong, or the objective returns NaN, something else than (B,), or has no
            gradient; the message names it.

    Example:
        >>> latents = optimize_noise(pipe, "rain on a tin roof", IntensityObjective({0: -40, 5: -15}))
        >>> audio = pipe("rain on a tin roof", latents=latents, num_inference_steps=16).audios[0]
    """
    if not callable(objective):
        raise TypeError(f"`objective` is a {type(objective).__name__}; pass a function of a `Sound`.")
    for name, value in (("num_iterations", num_iterations), ("patience", patience)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least 1.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"`learning_rate` is {learning_rate}; give a positive number, such as 0.02.")
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

    noise = start / sigma
    radius = per_sample_norm(noise)
    first, second = torch.zeros_like(noise), torch.zeros_like(radius)  # moments of the gradient
    best, best_loss = noise.clone(), torch.full((len(noise),), math.inf, device=noise.device)
    losses, num_skipped, since_improvement = [], 0, 0

    with frozen(pipe), pipe.progress_bar(total=num_iterations) as progress_bar:
        for iteration in range(num_iterations + 1):
            if iteration < num_iterations:
                loss, gradient = objective_gradient(decode, objective, noise)
            else:
                loss = evaluate(objective, decode(noise))
            if iteration == 0:
                check_finite(loss, objective)
            losses.append(loss)
            since_improvement = 0 if (loss < (1 - IMPROVEMENT) * best_loss).any() else since_improvement + 1
            better = loss < best_loss
            best[better], best_loss[better] = noise[better], loss[better]
            if iteration == num_iterations or since_improvement >= patience:
                break

            mean_square = per_sample_norm(gradient).square() / gradient[0].numel()
            usable = loss.isfinite().reshape(radius.shape) & mean_square.isfinite()
            num_skipped += int((~usable).sum())
            gradient, mean_square = (torch.where(usable, x, torch.zeros_like(x)) for x in (gradient, mean_square))
            first = FIRST_DECAY * first + (1 - FIRST_DECAY) * gradient
            second = SECOND_DECAY * second + (1 - SECOND_DECAY) * mean_square
            mean, square = first / (1 - FIRST_DECAY ** (iteration + 1)), second / (1 - SECOND_DECAY ** (iteration + 1))
            noise = noise - learning_rate * mean / square.sqrt().clamp(min=1e-12)
            noise = noise * (radius / per_sample_norm(noise))
            progress_bar.set_postfix(loss=f"{best_loss.mean().item():.3g}")
            progress_bar.update()

    if num_skipped:
        logger.warning(
            f"The gradient of {name_of(objective)} was not finite {num_skipped} times; there the noise was left alone."
        )
    return (best, torch.stack(losses)) if return_losses else best


def _call_once(pipe: SoundCTMPipeline, prompt, **kwargs) -> tuple[LookAhead, torch.Tensor]:
    """Let a one-step call check and prepare everything: its look-ahead and its z_T."""
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
