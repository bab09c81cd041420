"""Holes, continuations and long sounds: what is known is put back after every jump, the rest is generated to fit."""

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
    """Known-region replacement: z ← m·(z_0 + noise) + (1 − m)·z after every jump, m = 1 where the sound is known.

    The noise is what the sampler would have left there: s_i·ε after the jump, ε being the noise the call started from,
    and if γ > 0 fresh noise up to σ_{i+1}. With a `LossGuidance` in one `MultiPipelineCallbacks`, put this one last.

    Args:
        latents: z_0, (N, C, time, ...), as `pipe.encode_audio` gives them; N is the batch or divides it.
        mask: (time,), 1 for known positions, 0 for those to be generated.
        generator: source of the fresh noise, used if γ > 0.

    Raises:
        ValueError: latents or mask of a wrong shape or range, a mask of zeros, or latents that the call's do not match.
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
            raise ValueError(f"`mask` goes up to {self.mask.max():g}; 1 is known, 0 is to be generated.")
        self.generator = generator
        self._noise: torch.Tensor | None = None

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        latents, scheduler = callback_kwargs["latents"], pipeline.scheduler
        if latents.shape[1:] != self.latents.shape[1:] or len(latents) % len(self.latents):
            raise ValueError(
                f"`latents` of the known region have shape {tuple(self.latents.shape)}, but those of the call "
                f"{tuple(latents.shape)}."
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
    """Generate what lies in the spans and beyond the end of a sound, to fit what is around it.

    The sound keeps its level and, outside the spans, its own samples; the seams are faded at equal power, over 50 ms
    outside the spans. What the spans hold is not looked at.

    Args:
        waveforms: (samples,), (N, samples) or (N, channels, samples), N the number of prompts or 1; made mono unless
            the model has as many channels.
        sampling_rate: of the waveforms; another than the model's is resampled.
        spans: (start, end) pairs in seconds of what to generate.
        audio_length_in_s: length of the result; beyond the waveforms' end, it is generated: their continuation. By
            default as long as the waveforms.
        seam_scale: the known sound also pulls at the rest through the look-ahead: `scale` of a `LossGuidance` towards
            it; 0 for replacement alone, which needs no gradients.
        callback_on_step_end: further guidance; it acts before the known part is put back.
        generator, kwargs: as in a call of the pipeline.

    Returns:
        Waveforms (B, channels, samples) at the model's rate, float32.

    Raises:
        ValueError, TypeError: an argument is wrong; a sound is silent; nothing or everything would be generated.

    Example:
        >>> fixed = inpaint(pipe, "rain on a tin roof", waveform, 16000, spans=[(2.0, 3.0)])
        >>> longer = inpaint(pipe, "rain on a tin roof", waveform[:, :32000], 16000, audio_length_in_s=5)
    """
    known, holes = _known(pipe, waveforms, sampling_rate, spans, audio_length_in_s)
    num_samples = known.shape[-1]
    filled = mirror_fill(known, holes)
    if (filled.abs().amax(dim=(1, 2)) < SILENT_PEAK).any():
        raise ValueError(f"`waveforms` are silent (peak below {SILENT_PEAK:g}) outside `spans`; nothing can follow.")
    z_0 = pipe.encode_audio(filled, pipe.sampling_rate, num_samples)

    position = pipe.vae_scale_factor * pipe.hop_length
    # What lies beyond the end is cut off: nothing is known of it.
    mask = (torch.arange(z_0.shape[2]) < num_samples / position).float()
    for start, end in holes:
        # A position next to a hole was encoded with what fills the hole in sight.
        mask[max(start // position - 1, 0) : math.ceil(end / position) + 1] = 0
    if not mask.any():
        raise ValueError("`spans` leave hardly anything of the sound; leave at least three latent positions.")

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
    """A sound of any length, in pieces of the model's own length, each the continuation of the one before.

    The latents of a piece's end are the known beginning of the next, so that the level goes on; where the two depict
    the same, their waveforms are faded at equal power.

    Args:
        prompt: what to hear; of a list, one after the other, each for as many pieces as the others, or one more.
        audio_length_in_s: length of the result.
        overlap_in_s: what a piece knows of the one before, rounded to whole latent positions.
        seam_scale, callback_on_step_end: see `inpaint`; they act in every piece, a curve would start anew.
        generator, kwargs: as in a call of the pipeline.

    Returns:
        Waveforms (`num_waveforms_per_prompt`, channels, samples), float32.

    Raises:
        ValueError: a length is not positive, the overlap leaves nothing of a piece, or there are more prompts than
            pieces.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not 0 < audio_length_in_s < math.inf:
        raise ValueError(f"`audio_length_in_s` is {audio_length_in_s}; give a positive length.")
    piece_in_s = pipe.default_audio_length_in_s
    if not 0 < overlap_in_s <= piece_in_s / 2:
        raise ValueError(
            f"`overlap_in_s` is {overlap_in_s}; give more than 0 and at most {piece_in_s / 2:g}, half a piece."
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
            f"`prompt` has {len(prompts)} strings, but {audio_length_in_s:g} s are {count} pieces; make the sound "
            f"longer than {needed:g} s or give fewer."
        )
    mask = (torch.arange(length) < overlap).float()

    pieces, z_0 = [], None
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
    """Waveforms (..., samples) whose holes [start, end) hold their surroundings mirrored, faded from left to right.

    An autoencoder sees past the edge of what it encodes; this is nearer to what will be there than silence.
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
    """Read backwards from the end, then forwards from the start, and so on: (..., n) → (..., length)."""
    if waveforms.shape[-1] == 0:
        return waveforms.new_zeros(*waveforms.shape[:-1], length)
    period = torch.cat([waveforms.flip(-1), waveforms], dim=-1)
    repeats = math.ceil(length / period.shape[-1])
    return torch.cat([period] * repeats, dim=-1)[..., :length]


def _known(
    pipe: SoundCTMPipeline, waveforms, sampling_rate, spans, audio_length_in_s
) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Waveforms (N, channels, samples) at the model's rate, of the result's length; the holes in them, in samples."""
    waveforms = to_model_audio(pipe, waveforms, sampling_rate)
    rate, given = pipe.sampling_rate, waveforms.shape[-1]
    if audio_length_in_s is None:
        audio_length_in_s = given / rate
    longest = pipe.max_audio_length_in_s
    if not 0 < audio_length_in_s <= longest:
        raise ValueError(
            f"`audio_length_in_s` is {audio_length_in_s:g}; a call makes at most {longest:g} s: cut the sound, or "
            "continue it with `generate_long`."
        )
    unknown = torch.zeros(round(audio_length_in_s * rate), dtype=torch.bool)
    unknown[given:] = True
    for start, end in [] if spans is None else parse_spans(spans):
        if start * rate >= len(unknown):
            raise ValueError(f"`spans` begin at {start:g} s, but the sound ends at {audio_length_in_s:g} s.")
        unknown[round(start * rate) : round(end * rate)] = True
    if not unknown.any():
        raise ValueError("Nothing is left to generate; pass `spans`, or a longer `audio_length_in_s`.")
    if unknown.all():
        raise ValueError("`spans` cover the whole sound; leave some of it, or call the pipeline.")
    edges = torch.nn.functional.pad(unknown.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
    known = torch.nn.functional.pad(waveforms, (0, max(len(unknown) - given, 0)))[..., : len(unknown)]
    return known, list(zip(edges[::2], edges[1::2], strict=True))


def _paste(known: torch.Tensor, generated: torch.Tensor, holes: Sequence[tuple[int, int]], fade: int) -> torch.Tensor:
    """`known` (B, channels, samples) with its holes from `generated`; the fades lie outside the holes."""
    result = known.clone()
    previous_end = 0
    for i, (start, end) in enumerate(holes):
        next_start = holes[i + 1][0] if i + 1 < len(holes) else known.shape[-1]
        # Two holes share what lies between them.
        before, after = min(fade, (start - previous_end) // 2), min(fade, (next_start - end) // 2)
        result[..., start:end] = generated[..., start:end]
        left, right = slice(start - before, start), slice(end, end + after)
        result[..., left] = crossfade(known[..., left], generated[..., left])
        result[..., right] = crossfade(generated[..., right], known[..., right])
        previous_end = end
    return result
