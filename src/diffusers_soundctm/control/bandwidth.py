"""Bandwidth extension: the audio below a cutoff is kept, and the model generates the rest."""

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
    """Generate the frequencies above a cutoff.

    Sampling is guided to match the mel of the waveforms below the cutoff. The result consists of the given waveforms
    below the cutoff and the generated ones above. Audio above the cutoff is ignored.

    Args:
        pipe: The pipeline.
        prompt: One prompt or a list.
        waveforms: (samples,), (N, samples) or (N, channels, samples), where N is 1 or the number of prompts. They are
            mixed to mono unless the model has as many channels.
        sampling_rate: Of the waveforms, in Hz. They are resampled to the model's rate.
        cutoff: In Hz, less than half the model's sampling rate.
        num_inference_steps: Number of steps.
        scale: `scale` of the `LossGuidance`. A mel is never matched exactly, and larger steps make the upper band too
            quiet.
        callback_on_step_end: Further guidance.
        kwargs: Further arguments of the pipeline's call.

    Returns:
        Waveforms (B, channels, samples) at the model's sampling rate and the given level, float32.

    Raises:
        TypeError: `callback_on_step_end` is a plain function.
        ValueError: An argument is out of range, or the waveforms are silent below the cutoff.

    Example:
        >>> wide = extend_bandwidth(pipe, "applause", waveform, 8000, cutoff=3500)
    """
    known = to_model_audio(pipe, waveforms, sampling_rate)
    if not 0 < cutoff < pipe.sampling_rate / 2:
        raise ValueError(f"`cutoff` is {cutoff} Hz; choose more than 0 and less than {pipe.sampling_rate / 2:g} Hz.")
    known = split_bands(known, pipe.sampling_rate, cutoff)[0]
    if (known.abs().amax(dim=(1, 2)) < SILENT_PEAK).any():
        raise ValueError(f"`waveforms` are silent below `cutoff` {cutoff:g} Hz; pass audible audio or raise it.")
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
    """Split waveforms (..., samples) into the bands below and above `cutoff` Hz, without a phase shift.

    In the third of an octave below the cutoff, the squared gains of both bands add up to 1. Thus the lower band of one
    waveform and the upper band of an unrelated one can be added without a change of level.
    """
    samples = waveforms.shape[-1]
    # Zero-padded to twice the length, so that the end does not run into the start.
    spectrum = torch.fft.rfft(waveforms.float(), 2 * samples)
    hertz = torch.linspace(0, sampling_rate / 2, spectrum.shape[-1], device=waveforms.device)
    octaves = (hertz.clamp(min=1e-3) / cutoff).log2() / TRANSITION_IN_OCTAVES + 1
    theta = octaves.clamp(0, 1) * math.pi / 2
    bands = (torch.fft.irfft(gain * spectrum, 2 * samples)[..., :samples] for gain in (theta.cos(), theta.sin()))
    return tuple(bands)
