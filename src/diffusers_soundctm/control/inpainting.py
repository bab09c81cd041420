"""Inpainting, continuation and long sounds: the known part is restored after every jump, and the rest is generated."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils.torch_utils import randn_tensor

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .guidance import LossGuidance, callback_list
from .masks import over_time, parse_latents, parse_mask, parse_spans
from .objectives import LatentMatchObjective
from .seams import FADE_IN_S, crossfade, join
from .sound import SILENT_PEAK, decode_waveform, output_gain, to_model_audio


class KnownRegion(PipelineCallback):
    """Replacement of the known region after every jump, for use as `callback_on_step_end`:

        z ← m·(z_0 + noise) + (1 − m)·z,      m = 1 where the audio is known

    The noise is that of the sampler at this point: s_i·ε after the jump, where ε is the starting noise of the call,
    plus, for γ > 0, fresh noise up to σ_{i+1}. If a `MultiPipelineCallbacks` also holds a `LossGuidance`, put this
    callback last.

    Args:
        latents: z_0, (N, C, time, ...), from `pipe.encode_audio`. N is the batch size or divides it.
        mask: (time,), 1 for known positions and 0 for positions to generate.
        generator: Source of the fresh noise, used if γ > 0.

    Raises:
        ValueError: The latents or the mask have a wrong shape or range, the mask is zero everywhere, or the latents do
            not match those of the call.
    """

    tensor_inputs = ("latents", "previous_latents")

    def __init__(
        self,
        latents: torch.Tensor,
        mask: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ):
        super().__init__()
        self.latents = parse_latents(latents)
        self.mask = parse_mask(mask, latents.shape[2])
        if self.mask.max() > 1:
            raise ValueError(f"`mask` goes up to {self.mask.max():g}; pass 1 for known positions, 0 for others.")
        self.generator = generator
        self._noise: torch.Tensor | None = None

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        latents, scheduler = callback_kwargs["latents"], pipeline.scheduler
        if latents.shape[1:] != self.latents.shape[1:] or len(latents) % len(self.latents):
            raise ValueError(
                f"`latents` of the known region has shape {tuple(self.latents.shape)}, but those of the call have "
                f"{tuple(latents.shape)}; encode audio of the same duration."
            )
        known = self.latents.to(latents.device).repeat_interleave(len(latents) // len(self.latents), dim=0)
        if step_index == 0:
            self._noise = (callback_kwargs["previous_latents"] - known) / scheduler.sigmas[0]
        noise = scheduler.target_sigmas[step_index] * self._noise
        if scheduler.gamma > 0 and step_index + 1 < pipeline.num_timesteps:
            level, target = scheduler.sigmas[step_index + 1], scheduler.target_sigmas[step_index]
            fresh = randn_tensor(latents.shape, self.generator, latents.device, torch.float32)
            noise = noise + (level**2 - target**2).clamp(min=0).sqrt() * fresh
        self._noise = noise / scheduler.sigmas[step_index + 1]
        mask = over_time(self.mask, latents)
        return callback_kwargs | {"latents": mask * (known + noise) + (1 - mask) * latents}


@torch.no_grad()
def inpaint(
    pipe: SoundCTMPipeline,
    prompt: str | list[str],
    waveforms: torch.Tensor | np.ndarray,
    sampling_rate: int,
    spans: Sequence[tuple[float, float]] | None = None,
    audio_length_in_s: float | None = None,
    num_inference_steps: int = 16,
    seam_scale: float = 0.0,
    callback_on_step_end: PipelineCallback | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Generate audio in the spans and beyond the end of waveforms, to fit the surrounding audio.

    The waveforms keep their level and, outside the spans, their samples. Seams are equal-power crossfades over 50 ms
    outside the spans. Audio inside the spans is ignored.

    Args:
        pipe: The pipeline.
        prompt: One prompt or a list.
        waveforms: (samples,), (N, samples) or (N, channels, samples), where N is 1 or the number of prompts. They are
            mixed to mono unless the model has as many channels.
        sampling_rate: Of the waveforms, in Hz. They are resampled to the model's rate.
        spans: (start, end) pairs in seconds to generate.
        audio_length_in_s: Duration of the result in seconds. What exceeds the waveforms is generated as their
            continuation. None means the duration of the waveforms.
        num_inference_steps: Number of steps.
        seam_scale: `scale` of a `LossGuidance` that pulls the rest towards a fit with the known latents. 0 disables it
            and needs no gradients.
        callback_on_step_end: Further guidance, which acts before the known part is restored.
        generator: Source of the noise, one generator or one per waveform.
        kwargs: Further arguments of the pipeline's call.

    Returns:
        Waveforms (B, channels, samples) at the model's sampling rate, float32.

    Raises:
        TypeError: `callback_on_step_end` is a plain function.
        ValueError: An argument is out of range, the waveforms are silent, or nothing or everything would be generated.

    Example:
        >>> fixed = inpaint(pipe, "rain on a tin roof", waveform, 16000, spans=[(2.0, 3.0)])
        >>> longer = inpaint(pipe, "rain on a tin roof", waveform[:, :32000], 16000, audio_length_in_s=5)
    """
    known, holes = _known(pipe, waveforms, sampling_rate, spans, audio_length_in_s)
    num_samples = known.shape[-1]
    filled = mirror_fill(known, holes)
    if (filled.abs().amax(dim=(1, 2)) < SILENT_PEAK).any():
        raise ValueError(f"`waveforms` are silent (peak below {SILENT_PEAK:g}) outside `spans`; pass audible audio.")
    z_0 = pipe.encode_audio(filled, pipe.sampling_rate, num_samples)

    position = pipe.vae_scale_factor * pipe.hop_length
    # Nothing is known beyond the end.
    mask = (torch.arange(z_0.shape[2]) < num_samples / position).float()
    for start, end in holes:
        # The encoding of a position next to a hole depends on what fills the hole.
        mask[max(start // position - 1, 0) : math.ceil(end / position) + 1] = 0
    if not mask.any():
        raise ValueError("`spans` leave hardly anything of the audio; leave at least three latent positions.")

    callbacks = callback_list(callback_on_step_end)
    if seam_scale:
        callbacks.append(LossGuidance(LatentMatchObjective(z_0, mask), scale=seam_scale))
    generated = pipe(
        prompt,
        audio_length_in_s=num_samples / pipe.sampling_rate,
        num_inference_steps=num_inference_steps,
        generator=generator,
        output_type="pt",
        callback_on_step_end=MultiPipelineCallbacks([*callbacks, KnownRegion(z_0, mask, generator)]),
        **kwargs,
    ).audios
    repeats = len(generated) // len(known)
    known, gain = (x.repeat_interleave(repeats, dim=0).to(generated.device) for x in (known, output_gain(pipe, filled)))
    return _paste(known, gain * generated, holes, round(FADE_IN_S * pipe.sampling_rate))


@torch.no_grad()
def generate_long(
    pipe: SoundCTMPipeline,
    prompt: str | list[str],
    audio_length_in_s: float,
    overlap_in_s: float = 1.0,
    num_inference_steps: int = 16,
    seam_scale: float = 0.0,
    callback_on_step_end: PipelineCallback | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Generate audio of any duration, in pieces of the model's own duration, each a continuation of the previous one.

    The latents at the end of a piece are the known beginning of the next one, so that the level continues. The
    waveforms are crossfaded at equal power within the overlap.

    Args:
        pipe: The pipeline.
        prompt: One prompt, or a list of prompts that follow each other for about the same number of pieces.
        audio_length_in_s: Duration of the result in seconds.
        overlap_in_s: Overlap of two pieces in seconds, rounded to latent positions, at most half a piece.
        num_inference_steps: Number of steps.
        seam_scale: See `inpaint`.
        callback_on_step_end: Further guidance. It acts on every piece on its own, so that a curve starts again.
        generator: Source of the noise, one generator or one per waveform.
        kwargs: Further arguments of the pipeline's call.

    Returns:
        Waveforms (`num_waveforms_per_prompt`, channels, samples) at the model's sampling rate, float32.

    Raises:
        TypeError: `callback_on_step_end` is a plain function.
        ValueError: A duration is out of range, or there are more prompts than pieces.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not 0 < audio_length_in_s < math.inf:
        raise ValueError(f"`audio_length_in_s` is {audio_length_in_s}; pass a positive duration in seconds.")
    piece_in_s = pipe.default_audio_length_in_s
    if not 0 < overlap_in_s <= piece_in_s / 2:
        raise ValueError(
            f"`overlap_in_s` is {overlap_in_s}; pass more than 0 and at most {piece_in_s / 2:g}, half a piece."
        )
    if not prompts:
        raise ValueError("`prompt` is an empty list; pass at least one string.")
    rate, position = pipe.sampling_rate, pipe.vae_scale_factor * pipe.hop_length
    num_samples = round(audio_length_in_s * rate)
    length = pipe.latent_shape(round(piece_in_s * rate))[1]
    overlap = max(round(overlap_in_s * rate / position), 1)
    count = max(math.ceil((num_samples / position - overlap) / (length - overlap)), 1)
    if len(prompts) > count:
        needed = ((len(prompts) - 1) * (length - overlap) + overlap) * position / rate
        raise ValueError(
            f"`prompt` has {len(prompts)} strings, but {audio_length_in_s:g} s have {count} pieces; make "
            f"`audio_length_in_s` longer than {needed:g} s, or pass fewer prompts."
        )
    mask = (torch.arange(length) < overlap).float()

    pieces: list[torch.Tensor] = []
    z_0: Any = None
    for piece in range(count):
        callbacks = callback_list(callback_on_step_end)
        if z_0 is not None:
            known = z_0.roll(overlap, dims=2)
            if seam_scale:
                callbacks.append(LossGuidance(LatentMatchObjective(known, mask), scale=seam_scale))
            callbacks.append(KnownRegion(known, mask, generator))
        z_0 = pipe(
            prompts[piece * len(prompts) // count],
            audio_length_in_s=length * position / rate,
            num_inference_steps=num_inference_steps,
            generator=generator,
            output_type="latent",
            callback_on_step_end=MultiPipelineCallbacks(callbacks),
            **kwargs,
        ).audios
        pieces.append(decode_waveform(pipe, z_0))
    return join(pieces, overlap * position, rate)[..., :num_samples]


def mirror_fill(waveforms: torch.Tensor, holes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Fill holes [start, end) of waveforms (..., samples) with their mirrored surroundings, crossfaded left to right.

    The encoding of a position depends on its neighbors. Mirrored audio is closer to what will be there than silence.
    """
    waveforms = waveforms.clone()
    starts, ends = [start for start, _ in holes], [end for _, end in holes]
    edges = zip([0, *ends[:-1]], holes, [*starts[1:], waveforms.shape[-1]], strict=True)
    for left_edge, (start, end), right_edge in edges:
        left, right = waveforms[..., left_edge:start], waveforms[..., end:right_edge]
        fade = torch.linspace(0, 1, end - start, device=waveforms.device)
        if right.shape[-1] == 0:
            fade = torch.zeros_like(fade)
        elif left.shape[-1] == 0:
            fade = torch.ones_like(fade)
        mirrored = _bounce(left, end - start), _bounce(right.flip(-1), end - start).flip(-1)
        waveforms[..., start:end] = torch.lerp(*mirrored, fade)
    return waveforms


def _bounce(waveforms: torch.Tensor, length: int) -> torch.Tensor:
    """Read (..., n) backwards from the end, then forwards from the start, and so on, for `length` samples."""
    if waveforms.shape[-1] == 0:
        return waveforms.new_zeros(*waveforms.shape[:-1], length)
    period = torch.cat([waveforms.flip(-1), waveforms], dim=-1)
    repeats = math.ceil(length / period.shape[-1])
    return torch.cat([period] * repeats, dim=-1)[..., :length]


def _known(
    pipe: SoundCTMPipeline, waveforms, sampling_rate, spans, audio_length_in_s
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Waveforms (N, channels, samples) at the model's rate and of the result's duration, and their holes in samples."""
    waveforms = to_model_audio(pipe, waveforms, sampling_rate)
    rate, given = pipe.sampling_rate, waveforms.shape[-1]
    if audio_length_in_s is None:
        audio_length_in_s = given / rate
    longest = pipe.max_audio_length_in_s
    if not 0 < audio_length_in_s <= longest:
        raise ValueError(
            f"`audio_length_in_s` is {audio_length_in_s:g}, but a call generates at most {longest:g} s; cut the audio, "
            "or use `generate_long`."
        )
    unknown = torch.zeros(round(audio_length_in_s * rate), dtype=torch.bool)
    unknown[given:] = True
    for start, end in [] if spans is None else parse_spans(spans):
        if start * rate >= len(unknown):
            raise ValueError(f"`spans` start at {start:g} s, but the audio ends at {audio_length_in_s:g} s; move them.")
        unknown[round(start * rate) : round(end * rate)] = True
    if not unknown.any():
        raise ValueError("There is nothing to generate; pass `spans` or a longer `audio_length_in_s`.")
    if unknown.all():
        raise ValueError("`spans` cover the whole audio; make them shorter, or call the pipeline.")
    edges = torch.nn.functional.pad(unknown.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
    known = torch.nn.functional.pad(waveforms, (0, max(len(unknown) - given, 0)))[..., : len(unknown)]
    return known, list(zip(edges[::2], edges[1::2], strict=True))


def _paste(known: torch.Tensor, generated: torch.Tensor, holes: Sequence[tuple[int, int]], fade: int) -> torch.Tensor:
    """Fill the holes of `known` (B, channels, samples) from `generated`. The crossfades lie outside the holes."""
    result = known.clone()
    previous_end = 0
    for i, (start, end) in enumerate(holes):
        next_start = holes[i + 1][0] if i + 1 < len(holes) else known.shape[-1]
        # Two holes share the audio between them.
        before, after = min(fade, (start - previous_end) // 2), min(fade, (next_start - end) // 2)
        result[..., start:end] = generated[..., start:end]
        left, right = slice(start - before, start), slice(end, end + after)
        result[..., left] = crossfade(known[..., left], generated[..., left])
        result[..., right] = crossfade(generated[..., right], known[..., right])
        previous_end = end
    return result
