"""Seams: equal-power crossfades, joined waveforms, and loops whose end runs into their start."""

import math
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .sound import decode_waveform

FADE_IN_S = 0.05
GOLDEN_SECTION = (math.sqrt(5) - 1) / 2  # any number of its multiples modulo 1 lie far apart
LOOP_MARGIN_IN_S = 0.16  # decoded beyond each end of a loop, where decoders depend on neighbors


def crossfade(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Crossfade from `first` to `second`, both (..., samples), at constant power for any correlation r.

    The gains are cos θ/√(1 + r·sin 2θ) and sin θ/√(1 + r·sin 2θ) with θ from 0 to π/2. For unrelated waveforms this is
    the equal-power crossfade. Equal waveforms keep their level.
    """
    theta = torch.linspace(0, math.pi / 2, first.shape[-1], device=first.device)
    energy = (first.square().sum(dim=-1) * second.square().sum(dim=-1)).sqrt()
    correlation = (first * second).sum(dim=-1) / energy.clamp(min=1e-12)
    # Waveforms that cancel each other cannot be scaled to their level.
    correlation = correlation.clamp(min=-0.5)[..., None]
    return (theta.cos() * first + theta.sin() * second) / (1 + correlation * (2 * theta).sin()).sqrt()


def join(sounds: list[torch.Tensor], overlap: int, sampling_rate: int) -> torch.Tensor:
    """Join waveforms (..., samples), each of which starts with the content of the last `overlap` samples before it.

    The crossfade is in the middle of the overlap, because decoders are less accurate near the ends.
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
    """Generation of latents that loop, for use as `callback_on_step_end`.

    Time is a circle, and every step of the sampler cuts it open one golden section further. Networks generate a
    beginning and an end at a cut. With moving cuts, only the first step has its cut where the loop will start again,
    and no other point is cut often. No gradient is needed.

    The objective of a `LossGuidance` in the same call sees the rotated sound. It works if it does not depend on time,
    unlike a curve. The circle comprises all latents, so do not pass `audio_length_in_s` for Stable Audio.

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
        # Guidance that follows in the same call needs the sample before the step rotated alike.
        turned = {name: callback_kwargs[name] for name in ("latents", "previous_latents") if name in callback_kwargs}
        return callback_kwargs | {name: x.roll(cuts[0] - cuts[1], dims=2) for name, x in turned.items()}


@torch.no_grad()
def decode_loop(pipe: SoundCTMPipeline, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents to a waveform that loops seamlessly.

    The latents are continued beyond both ends for the decoders. Because the phase of a vocoder does not return to its
    start, the waveform continues past its end for 50 ms, which are crossfaded with its start.

    Args:
        pipe: The pipeline whose decoders are used.
        latents: z_0, (B, C, time, ...).

    Returns:
        (B, channels, samples), float32.
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
