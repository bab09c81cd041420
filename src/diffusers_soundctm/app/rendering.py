"""Make the waveform of a recipe. `code_export` writes the same library calls down as a script."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from .. import audio
from ..control import CircularTime, IntensityObjective, LossGuidance, PromptMorph, decode_loop, inpaint, vary
from ..lora import activate
from ..pipelines.pipeline_output import SoundCTMPipelineOutput
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .recipe import CURVE_INNER_STEPS, Noise, Recipe, Upload

StepObserver = Callable[[int, int], bool]
SILENCE = 1e-9
Sources = Callable[[Recipe | Upload], torch.Tensor | None]


class Cancelled(Exception):
    """The person who asked for the sound cancelled it."""

    def __init__(self):
        super().__init__("Cancelled.")


class Observer(PipelineCallback):
    """Pipeline callback that calls `on_step(done, total)` after each step.

    Once `on_step` returns False, the pipeline skips the remaining steps.
    """

    tensor_inputs = ("latents",)

    def __init__(self, on_step: StepObserver | None):
        super().__init__()
        self.on_step = on_step
        self.is_cancelled = False

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if self.on_step is not None and not self.on_step(step_index + 1, pipeline.num_timesteps):
            self.is_cancelled = pipeline._interrupt = True
        return callback_kwargs


def starting_noise(pipe: SoundCTMPipeline, noise: Noise, duration: float, generator: torch.Generator) -> torch.Tensor:
    """Draw the starting noise of a sound.

    Args:
        pipe: Pipeline that the noise is for.
        noise: Its variations are applied; its seed must already be set on `generator`.
        duration: Length of the sound in seconds.
        generator: Random generator, advanced by this call.

    Returns:
        Noise of unit variance, shape (1, C, time, ...).
    """
    shape = pipe.latent_shape(round(duration * pipe.sampling_rate))
    latents = torch.randn(1, *shape, generator=generator)
    for amount, seed in noise.variations:
        latents = vary(latents, amount, generator=torch.Generator().manual_seed(seed))
    return latents


def blend_over_time(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return noise (B, C, time, ...) that turns from `first` into `second` over time, with unit variance throughout."""
    angle = torch.linspace(0, math.pi / 2, first.shape[2]).view(-1, *[1] * (first.ndim - 3))
    return angle.cos() * first + angle.sin() * second


def render(
    pipe: SoundCTMPipeline,
    recipe: Recipe,
    sources: Sources = lambda source: None,
    on_step: StepObserver | None = None,
) -> tuple[torch.Tensor, float]:
    """Make the waveform of a recipe.

    Args:
        pipe: The model.
        recipe: What to make.
        sources: Returns the waveform (channels, samples) of a sound to start from, at the model's sampling rate. None
            stands for a recipe that is not rendered yet; it is rendered first.
        on_step: Called after each step with the numbers of finished and of all steps. It returns False to cancel.

    Returns:
        Waveform (channels, samples), float32, on the CPU, and by how many dB it was turned down. Sounds from noise
        leave 1 dB of headroom.

    Raises:
        Cancelled: `on_step` returned False.
        ValueError: The library rejects an argument.
        TypeError: The library rejects an argument.
    """
    source = None
    if recipe.source is not None:
        source = sources(recipe.source)
        if source is None:
            source, _ = render(pipe, recipe.source, sources, on_step)
    activate(pipe, recipe.lora)
    generator = torch.Generator().manual_seed(recipe.noise.seed)
    call = {
        "latents": starting_noise(pipe, recipe.noise, recipe.duration, generator),
        "audio_length_in_s": recipe.duration,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.omega,
        "nu": recipe.nu,
        "gamma": recipe.gamma,
        "negative_prompt": recipe.negative_prompt or None,
        "generator": generator,
    }
    observer = Observer(on_step)
    turned_down_db = 0.0
    if source is not None:
        waveform = _render_from_source(pipe, recipe, source, observer, call)
    elif recipe.loop:
        waveform = _render_loop(pipe, recipe, observer, call)
    else:
        output = _render_from_noise(pipe, recipe, observer, call)
        waveform, (turned_down_db,) = output.audios, output.turned_down_db
    if observer.is_cancelled:
        raise Cancelled
    waveform = waveform[0].float().cpu()
    if source is not None:  # what is not filled keeps the level of the source
        return waveform, turned_down_db
    lower = audio.leave_headroom(waveform)
    headroom_db = 20 * math.log10(max(waveform.abs().max().item(), SILENCE) / max(lower.abs().max().item(), SILENCE))
    return lower, turned_down_db + headroom_db


def _render_from_source(
    pipe: SoundCTMPipeline, recipe: Recipe, source: torch.Tensor, observer: Observer, call: dict[str, Any]
) -> torch.Tensor:
    return inpaint(
        pipe,
        recipe.prompt,
        source[None],
        pipe.sampling_rate,
        spans=list(recipe.spans) or None,
        callback_on_step_end=observer,
        **call,
    )


def _render_loop(pipe: SoundCTMPipeline, recipe: Recipe, observer: Observer, call: dict[str, Any]) -> torch.Tensor:
    if pipe.conditioning.fixed_length:
        # A model that is conditioned on the length would end the sound there. A loop fills the whole window instead.
        call = call | {"audio_length_in_s": None}
    callbacks = MultiPipelineCallbacks([CircularTime(), observer])
    z_0 = pipe(recipe.prompt, output_type="latent", callback_on_step_end=callbacks, **call).audios
    return z_0 if observer.is_cancelled else decode_loop(pipe, z_0)


def _render_from_noise(
    pipe: SoundCTMPipeline, recipe: Recipe, observer: Observer, call: dict[str, Any]
) -> SoundCTMPipelineOutput:
    callbacks: list[PipelineCallback] = [observer]
    if recipe.curve:
        objective = IntensityObjective(list(recipe.curve))
        callbacks.insert(0, LossGuidance(objective, scale=recipe.strength, inner_steps=CURVE_INNER_STEPS))
    if recipe.sketch is not None:
        objective = recipe.sketch.objective()
        callbacks.insert(0, LossGuidance(objective, scale=recipe.strength, inner_steps=CURVE_INNER_STEPS))
    if recipe.morph is not None:
        generator = torch.Generator().manual_seed(recipe.morph.noise.seed)
        last = starting_noise(pipe, recipe.morph.noise, recipe.duration, generator)
        call = call | {"latents": blend_over_time(call["latents"], last)}
        if recipe.morph.prompt != recipe.prompt:
            callbacks.insert(0, PromptMorph(recipe.morph.prompt))
    callbacks = MultiPipelineCallbacks(callbacks)
    return pipe(recipe.prompt, output_type="pt", callback_on_step_end=callbacks, **call)
