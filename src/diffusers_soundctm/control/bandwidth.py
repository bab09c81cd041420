"""Bandwidth extension: the sound keeps what it has below a cutoff, and the model completes the rest."""

import math
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .guidance import LossGuidance, callback_list
from .objectives import MelMatchObjective
from .sound import SILENT_PEAK, output_gain, to_model_audio

TRANSITION_IN_OCTAVES = 1 / 3


@torch.no_grad()
def extend_bandwidth(
    pipe: SoundCTMPipeline,
    prompt: str | list[str],
    waveforms: torch.Tensor | np.ndarray,
    sampling_rate: int,
    cutoff: float,
    num_inference_steps: int = 16,
    scale: float = 0.05,
    callback_on_step_end: PipelineCallback | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Give a sound the frequencies above `cutoff` that it lacks.

    Sampling is guided to match the sound's mel below the cutoff. The result is the sound's own waveform below, the
    generated one above. What the sound has above the cutoff is not looked at.

    Args:
        waveforms: (samples,), (N, samples) or (N, channels, samples), N the number of prompts or 1; made mono unless
            the model has as many channels.
        sampling_rate: of the waveforms; another than the model's is resampled.
        cutoff: in Hz.
        scale: of the `LossGuidance`. A mel is never matched exactly; larger steps after the rest of it cost the upper
            band its level.
        callback_on_step_end: further guidance.
        kwargs: as in a call of the pipeline.

    Returns:
        Waveforms (B, channels, samples) at the model's rate and the sound's level, float32.

    Raises:
        ValueError, TypeError: an argument is wrong; the sound is silent below the cutoff.

    Example:
        >>> wide = extend_bandwidth(pipe, "applause", waveform, 8000, cutoff=3500)
    """
    known = to_model_audio(pipe, waveforms, sampling_rate)
    if not 0 < cutoff < pipe.sampling_rate / 2:
        raise ValueError(f"`cutoff` is {cutoff} Hz; choose it between 0 and {pipe.sampling_rate / 2:g}, half the rate.")
    known = split_bands(known, pipe.sampling_rate, cutoff)[0]
    if (known.abs().amax(dim=(1, 2)) < SILENT_PEAK).any():
        raise ValueError(f"`waveforms` are silent below `cutoff` {cutoff:g} Hz (peak below {SILENT_PEAK:g}).")
    gain = output_gain(pipe, known)
    objective = MelMatchObjective(((known / gain).mean(dim=1), pipe.sampling_rate), band=(0, cutoff))
    callbacks = [LossGuidance(objective, scale), *callback_list(callback_on_step_end)]
    generated = pipe(
        prompt,
        audio_length_in_s=known.shape[-1] / pipe.sampling_rate,
        num_inference_steps=num_inference_steps,
        output_type="pt",
        callback_on_step_end=MultiPipelineCallbacks(callbacks),
        **kwargs,
    ).audios
    repeats = len(generated) // len(known)
    known, gain = (x.repeat_interleave(repeats, dim=0).to(generated.device) for x in (known, gain))
    return known + split_bands(gain * generated, pipe.sampling_rate, cutoff)[1]


def split_bands(waveforms: torch.Tensor, sampling_rate: int, cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What is below and above `cutoff` Hz, each (..., samples), without a change of phase.

    Over the third of an octave below the cutoff, the squares of the gains add to 1: two unrelated sounds, one's lower
    and the other's upper band added, keep their level.
    """
    samples = waveforms.shape[-1]
    # Twice as long, so that the end does not run into the start.
    spectrum = torch.fft.rfft(waveforms.float(), 2 * samples)
    hertz = torch.linspace(0, sampling_rate / 2, spectrum.shape[-1], device=waveforms.device)
    octaves = (hertz.clamp(min=1e-3) / cutoff).log2() / TRANSITION_IN_OCTAVES + 1
    theta = octaves.clamp(0, 1) * math.pi / 2
    bands = (torch.fft.irfft(gain * spectrum, 2 * samples)[..., :samples] for gain in (theta.cos(), theta.sin()))
    return tuple(bands)
