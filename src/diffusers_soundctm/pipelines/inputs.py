"""The arguments of a call: checked before any work is done, and converted."""

import numbers
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import as_samples
from ..call_checks import (
    check_length,
    check_negatives,
    check_numbers,
    check_texts,
    is_finite_number,
    warn_long,
    warn_unused_negative,
)
from ..precision import is_precise, jump_error, rounding_factor
from ..schedulers.scheduling_ctm import CTMScheduler
from .conditioning import PromptConditioning, latent_channels

if TYPE_CHECKING:
    from .pipeline_soundctm import SoundCTMPipeline


def check_inputs(
    pipe: "SoundCTMPipeline",
    *,
    prompt: str | list[str] | None,
    audio_length_in_s: float | None,
    num_inference_steps: int,
    guidance_scale: float,
    nu: float,
    gamma: float,
    negative_prompt: str | list[str] | None,
    num_waveforms_per_prompt: int,
    sigmas: Sequence[float] | None,
    generator: torch.Generator | list[torch.Generator] | None,
    latents: torch.Tensor | None,
    prompt_embeds: torch.Tensor | None,
    negative_prompt_embeds: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    negative_attention_mask: torch.Tensor | None,
    initial_audio_waveforms: torch.Tensor | np.ndarray | None,
    initial_audio_sampling_rate: int | None,
    strength: float | None,
    output_type: str,
    callback_on_step_end: Callable[..., dict] | None,
    callback_on_step_end_tensor_inputs: Sequence[str],
) -> None:
    """Check the arguments of `SoundCTMPipeline.__call__`, and warn of those that have no effect or a bad one.

    `sigmas` are checked by `CTMScheduler.make_schedule`.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names argument, value and remedy.
    """
    check_scheduler(pipe.scheduler)
    check_prompts(
        pipe.conditioning,
        prompt,
        negative_prompt,
        prompt_embeds,
        negative_prompt_embeds,
        attention_mask,
        negative_attention_mask,
    )
    guidance_scale_range = pipe.config.guidance_scale_range
    check_numbers(num_inference_steps, num_waveforms_per_prompt, guidance_scale, nu, gamma, guidance_scale_range)
    warn_unused_negative(negative_prompt, nu)
    check_length(audio_length_in_s, pipe.max_audio_length_in_s)
    if output_type not in ("np", "pt", "latent"):
        raise ValueError(f"`output_type` is {output_type!r}; choose 'np', 'pt' or 'latent'.")
    if output_type != "latent" or latents is None or initial_audio_waveforms is not None:
        _check_decoder(pipe)
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise TypeError(f"`callback_on_step_end` is {callback_on_step_end!r}; pass a function or a `PipelineCallback`.")
    unknown = set(callback_on_step_end_tensor_inputs) - set(pipe._callback_tensor_inputs)
    if unknown:
        raise ValueError(
            f"`callback_on_step_end_tensor_inputs` has {sorted(unknown)}; choose from {pipe._callback_tensor_inputs}."
        )

    prompts = num_prompts(prompt, prompt_embeds)
    batch_size = prompts * num_waveforms_per_prompt
    _check_generator(generator, batch_size)
    if latents is not None:
        _check_latents(pipe, latents, batch_size, audio_length_in_s, initial_audio_waveforms is not None)
    _check_initial_audio(pipe, initial_audio_waveforms, initial_audio_sampling_rate, strength, sigmas, prompts)


def check_scheduler(scheduler: Any) -> None:
    """Raise `TypeError` unless `scheduler` is a `CTMScheduler`. Others have no jump between two noise levels."""
    if not isinstance(scheduler, CTMScheduler):
        raise TypeError(
            f"`scheduler` is a {type(scheduler).__name__}; a SoundCTM needs a `CTMScheduler`, such as the one that its "
            "folder holds."
        )


def check_precision(pipe: "SoundCTMPipeline", sigma: float, device: torch.device) -> None:
    """Check that the denoiser is precise enough for a jump from the first noise level σ of a call.

    Raises:
        ValueError: its dtype, or that of the surrounding `torch.autocast`, is too coarse.
    """
    dtype, where = pipe.denoiser.dtype, f"the denoiser is in {pipe.denoiser.dtype}"
    remedy = "Load it in float32; `from_pretrained` and `pipe.to` keep it so"
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
        where, remedy = f"the call is inside torch.autocast with {dtype}", "Leave out the autocast"
    prediction_type, factor = pipe.scheduler.config.prediction_type, rounding_factor(pipe.denoiser.config)
    if not is_precise(dtype, sigma, prediction_type, factor):
        error = jump_error(dtype, sigma, prediction_type, factor=factor)
        raise ValueError(
            f"The network predicts {prediction_type} and {where}: rounding would change a step from noise level "
            f"{sigma:.3g} by {error:.0%} of the latents' standard deviation. {remedy}."
        )


def num_prompts(prompt: str | list[str] | None, prompt_embeds: torch.Tensor | None) -> int:
    """Number of prompts of a call, from whichever of the two is given."""
    if isinstance(prompt, str):
        return 1
    return len(prompt) if prompt is not None else prompt_embeds.shape[0]


def num_samples(
    pipe: "SoundCTMPipeline",
    audio_length_in_s: float | None,
    latents: torch.Tensor | None = None,
    waveforms: torch.Tensor | np.ndarray | None = None,
    sampling_rate: int | None = None,
) -> int | None:
    """Samples per waveform of a call; None if the pipeline has no decoder. Warns beyond the training length."""
    if not pipe.has_decoder:
        return None
    if audio_length_in_s is None and latents is not None:
        samples = latents.shape[2] * pipe.vae_scale_factor * pipe.hop_length
    else:
        if audio_length_in_s is None and waveforms is not None:
            audio_length_in_s = min(waveforms.shape[-1] / sampling_rate, pipe.max_audio_length_in_s)
        if audio_length_in_s is None:
            audio_length_in_s = pipe.default_audio_length_in_s
        samples = max(round(audio_length_in_s * pipe.sampling_rate), 1)
    if pipe.denoiser.config.sample_size is not None:
        warn_long(samples / pipe.sampling_rate, pipe.default_audio_length_in_s, pipe.sampling_rate)
    return samples


def as_batch(waveforms: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Initial audio of any accepted shape as a tensor (batch, channels, samples)."""
    waveforms = as_samples(waveforms, "initial_audio_waveforms")
    return waveforms.reshape({1: (1, 1, -1), 2: (len(waveforms), 1, -1)}.get(waveforms.ndim, waveforms.shape))


def _check_decoder(pipe: "SoundCTMPipeline") -> None:
    for name in ("vae",) if pipe.encodes_waveforms else ("vae", "vocoder"):
        if getattr(pipe, name) is None:
            raise ValueError(f"The pipeline has no `{name}`; load it, or pass `latents` and `output_type='latent'`.")


def check_prompts(
    conditioning: PromptConditioning,
    prompt,
    negative_prompt,
    prompt_embeds,
    negative_prompt_embeds,
    attention_mask,
    negative_attention_mask,
) -> None:
    """Check prompts or their embeddings, of a call or of `encode_prompt`; raises as `check_inputs` does."""
    if (prompt is None) == (prompt_embeds is None):
        given = "neither" if prompt is None else "both"
        raise ValueError(f"The call has {given} of `prompt` and `prompt_embeds`; pass one of them.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("The call has both `negative_prompt` and `negative_prompt_embeds`; pass one of them.")
    check_texts("prompt", prompt)
    check_texts("negative_prompt", negative_prompt)
    for name, value in (
        ("prompt_embeds", prompt_embeds),
        ("negative_prompt_embeds", negative_prompt_embeds),
        ("attention_mask", attention_mask),
        ("negative_attention_mask", negative_attention_mask),
    ):
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"`{name}` is a {type(value).__name__}; pass a tensor, as `encode_prompt` returns it.")
    for name, embeds, mask in (
        ("prompt_embeds", prompt_embeds, attention_mask),
        ("negative_prompt_embeds", negative_prompt_embeds, negative_attention_mask),
    ):
        if embeds is None:
            if mask is not None:
                raise ValueError(f"The call has an attention mask without `{name}`; pass both or neither.")
            continue
        shape = tuple(embeds.shape)
        expected = "(batch, tokens, width)" if conditioning.prompt_embeds_ndim == 3 else "(batch, width)"
        if len(shape) != conditioning.prompt_embeds_ndim or shape[-1] != conditioning.width:
            raise ValueError(f"`{name}` has shape {shape}; it must be {expected} with width {conditioning.width}.")
        if 0 in shape:
            raise ValueError(f"`{name}` has shape {shape}, which is empty; encode at least one prompt.")
        if not torch.isfinite(embeds).all():
            raise ValueError(f"`{name}` contains NaN or infinite values; encode the prompt again, in float32.")
        if mask is not None and tuple(mask.shape) != shape[:2]:
            raise ValueError(f"The attention mask of `{name}` has shape {tuple(mask.shape)}; it must be {shape[:2]}.")
    prompts = num_prompts(prompt, prompt_embeds)
    check_negatives(negative_prompt, prompts)
    if negative_prompt_embeds is not None and negative_prompt_embeds.shape[0] not in (1, prompts):
        raise ValueError(
            f"`negative_prompt_embeds` has batch size {negative_prompt_embeds.shape[0]}; it must be 1 or {prompts}."
        )


def _check_generator(generator, batch_size: int) -> None:
    generators = generator if isinstance(generator, list) else [generator]
    if generator is not None and not all(isinstance(one, torch.Generator) for one in generators):
        raise TypeError(f"`generator` is {generator!r}; it must be a `torch.Generator` or a list of them.")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(
            f"`generator` is a list of {len(generator)}, but the call generates {batch_size} waveforms; pass one "
            "generator per waveform."
        )


def _check_latents(
    pipe: "SoundCTMPipeline", latents, batch_size: int, audio_length_in_s: float | None, with_initial_audio: bool
) -> None:
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"`latents` is a {type(latents).__name__}; pass a tensor of unit-variance noise.")
    if pipe.conditioning.fixed_length:
        _, time, *width = pipe.latent_shape(1)
    elif pipe.has_decoder:
        samples = 1 if audio_length_in_s is None else round(audio_length_in_s * pipe.sampling_rate)
        _, time, *width = pipe.latent_shape(samples)
        if audio_length_in_s is None:
            time = "time"
    else:
        time, *width = ("time", "width") if pipe.transformer is None else ("time",)
    shape, expected = tuple(latents.shape), (batch_size, latent_channels(pipe.denoiser.config), time, *width)
    fits = len(shape) == len(expected) and all(
        size > 0 and (size == wanted or isinstance(wanted, str)) for size, wanted in zip(shape, expected, strict=True)
    )
    if not fits:
        raise ValueError(f"`latents` has shape {shape}; this call needs ({', '.join(map(str, expected))}).")
    if with_initial_audio:
        # The latents of encoded audio have a multiple of the UNet's downsampling, which noise alone need not have.
        needed = pipe.latent_shape(num_samples(pipe, audio_length_in_s, latents))
        if shape[1:] != needed:
            raise ValueError(
                f"`latents` has shape {shape}; with `initial_audio_waveforms` this call needs {(batch_size, *needed)}."
            )
    if not torch.isfinite(latents).all():
        raise ValueError("`latents` contains NaN or infinite values; pass finite unit-variance noise.")


def _check_initial_audio(pipe: "SoundCTMPipeline", waveforms, sampling_rate, strength, sigmas, prompts: int) -> None:
    if waveforms is None:
        if strength is not None or sampling_rate is not None:
            name = "strength" if strength is not None else "initial_audio_sampling_rate"
            raise ValueError(f"`{name}` has no effect without `initial_audio_waveforms`; pass both or neither.")
        return
    if not isinstance(waveforms, (torch.Tensor, np.ndarray)):
        raise TypeError(
            f"`initial_audio_waveforms` is a {type(waveforms).__name__}; pass a tensor or array of shape "
            "(batch, channels, samples)."
        )
    shape = tuple(waveforms.shape)
    if not 1 <= len(shape) <= 3 or 0 in shape:
        raise ValueError(
            f"`initial_audio_waveforms` has shape {shape}; it must be (samples,), (batch, samples) or "
            "(batch, channels, samples) and not empty."
        )
    if not bool(torch.isfinite(as_samples(waveforms, "initial_audio_waveforms")).all()):
        raise ValueError("`initial_audio_waveforms` contains NaN or infinite values; pass finite samples in [-1, 1].")
    if len(shape) > 1 and shape[0] not in (1, prompts):
        raise ValueError(f"`initial_audio_waveforms` has batch size {shape[0]}; it must be 1 or {prompts}.")
    if not isinstance(sampling_rate, numbers.Integral) or sampling_rate <= 0:
        raise ValueError(
            f"`initial_audio_sampling_rate` is {sampling_rate!r}; pass the sampling rate of "
            "`initial_audio_waveforms` in Hz, for example 44100."
        )
    if 2 * waveforms.shape[-1] * pipe.sampling_rate < sampling_rate:
        raise ValueError(
            f"`initial_audio_waveforms` has shape {shape}, which is less than one sample at the model's sampling rate "
            f"({sampling_rate} → {pipe.sampling_rate} Hz); pass a longer waveform."
        )
    if strength is not None and not (is_finite_number(strength) and 0 < strength <= 1):
        raise ValueError(f"`strength` is {strength!r}; choose it in (0, 1]; 1 ignores `initial_audio_waveforms`.")
    if strength is not None and sigmas is not None:
        raise ValueError("`strength` and `sigmas` both set the first noise level; pass one of them.")
