"""Joining sounds: crossfades of equal power, and loops whose end runs into their start."""

import math
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .sound import decode_waveform

FADE_IN_S = 0.05
GOLDEN_SECTION = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 lie far apart, however many there are
LOOP_MARGIN_IN_S = 0.16  # decoded beyond each end of a loop: what a decoder sees of a neighbour


def crossfade(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """From `first` to `second`, both (..., samples), at constant power whatever their correlation r.

    Gains are cos θ and sin θ, θ from 0 to π/2, over √(1 + r·sin 2θ): for unrelated sounds the equal-power fade, for
    equal ones their own level.
    """
    theta = torch.linspace(0, math.pi / 2, first.shape[-1], device=first.device)
    energy = (first.square().sum(dim=-1) * second.square().sum(dim=-1)).sqrt()
    correlation = (first * second).sum(dim=-1) / energy.clamp(min=1e-12)
    # Sounds that cancel each other cannot be brought to their level.
    correlation = correlation.clamp(min=-0.5)[..., None]
    return (theta.cos() * first + theta.sin() * second) / (1 + correlation * (2 * theta).sin()).sqrt()


def join(sounds: list[torch.Tensor], overlap: int, sampling_rate: int) -> torch.Tensor:
    """Sounds (..., samples), each of which begins with the last `overlap` samples' content of the one before, as one.

    The change-over is in the middle of the overlap, away from the ends that decoders know less of.
    """
    fade = min(round(FADE_IN_S * sampling_rate), overlap)
    before = (overlap - fade) // 2
    after = overlap - fade - before
    joined = sounds[0]
    for sound in sounds[1:]:
        kept = joined.shape[-1] - overlap + before
        seam = crossfade(joined[..., kept : kept + fade], sound[..., before : before + fade])
        joined = torch.cat([joined[..., :kept], seam, sound[..., overlap - after :]], dim=-1)
    return joined


class CircularTime(PipelineCallback):
    """Makes latents that loop: time is a circle, which every step of the sampler cuts open a golden section further.

    So only the first step has its cut where the loop's join will be, and other places are hardly cut twice: networks
    give sounds a beginning and an end where they are cut. Needs no gradient. An objective of a `LossGuidance` in the
    same call sees the turned sound: one that does not depend on when things happen can be combined, a curve cannot. The
    circle is all of the latents: leave `audio_length_in_s` alone with Stable Audio.

    Example:
        >>> z_0 = pipe(prompt, num_inference_steps=16, output_type="latent", callback_on_step_end=CircularTime()).audios
        >>> loop = decode_loop(pipe, z_0)
    """

    tensor_inputs = ("latents",)

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        length, next_step = callback_kwargs["latents"].shape[2], (step_index + 1) % pipeline.num_timesteps
        cuts = [round(length * (step * GOLDEN_SECTION % 1)) for step in (step_index, next_step)]
        # A guidance that follows in the same call has to find the sample before the step turned alike.
        turned = {name: callback_kwargs[name] for name in ("latents", "previous_latents") if name in callback_kwargs}
        return callback_kwargs | {name: x.roll(cuts[0] - cuts[1], dims=2) for name, x in turned.items()}


@torch.no_grad()
def decode_loop(pipe: SoundCTMPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Latents z_0 (B, C, time, ...) → waveforms (B, channels, samples) that may be played round and round without a
    click.

    The decoders hear the start after the end and the end before the start; as a vocoder's phase does not come back to
    where it was, the sound runs on for a moment past its end, over which it fades into its start.
    """
    position = pipe.vae_scale_factor * pipe.hop_length
    margin = min(math.ceil(LOOP_MARGIN_IN_S * pipe.sampling_rate / position), latents.shape[2])
    around = torch.cat([latents[:, :, -margin:], latents, latents[:, :, :margin]], dim=2)
    waveform = decode_waveform(pipe, around)
    start, end = margin * position, (margin + latents.shape[2]) * position
    fade = min(round(FADE_IN_S * pipe.sampling_rate), start, end - start)
    loop = waveform[..., start:end].clone()
    loop[..., :fade] = crossfade(waveform[..., end : end + fade], loop[..., :fade])
    return loop
