"""From a recipe to its sound: one call of the library for each kind, the same calls that `python_code` writes down."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from ..control import CircularTime, IntensityObjective, LossGuidance, PromptMorph, decode_loop, inpaint, vary
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .recipe import CURVE_INNER_STEPS, Noise, Recipe, Upload

StepObserver = Callable[[int, int], bool]


class Cancelled(Exception):
    """Somebody pressed Cancel."""


class Observer(PipelineCallback):
    """Calls `on_step(done, of)` after each step; where that returns False, the pipeline skips the remaining ones."""

    tensor_inputs = ("latents",)

    def __init__(self, on_step: StepObserver):
        super().__init__()
        self.on_step = on_step

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if not self.on_step(step_index + 1, pipeline.num_timesteps):
            pipeline._interrupt = True
        return callback_kwargs


def starting_noise(pipe: SoundCTMPipeline, noise: Noise, duration: float, generator: torch.Generator) -> torch.Tensor:
    """Latents (1, C, time, ...) of a sound of `duration` seconds; `generator` has just been given the seed."""
    shape = pipe.latent_shape(round(duration * pipe.sampling_rate))
    latents = torch.randn(1, *shape, generator=generator)
    for amount, seed in noise.variations:
        latents = vary(latents, amount, generator=torch.Generator().manual_seed(seed))
    return latents


def blend_over_time(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Noise that is `first` at the beginning and `second` at the end, (B, C, time, ...), of unit variance between."""
    angle = torch.linspace(0, math.pi / 2, first.shape[2]).view(-1, *[1] * (first.ndim - 3))
    return angle.cos() * first + angle.sin() * second


def render(
    pipe: SoundCTMPipeline,
    recipe: Recipe,
    sources: Callable[[Recipe | Upload], torch.Tensor | None] = lambda source: None,
    on_step: StepObserver | None = None,
) -> torch.Tensor:
    """The sound, float32 (channels, samples) on the CPU.

    Args:
        sources: the samples, (channels, samples) at the model's rate, of a sound to start from; None for a recipe that
            has to be rendered first.
        on_step: called after each step with how many are done and how many there are; False to cancel.

    Raises:
        Cancelled: `on_step` returned False.
        ValueError, TypeError: the library refuses an argument.
    """
    is_cancelled = False

    def observed(done: int, of: int) -> bool:
        nonlocal is_cancelled
        is_cancelled = on_step is not None and not on_step(done, of)
        return not is_cancelled

    source = None
    if recipe.source is not None:
        source = sources(recipe.source)
        if source is None:
            source = render(pipe, recipe.source, sources, on_step)

    generator = torch.Generator().manual_seed(recipe.noise.seed)
    latents = starting_noise(pipe, recipe.noise, recipe.duration, generator)
    call = {
        "audio_length_in_s": recipe.duration,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.omega,
        "nu": recipe.nu,
        "gamma": recipe.gamma,
        "negative_prompt": recipe.negative_prompt or None,
        "generator": generator,
    }
    observer = Observer(observed)
    if source is not None:
        sound = inpaint(
            pipe,
            recipe.prompt,
            source[None],
            pipe.sampling_rate,
            spans=list(recipe.spans) or None,
            latents=latents,
            callback_on_step_end=observer,
            **call,
        )
    elif recipe.loop:
        callbacks = MultiPipelineCallbacks([CircularTime(), observer])
        if pipe.conditioning.needs_audio_length:
            call["audio_length_in_s"] = None  # the loop is the model's whole window, and the model has to know
        z_0 = pipe(recipe.prompt, latents=latents, output_type="latent", callback_on_step_end=callbacks, **call).audios
        sound = None if is_cancelled else decode_loop(pipe, z_0)
    else:
        callbacks = [observer]
        if recipe.curve:
            objective = IntensityObjective(list(recipe.curve))
            callbacks.insert(0, LossGuidance(objective, scale=recipe.strength, inner_steps=CURVE_INNER_STEPS))
        if recipe.morph is not None:
            other = torch.Generator().manual_seed(recipe.morph.noise.seed)
            latents = blend_over_time(latents, starting_noise(pipe, recipe.morph.noise, recipe.duration, other))
            if recipe.morph.prompt != recipe.prompt:
                callbacks.insert(0, PromptMorph(recipe.morph.prompt))
        callbacks = MultiPipelineCallbacks(callbacks)
        sound = pipe(recipe.prompt, latents=latents, output_type="pt", callback_on_step_end=callbacks, **call).audios
    if is_cancelled:
        raise Cancelled("Cancelled.")
    return sound[0].float().cpu()
