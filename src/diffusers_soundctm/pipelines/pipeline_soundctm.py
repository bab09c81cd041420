"""Text to audio with a SoundCTM student: prompt → latents → jumps along the trajectory → mel → waveform."""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..precision import full_float32
from ..preconditioning import karras_sigma
from ..schedulers.scheduling_ctm import CTMSchedule, CTMScheduler
from . import inputs
from .conditioning import is_transformer
from .conditioning.base import pad_tokens
from .loading import SoundCTMLoaderMixin
from .pipeline_output import SoundCTMPipelineOutput
from .prompts import PromptMixin
from .waveforms import WaveformMixin

logger = logging.get_logger(__name__)

DEFAULT_STRENGTH = 0.5
_CONDITIONS = ("prompt_embeds", "attention_mask", "negative_prompt_embeds", "negative_attention_mask")


class SoundCTMPipeline(SoundCTMLoaderMixin, PromptMixin, WaveformMixin, DiffusionPipeline):
    """Text-to-audio pipeline for SoundCTM students (arXiv 2405.18503) of AudioLDM, MusicLDM, AudioLDM2, Tango, Stable
    Audio and the embedded model, and for the authors' own students at 16 and 44.1 kHz.

    Components may be None for calls that do not need them. Threads may use one pipeline at the same time.

    Args:
        vae: mel autoencoder, or waveform autoencoder such as `AutoencoderDAC` or Stable Audio's; see `WaveformMixin`.
        text_encoder: T5- or BERT-like encoder (cross-attention), `ClapTextModelWithProjection` (AudioLDM and 44.1 kHz
            SoundCTM v1), `ClapTextModel` (v2) or `ClapModel` (MusicLDM, AudioLDM2).
        tokenizer: tokenizer of `text_encoder`.
        unet: student of a UNet teacher; it takes (s, ω) as `timestep_cond`.
        scheduler: noise levels, targets and the jump.
        vocoder: log-mels (B, frames, n_mels) → waveforms (B, samples). None with a waveform autoencoder.
        guidance_scale_range: smallest and largest ω that the student was distilled with. It is kept in the denoiser's
            configuration too. Empty takes it from there.
        text_encoder_2: T5 encoder of AudioLDM2.
        tokenizer_2: tokenizer of `text_encoder_2`.
        projection_model: AudioLDM2's projection of its two text encoders, or Stable Audio's of text and duration.
        language_model: GPT-2 of AudioLDM2.
        transformer: student of a transformer teacher, in place of `unet`.
        duration_embedder: Stable Audio 3's embedding of the length.
        condition_encoder: ACE-Step's encoder of text, lyrics and timbre.

    Raises:
        ValueError: both `unet` and `transformer` are given.
        TypeError: `scheduler` is not a `CTMScheduler`.
    """

    config: Any  # diffusers gives it no useful type
    scheduler: CTMScheduler
    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->projection_model->language_model->duration_embedder->"
        "condition_encoder->unet->transformer->vae->vocoder"
    )
    _optional_components = [  # noqa: RUF012
        "unet",
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "vocoder",
        "text_encoder_2",
        "tokenizer_2",
        "projection_model",
        "language_model",
        "duration_embedder",
        "condition_encoder",
    ]
    _callback_tensor_inputs = ["latents", "previous_latents", *_CONDITIONS]  # noqa: RUF012
    _current_timestep: torch.Tensor | None = None
    _called: "SoundCTMPipeline | None" = None  # of a view that a callback gets: the pipeline that was called

    def __init__(
        self,
        vae: ModelMixin | None,
        text_encoder: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        unet: ModelMixin | None,
        scheduler: CTMScheduler,
        vocoder: torch.nn.Module | None,
        guidance_scale_range: Sequence = (),
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        projection_model: ModelMixin | None = None,
        language_model: PreTrainedModel | None = None,
        transformer: ModelMixin | None = None,
        duration_embedder: ModelMixin | None = None,
        condition_encoder: ModelMixin | None = None,
    ):
        super().__init__()
        inputs.check_scheduler(scheduler)
        if unet is not None and transformer is not None:
            raise ValueError("The pipeline got a `unet` and a `transformer`; pass the one that is the student.")
        if unet is not None and is_transformer(unet.config):
            logger.warning(
                "The transformer is passed or stored as `unet`; it becomes the component `transformer`. Save the "
                "pipeline again to rename it in its folder."
            )
            unet, transformer = None, unet
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            vocoder=vocoder,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            projection_model=projection_model,
            language_model=language_model,
            duration_embedder=duration_embedder,
            condition_encoder=condition_encoder,
            transformer=transformer,
        )
        self.register_to_config(guidance_scale_range=self._share_guidance_scale_range(guidance_scale_range))

    def _share_guidance_scale_range(self, guidance_scale_range: Sequence[float]) -> list[float]:
        # The denoiser keeps the range as well, so that it survives `SoundCTMPipeline(**pipe.components)`.
        config = {} if self.denoiser is None else self.denoiser.config
        if len(guidance_scale_range) == 0:
            return list(config.get("guidance_scale_range") or ())
        if "guidance_scale_range" in config:
            self.denoiser.register_to_config(guidance_scale_range=list(guidance_scale_range))
        return list(guidance_scale_range)

    @property
    def denoiser(self) -> ModelMixin | None:
        """The student, whichever component holds it: `transformer` or `unet`."""
        return self.unet if self.transformer is None else self.transformer

    @property
    def guidance_scale(self) -> float:
        """ω of the last call."""
        return self._guidance_scale

    @property
    def nu(self) -> float:
        """ν of the last call."""
        return self._nu

    @property
    def num_timesteps(self) -> int:
        """Number of steps of the last call."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        """c_noise(t) of the step that is being computed, which caches of diffusers ask for; None between calls."""
        return self._current_timestep

    @property
    def num_samples(self) -> int | None:
        """Samples per waveform of the last call; None if the pipeline has no decoder."""
        return self._num_samples

    @property
    def interrupt(self) -> bool:
        """Whether a callback interrupted the last call, by setting `_interrupt` of the pipeline that it gets."""
        return self._interrupt

    def prepare_latents(
        self,
        shape: tuple[int, ...],
        sigma: torch.Tensor,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        initial_latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Prepare the latents at the first noise level, z = z_0 + σ·ε, float32.

        Args:
            shape: shape of the latents, (B, C, time, width) or (B, C, time).
            sigma: noise level σ, a scalar tensor.
            device: device of the result.
            generator: source of ε: one generator, or one per waveform.
            latents: ε, of unit variance, in place of noise drawn from `generator`.
            initial_latents: z_0 of audio to start from; 0 by default.
        """
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32) * sigma.to(device)
        return latents if initial_latents is None else initial_latents + latents

    def check_inputs(self, **arguments: Any) -> None:
        """Check the arguments of a call before any work is done; see `inputs.check_inputs`.

        Raises:
            ValueError, TypeError: the message names argument, value and remedy.
        """
        inputs.check_inputs(self, **arguments)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        audio_length_in_s: float | None = None,
        num_inference_steps: int = 1,
        guidance_scale: float = 3.5,
        nu: float = 1.0,
        gamma: float = 0.0,
        negative_prompt: str | list[str] | None = None,
        num_waveforms_per_prompt: int = 1,
        sigmas: Sequence[float] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        negative_attention_mask: torch.Tensor | None = None,
        initial_audio_waveforms: torch.Tensor | np.ndarray | None = None,
        initial_audio_sampling_rate: int | None = None,
        strength: float | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> SoundCTMPipelineOutput:
        """Generate audio from text.

        Args:
            prompt (`str` or `list[str]`, *optional*):
                Description of the audio, or one per result. Pass either `prompt` or `prompt_embeds`.
            audio_length_in_s (`float`, *optional*):
                Length of the audio in seconds, in (0, 30], or for Stable Audio up to its training length. Defaults to
                the length of `initial_audio_waveforms` or `latents`, else to the training length. A longer length
                gives a warning.
            num_inference_steps (`int`, defaults to 1):
                Number of steps, each one jump of the student: 1 for a draft, 4 for a good final. More than 16 gain
                nothing, and more than 32 give a warning. With `gamma=0`, more steps refine
                the same result.
            guidance_scale (`float`, defaults to 3.5):
                ω, the guidance strength of the teacher that the student imitates. Values outside
                `pipe.config.guidance_scale_range` give a warning.
            nu (`float`, defaults to 1.0):
                ν, weight of the conditional student against the unconditional one, F = F_∅ + ν·(F_c − F_∅). At 1 the
                network evaluates one batch per step, at other values a batch twice as large.
            gamma (`float`, defaults to 0.0):
                γ in [0, 1], the amount of fresh noise per step: 0 is deterministic, 1 is the sampler of consistency
                models.
            negative_prompt (`str` or `list[str]`, *optional*):
                Replaces the empty prompt ∅ in the ν mix. Has no effect at `nu=1`.
            num_waveforms_per_prompt (`int`, defaults to 1):
                Number of waveforms per prompt.
            sigmas (`Sequence[float]`, *optional*):
                Decreasing noise levels, n + 1 values for n steps, within the scheduler's `sigma_min` and `sigma_max`.
                Replaces `num_inference_steps`.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Source of the noise. Pass one generator per waveform to make each result independent of the batch.
            latents (`torch.Tensor`, *optional*):
                Starting noise of unit variance, of shape `(batch, *pipe.latent_shape(num_samples))`. It is scaled to
                the first noise level here.
            prompt_embeds (`torch.Tensor`, *optional*):
                Prompt embeddings from `encode_prompt`, (batch, tokens, width) or (batch, width), in place of `prompt`.
            negative_prompt_embeds (`torch.Tensor`, *optional*):
                The same in place of `negative_prompt`; a batch of 1 serves all prompts.
            attention_mask (`torch.Tensor`, *optional*):
                Mask of `prompt_embeds`, (batch, tokens), True for tokens to attend to.
            negative_attention_mask (`torch.Tensor`, *optional*):
                Mask of `negative_prompt_embeds`.
            initial_audio_waveforms (`torch.Tensor` or `np.ndarray`, *optional*):
                Audio to start from, of shape (samples,), (batch, samples) or (batch, channels, samples), full scale 1.
            initial_audio_sampling_rate (`int`, *optional*):
                Sampling rate of `initial_audio_waveforms`, in Hz.
            strength (`float`, *optional*, defaults to 0.5):
                Fraction of the noise schedule that is applied to `initial_audio_waveforms`, in (0, 1]. 1.0 ignores
                the input, 0.5 keeps its outline.
            output_type (`str`, defaults to `"np"`):
                `"np"` or `"pt"` for waveforms within ±1, float32 of shape (batch, channels, samples): a waveform whose
                peak exceeds 1 is scaled down as a whole. `"latent"` for the latents z_0.
            return_dict (`bool`, defaults to `True`):
                Whether to return a `SoundCTMPipelineOutput` instead of a tuple.
            callback_on_step_end (`Callable`, `PipelineCallback` or `MultiPipelineCallbacks`, *optional*):
                Called after each step as `callback(pipe, step, timestep, tensors)`, and returns the tensors that it
                changed in a dictionary. `pipe` is a view of this pipeline with the state of this call: its properties,
                and the noise levels of its `scheduler`. Setting `pipe._interrupt = True` ends the call.
            callback_on_step_end_tensor_inputs (`Sequence[str]`, defaults to `("latents",)`):
                Tensors that the callback gets: `latents`; `previous_latents`, from which the step started;
                `prompt_embeds`, `negative_prompt_embeds`, `attention_mask` and `negative_attention_mask`, which are
                None if the call has none. All of them but `previous_latents` can be changed.

        Returns:
            `SoundCTMPipelineOutput` or `tuple`: the audio in `.audios`, or as the only entry of a tuple. By how many dB
            each waveform was scaled down is in `.turned_down_db`.

        Raises:
            ValueError: an argument is wrong; the message names it.
            TypeError: an argument has the wrong type; the message names it.

        Example:
            >>> from diffusers_soundctm import SoundCTMPipeline
            >>> from diffusers_soundctm.audio import write_audio
            >>> pipe = SoundCTMPipeline.from_embedded()
            >>> audio = pipe("rain on a tin roof", num_inference_steps=4).audios[0]
            >>> write_audio("rain.wav", audio, pipe.sampling_rate)
        """
        arguments = {name: value for name, value in locals().items() if name not in ("self", "return_dict")}
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self.check_inputs(**arguments | {"callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs})
        guidance_scale, nu, gamma = float(guidance_scale), float(nu), float(gamma)  # also of integers beyond 64 bits
        num_samples = inputs.num_samples(
            self, audio_length_in_s, latents, initial_audio_waveforms, initial_audio_sampling_rate
        )
        device = self._execution_device

        # 1. Noise levels
        if initial_audio_waveforms is not None and sigmas is None:
            sigmas = self._last_levels(num_inference_steps, DEFAULT_STRENGTH if strength is None else strength)
        schedule = self.scheduler.make_schedule(num_inference_steps if sigmas is None else None, device, gamma, sigmas)
        inputs.check_precision(self, schedule.init_noise_sigma, device)
        call = self._begin_call(schedule, guidance_scale, nu, num_samples)

        # 2. Prompt
        encoded = self.encode_prompt(
            prompt,
            device,
            num_waveforms_per_prompt,
            nu != 1,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            attention_mask,
            negative_attention_mask,
            audio_length_in_s if num_samples is None else num_samples / self.sampling_rate,
        )
        if prompt is not None:
            self._warn_unknown(prompt, *encoded[:2], num_waveforms_per_prompt)
        conditions: dict[str, Any] = dict(zip(_CONDITIONS, encoded, strict=True))

        # 3. Latents
        batch_size = len(encoded[0])
        initial_latents = None
        if initial_audio_waveforms is not None:
            waveforms = inputs.as_batch(initial_audio_waveforms)
            initial_latents = self.encode_audio(waveforms, initial_audio_sampling_rate, num_samples, device)
            initial_latents = initial_latents.repeat_interleave(batch_size // len(initial_latents), dim=0)
        shape = (batch_size, *self.latent_shape(num_samples)) if latents is None else latents.shape
        latents = self.prepare_latents(shape, schedule.sigmas[0], device, generator, latents, initial_latents)

        # 4. Jumps from each noise level to the next
        with self.progress_bar(total=len(schedule)) as progress_bar:
            for i, timestep in enumerate(schedule.timesteps):
                model_input = self.scheduler.scale_model_input(latents, timestep)
                target_sigma = schedule.target_sigmas[i]
                embeds, mask, *negative = conditions.values()
                call._called._current_timestep = timestep
                model_output = self.predict(
                    model_input, timestep, target_sigma, guidance_scale, nu, (embeds, mask), negative
                )
                previous_latents = latents
                latents = self.scheduler.step_at(schedule, i, model_output, latents, generator).prev_sample

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "previous_latents": previous_latents, **conditions}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(call, i, timestep, tensors) or {}
                    latents = changed.get("latents", latents)
                    conditions = {name: changed.get(name, value) for name, value in conditions.items()}
                progress_bar.update()
                if call.interrupt:
                    break
        call._called._interrupt, call._called._current_timestep = call.interrupt, None

        # 5. Waveforms
        audios, turned_down_db = latents, None
        if output_type != "latent":
            audios, turned_down_db = self._limited_waveform(latents, num_samples)
        if output_type == "np":
            audios = audios.cpu().numpy()
        self.maybe_free_model_hooks()
        # A tuple is typed as the output, which can be indexed alike: a union would hide `audios` from type checkers.
        output = SoundCTMPipelineOutput(audios, turned_down_db)
        return output if return_dict else cast(SoundCTMPipelineOutput, (audios,))

    def _last_levels(self, num_inference_steps: int, strength: float) -> torch.Tensor:
        """n + 1 noise levels over the last `strength` of the Karras curve."""
        config = self.scheduler.config
        positions = torch.linspace(1 - strength, 1, num_inference_steps + 1, dtype=torch.float64)
        return karras_sigma(positions, config.sigma_min, config.sigma_max, config.rho)

    def _begin_call(
        self, schedule: CTMSchedule, guidance_scale: float, nu: float, num_samples: int | None
    ) -> "SoundCTMPipeline":
        """Make the view of the pipeline that callbacks get: a shallow copy that holds the state of one call.

        The call itself reads its own variables, so that calls in other threads and calls inside a callback do not
        disturb it. The pipeline's own properties, which diffusers' contract requires, report the last call.
        """
        call = copy.copy(self)
        vars(call)["scheduler"] = copy.copy(self.scheduler)  # an assignment would also look up its class, which is slow
        call._called = self._called or self
        for pipe in (call._called, call):
            pipe.scheduler.set_schedule(schedule)
            pipe._num_timesteps, pipe._num_samples = len(schedule), num_samples
            pipe._guidance_scale, pipe._nu, pipe._interrupt = guidance_scale, nu, False
        return call

    def predict(
        self,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        target_sigma: torch.Tensor,
        guidance_scale: float,
        nu: float,
        positive: tuple[torch.Tensor, torch.Tensor | None],
        negative: Sequence[torch.Tensor | None],
    ) -> torch.Tensor:
        """Predict F with one call of the network; for ν ≠ 1 on both halves, mixed as F_∅ + ν·(F_c − F_∅).

        The jump G is affine in F, so that mixing F equals mixing jumps.

        Args:
            model_input: c_in(t)·z_t, (B, C, time, width) or (B, C, time).
            timestep: c_noise(t), a scalar tensor.
            target_sigma: s, a scalar tensor.
            guidance_scale: ω.
            nu: ν.
            positive: embeddings and mask of the prompt, as `encode_prompt` returns them.
            negative: embeddings and mask of the negative prompt; not used at ν = 1.

        Returns:
            F, float32, of the shape of `model_input`.
        """
        embeds, mask = positive
        if nu != 1:
            model_input = torch.cat([model_input, model_input])
            if negative[0].shape[1] != embeds.shape[1]:
                length = max(negative[0].shape[1], embeds.shape[1])
                negative, (embeds, mask) = pad_tokens(*negative, length), pad_tokens(embeds, mask, length)
            embeds = torch.cat([negative[0], embeds])
            if mask is not None:
                mask = torch.cat([self.conditioning.negative_mask(mask, *negative), mask])
        timestep_cond = torch.stack([target_sigma, torch.full_like(target_sigma, guidance_scale)])
        config = self.scheduler.config
        caching = getattr(self.denoiser, "is_cache_enabled", False)
        cache = self.denoiser.cache_context("denoiser") if caching else contextlib.nullcontext()
        with full_float32(config.sigma_max, config.prediction_type), cache:
            model_output = self.denoiser(
                model_input.to(self.denoiser.dtype),
                timestep,
                timestep_cond=timestep_cond.expand(model_input.shape[0], 2),
                **self.conditioning.network_kwargs(embeds.to(self.denoiser.dtype), mask),
            ).sample.float()
        if nu == 1:
            return model_output
        unconditional, conditional = model_output.chunk(2)
        return unconditional + nu * (conditional - unconditional)
