"""Variations of a draft's noise, prompts that change over time, and the distance of a final from its draft."""

import hashlib
import math
import numbers
from typing import Any

import torch
from diffusers.callbacks import PipelineCallback
from diffusers.utils.torch_utils import randn_tensor

from .. import audio
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .gradients import LookAhead, per_sample_norm
from .masks import over_time

DRIFT_RANGE = math.log(1000)  # 60 dB


def vary(
    latents: torch.Tensor,
    amount: float,
    num_variations: int = 1,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Rotate noise by an angle of `amount`·90°, so that its cosine similarity with `latents` is cos(amount·π/2).

    Variations move along great circles of the sphere on which Gaussian noise lies. With the same generator, other
    amounts are other points on the same path.

    Args:
        latents: Unit-variance noise ε of the draft, (B, C, time, width) or (B, C, time).
        amount: From 0, the draft itself, to 1, unrelated noise.
        num_variations: Number of variations per draft.
        generator: Source of the directions, one generator or one per variation.

    Returns:
        (B·num_variations, C, time, ...). Variations of the same draft are neighbors.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> noise = torch.randn(1, *pipe.latent_shape(81920))
        >>> audios = pipe([prompt] * 4, latents=vary(noise, 0.3, num_variations=4)).audios
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"`amount` is {amount}; choose a number from 0 (the draft) to 1 (an unrelated sound).")
    if not isinstance(num_variations, numbers.Integral) or num_variations < 1:
        raise ValueError(f"`num_variations` is {num_variations!r}; pass an integer of at least 1.")
    latents = audio.to_tensor(latents, "latents")
    if latents.ndim not in (3, 4) or not latents.isfinite().all() or not latents.any():
        raise ValueError(
            f"`latents` has shape {tuple(latents.shape)}; pass finite noise, (B, C, time, width) or (B, C, time), "
            "that is not zero."
        )
    latents = latents.float().repeat_interleave(num_variations, dim=0)
    if isinstance(generator, list) and len(generator) != len(latents):
        raise ValueError(f"`generator` has {len(generator)} entries; pass {len(latents)}, one per variation.")
    radius = per_sample_norm(latents)
    fresh = randn_tensor(latents.shape, generator, latents.device, torch.float32)
    along = (fresh * latents).flatten(1).sum(dim=1).reshape(radius.shape) / radius.square()
    fresh = fresh - along * latents
    fresh = fresh * (radius / per_sample_norm(fresh))
    angle = amount * math.pi / 2
    return math.cos(angle) * latents + math.sin(angle) * fresh


class PromptMorph(PipelineCallback):
    """A prompt that changes to another one over time, for use as `callback_on_step_end`:

        z_s = (1 − w)·G(z_t, c) + w·G(z_t, c′),      w from 0 to 1 over time

    Each step costs two more evaluations of the network. A `LossGuidance` in the same call looks ahead with the prompt c
    of the call.

    Args:
        prompt: c′, the prompt at the end, one for all or one per prompt of the call.
        start_in_s: Time in seconds until which w is 0.
        end_in_s: Time in seconds from which w is 1. None means the end of the audio.

    Raises:
        ValueError: The times do not satisfy 0 ≤ start_in_s < end_in_s. At the first step: the number of prompts does
            not divide the batch size.
    """

    tensor_inputs = ("latents", *LookAhead.tensor_inputs)

    def __init__(self, prompt: str | list[str], start_in_s: float = 0.0, end_in_s: float | None = None):
        super().__init__()
        if not 0 <= start_in_s < (math.inf if end_in_s is None else end_in_s):
            raise ValueError(f"`start_in_s` is {start_in_s} and `end_in_s` is {end_in_s}; choose 0 ≤ start < end.")
        self.prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self.start_in_s, self.end_in_s = start_in_s, end_in_s
        self._positive: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def callback_fn(
        self, pipeline: SoundCTMPipeline, step_index: int, timestep: torch.Tensor, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        sample, scheduler = callback_kwargs["previous_latents"], pipeline.scheduler
        if step_index == 0:
            if not pipeline.has_decoder and (self.start_in_s or self.end_in_s is not None):
                raise ValueError(
                    "`start_in_s` and `end_in_s` are seconds, which the pipeline cannot tell without its decoder; load "
                    "the `vae` (and the `vocoder`, if the model has one), or leave them out."
                )
            if len(sample) % len(self.prompts):
                raise ValueError(
                    f"`prompt` has {len(self.prompts)} strings for {len(sample)} waveforms; pass one per prompt."
                )
            repeats = len(sample) // len(self.prompts)
            self._positive = pipeline.encode_prompt(
                self.prompts,
                sample.device,
                repeats,
                do_nu_sampling=False,
                audio_length_in_s=self._seconds(pipeline),
            )[:2]

        here = LookAhead.of_call(pipeline, callback_kwargs)
        target_sigma = scheduler.target_sigmas[step_index]
        model_input = scheduler.scale_model_input(sample, timestep)
        from_here, to_there = (
            scheduler.jump(
                pipeline.predict(
                    model_input, timestep, target_sigma, here.guidance_scale, here.nu, positive, here.negative
                ),
                sample,
                scheduler.sigmas[step_index],
                target_sigma,
            )
            for positive in (here.positive, self._positive)
        )
        weight = over_time(self._weight(pipeline, sample.shape[2]), sample)
        return callback_kwargs | {"latents": callback_kwargs["latents"] + weight * (to_there - from_here)}

    def _seconds(self, pipeline: SoundCTMPipeline) -> float | None:
        """Duration of the call; None if the pipeline has no decoder, which defines the length of a latent position."""
        return pipeline.num_samples / pipeline.sampling_rate if pipeline.has_decoder else None

    def _weight(self, pipeline: SoundCTMPipeline, length: int) -> torch.Tensor:
        if not pipeline.has_decoder:
            return (torch.arange(length) + 0.5) / length
        seconds = (
            (torch.arange(length) + 0.5) * pipeline.vae_scale_factor * pipeline.hop_length / pipeline.sampling_rate
        )
        end = self._seconds(pipeline) if self.end_in_s is None else self.end_in_s
        return ((seconds - self.start_in_s) / (end - self.start_in_s)).clamp(0, 1)


def noise_hash(latents: torch.Tensor) -> str:
    """Hash starting latents to 16 hexadecimal digits, independent of their device and dtype."""
    values = audio.to_tensor(latents, "latents").detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]


def drift(draft: torch.Tensor, final: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """Distance of a final sound from its draft, about 0 for the same sound and about 1 for unrelated sounds.

    It is 1 − the correlation of their log-mels, in frames of 0.1 s and down to 60 dB below their maxima. Levels do not
    count.

    Args:
        draft: Waveform (..., samples).
        final: Waveform (..., samples).
        sampling_rate: Of both, in Hz.

    Returns:
        (...).

    Raises:
        ValueError: A waveform is silent, not finite or shorter than 0.1 s, or the shapes differ.
    """
    pictures = []
    audio.check_rate(sampling_rate)
    draft, final = audio.as_samples(draft, "draft"), audio.as_samples(final, "final")
    if draft.ndim == 0 or draft.shape[:-1] != final.shape[:-1]:
        raise ValueError(
            f"`draft` has shape {tuple(draft.shape)} and `final` {tuple(final.shape)}; pass (..., samples) of the same "
            "batch and channels."
        )
    samples = min(draft.shape[-1], final.shape[-1])
    if samples < 0.1 * sampling_rate:
        raise ValueError(
            f"`draft` and `final` have {samples} samples at {sampling_rate} Hz in common; pass 0.1 s or more."
        )
    for name, sound in (("draft", draft), ("final", final)):
        sound = sound[..., :samples].float()
        if not (sound.isfinite().all() and sound.abs().amax(dim=-1).gt(0).all()):
            raise ValueError(f"`{name}` is silent or not finite; pass an audible waveform.")
        mel = audio.log_mel(audio.peak_normalize(sound), sampling_rate=sampling_rate, hop_length=sampling_rate // 100)
        mel = torch.maximum(mel, mel.amax(dim=(-1, -2), keepdim=True) - DRIFT_RANGE)
        picture = mel[..., : mel.shape[-2] // 10 * 10, :].unflatten(-2, (-1, 10)).mean(dim=-2).flatten(-2)
        pictures.append(picture - picture.mean(dim=-1, keepdim=True))
    return 1 - torch.nn.functional.cosine_similarity(*pictures, dim=-1)
