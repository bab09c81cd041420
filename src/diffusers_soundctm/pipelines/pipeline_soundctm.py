"""Text to sound with a SoundCTM student: prompt → latents → a few jumps along the trajectory → mel → waveform."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_utils import AudioPipelineOutput
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Self

from .. import audio
from ..data.latents import denormalize_latents, encode
from ..preconditioning import karras_sigma
from ..schedulers.scheduling_ctm import CTMScheduler
from . import inputs
from .conditioning import PromptConditioning, conditioning_for, is_transformer
from .loading import SoundCTMLoaderMixin

logger = logging.get_logger(__name__)

MAX_AUDIO_LENGTH_IN_S = 30.0
DEFAULT_STRENGTH = 0.5


class SoundCTMPipeline(SoundCTMLoaderMixin, DiffusionPipeline):
    """Text-to-audio pipeline for SoundCTM students (arXiv 2405.18503) of AudioLDM, MusicLDM, AudioLDM2, Tango, Stable
    Audio and the embedded model, and for the authors' own, 16 and 44.1 kHz.

    Args:
        vae: mel autoencoder; log-mels (B, 1, frames, n_mels) ↔ latents (B, C, time, width). Or one of waveforms, such
            as `AutoencoderDAC` or Stable Audio's: (B, channels, samples) ↔ latents (B, C, time).
        text_encoder: T5- or BERT-like encoder (cross-attention families), `ClapTextModelWithProjection` (AudioLDM and
            44.1 kHz SoundCTM v1), `ClapTextModel` (v2) or `ClapModel` (MusicLDM, AudioLDM2).
        tokenizer: its tokenizer.
        unet: the student of a UNet teacher; it takes (s, ω) as `timestep_cond`. None for a transformer student.
        scheduler: noise levels, targets and the jump.
        vocoder: log-mels (B, frames, n_mels) → waveforms (B, samples); None with an autoencoder of waveforms.
        guidance_scale_range: smallest and largest ω the student was distilled with; empty when unknown.
        text_encoder_2, tokenizer_2, language_model: T5 and GPT-2 of AudioLDM2.
        projection_model: AudioLDM2's of its two encoders, Stable Audio's of text and duration.
        transformer: the student of a transformer teacher, in place of `unet`.

    Components may be None for calls that do not need them.

    Raises:
        ValueError: both `unet` and `transformer` are given.
    """

    model_cpu_offload_seq = (
        "text_encoder->text_encoder_2->projection_model->language_model->unet->transformer->vae->vocoder"
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
    ]
    _callback_tensor_inputs = [  # noqa: RUF012
        "latents",
        "previous_latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "attention_mask",
        "negative_attention_mask",
    ]

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
    ):
        super().__init__()
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
            transformer=transformer,
            scheduler=scheduler,
            vocoder=vocoder,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            projection_model=projection_model,
            language_model=language_model,
        )
        self.register_to_config(guidance_scale_range=list(guidance_scale_range))

    @classmethod
    def from_components(cls, components: Mapping[str, Any], guidance_scale_range: Sequence[float] = ()) -> Self:
        """Assemble a pipeline from components by name, as teachers and conversion return them.

        Args:
            components: at least `scheduler`, and `unet` or `transformer`. Any other component may be left out.
            guidance_scale_range: smallest and largest ω the student was distilled with.
        """
        return cls(**dict.fromkeys(cls._optional_components) | components, guidance_scale_range=guidance_scale_range)

    @property
    def denoiser(self) -> ModelMixin | None:
        """The student, whichever component holds it: `transformer` or `unet`."""
        return self.unet if self.transformer is None else self.transformer

    @property
    def guidance_scale(self) -> float:
        """ω of the running call."""
        return self._guidance_scale

    @property
    def nu(self) -> float:
        """ν of the running call."""
        return self._nu

    @property
    def num_timesteps(self) -> int:
        """Number of network steps of the last call."""
        return self._num_timesteps

    @property
    def num_samples(self) -> int | None:
        """Samples of each sound of the last call; None when the pipeline has no decoder."""
        return self._samples

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` to True in a callback to skip the remaining steps."""
        return self._interrupt

    @property
    def conditioning(self) -> PromptConditioning:
        """How this model's family turns prompts into network arguments."""
        return conditioning_for(
            self.denoiser,
            self.text_encoder,
            self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            projection_model=self.projection_model,
            language_model=self.language_model,
        )

    @property
    def encodes_waveforms(self) -> bool:
        """Whether the autoencoder reads and writes waveforms, without mels and a vocoder."""
        return audio.is_waveform_autoencoder(self.vae)

    @property
    def has_decoder(self) -> bool:
        """Whether latents can be made audible."""
        return self.vae is not None and (self.vocoder is not None or self.encodes_waveforms)

    @property
    def sampling_rate(self) -> int:
        """Samples a second of the generated waveforms."""
        return (self.vae if self.encodes_waveforms else self.vocoder).config.sampling_rate

    @property
    def num_channels(self) -> int:
        """Channels of the generated waveforms."""
        return getattr(self.vae.config, "audio_channels", 1) if self.encodes_waveforms else 1

    @property
    def hop_length(self) -> int:
        """Samples a mel frame, or a latent position of an autoencoder of waveforms."""
        if self.encodes_waveforms:
            return math.prod(self.vae.config.downsampling_ratios)
        hop_length = getattr(self.vocoder.config, "hop_length", None)
        return hop_length or math.prod(self.vocoder.config.upsample_rates)

    @property
    def vae_scale_factor(self) -> int:
        """Mel frames (and mel bands) a latent position; 1 for an autoencoder of waveforms."""
        return 1 if self.encodes_waveforms else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def max_audio_length_in_s(self) -> float:
        """Longest sound a call makes, in seconds: what the latents hold where their number is fixed.

        Infinite where only the missing autoencoder knows how much they hold.
        """
        if not self.conditioning.needs_audio_length:
            return MAX_AUDIO_LENGTH_IN_S
        return self.default_audio_length_in_s if self.has_decoder else math.inf

    @property
    def default_audio_length_in_s(self) -> float:
        """Length the network was trained with, from the denoiser's `config.sample_size`, in seconds.

        Raises:
            ValueError: the config has no `sample_size`, or the pipeline no decoder to say how long a latent lasts.
        """
        size = self.denoiser.config.sample_size
        if not self.has_decoder:
            raise ValueError(
                "Without a decoder the pipeline does not know how long its sounds are; load the `vae` (and the "
                "`vocoder`, if the model has one), or pass `audio_length_in_s`."
            )
        if size is None:
            raise ValueError(
                "The network's config has no `sample_size` to take a length from; pass `audio_length_in_s`."
            )
        time = size[0] if isinstance(size, (list, tuple)) else size
        return time * self.vae_scale_factor * self.hop_length / self.sampling_rate

    def latent_shape(self, num_samples: int) -> tuple[int, ...]:
        """(C, time, width) of the latents for `num_samples` of sound, time rounded up to a multiple of the UNet's.

        (C, time) for an autoencoder of waveforms. Stable Audio's time is always what it was trained with: it is told
        where the sound ends.
        """
        if self.conditioning.needs_audio_length:
            return self.denoiser.config.in_channels, self.denoiser.config.sample_size
        frames = math.ceil(num_samples / self.hop_length)
        if self.encodes_waveforms:
            return self.denoiser.config.in_channels, frames
        multiple = 2**self.denoiser.num_upsamplers
        time = math.ceil(frames / self.vae_scale_factor / multiple) * multiple
        return self.denoiser.config.in_channels, time, self.vocoder.config.model_in_dim // self.vae_scale_factor

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_waveforms_per_prompt: int = 1,
        do_nu_sampling: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        negative_attention_mask: torch.Tensor | None = None,
        audio_length_in_s: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Prompt and, for ν ≠ 1, negative prompt ("" by default), in one pass of the text encoder.

        `audio_length_in_s`, by default what the network was trained with, is part of Stable Audio's condition.

        Returns:
            `(prompt_embeds, attention_mask, negative_prompt_embeds, negative_attention_mask)`: embeddings (B, L, width)
            and boolean masks (B, L), or (B, width) and None for AudioLDM, B being prompts × waveforms, each prompt's
            waveforms next to each other. The negative pair is None without `do_nu_sampling`.
        """
        device = device or self._execution_device
        conditioning = self.conditioning
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""]

        texts = [] if prompts is None else list(prompts)
        encode_negatives = do_nu_sampling and negative_prompt_embeds is None
        if encode_negatives:
            texts += negatives
        if texts:
            if conditioning.needs_audio_length and audio_length_in_s is None:
                audio_length_in_s = self.default_audio_length_in_s
            embeds, mask = conditioning.encode(texts, device, audio_length_in_s)
            if prompts is not None:
                prompt_embeds = embeds[: len(prompts)]
                attention_mask = None if mask is None else mask[: len(prompts)]
            if encode_negatives:
                negative_prompt_embeds = embeds[-len(negatives) :]
                negative_attention_mask = None if mask is None else mask[-len(negatives) :]

        batch_size = prompt_embeds.shape[0]
        pairs = [(prompt_embeds, attention_mask)]
        if do_nu_sampling:
            pairs.append((negative_prompt_embeds, negative_attention_mask))
        if conditioning.prompt_embeds_ndim == 3:
            length = max(embeds.shape[1] for embeds, _ in pairs)
            pairs = [_pad_tokens(embeds, mask, length) for embeds, mask in pairs]

        encoded = []
        for embeds, mask in pairs:
            repeats = num_waveforms_per_prompt * (batch_size // embeds.shape[0])
            embeds = embeds.to(device, self.denoiser.dtype).repeat_interleave(repeats, dim=0)
            encoded += [embeds, None if mask is None else mask.to(device, torch.bool).repeat_interleave(repeats, dim=0)]
        return tuple(encoded) if do_nu_sampling else (*encoded, None, None)

    def prepare_latents(
        self,
        shape: tuple[int, ...],
        sigma: torch.Tensor,
        device: torch.device,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        initial_latents: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """z at noise level `sigma`: σ·ε, plus the latents of a sound to start from; float32 (B, C, time, width).

        `latents` is ε, of unit variance, drawn from `generator` when it is None.
        """
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        latents = latents.to(device, torch.float32) * sigma.to(device)
        return latents if initial_latents is None else initial_latents + latents

    def encode_audio(
        self, waveforms: torch.Tensor, sampling_rate: int, num_samples: int, device: torch.device | None = None
    ) -> torch.Tensor:
        """Latents z_0 (B, C, time, width), float32, of waveforms (B, channels, samples).

        The sound is mixed to mono, resampled, scaled to the peak the models were trained with, cut or padded with
        silence to `num_samples` (at the model's rate) and to the end of the last latent position. An autoencoder of
        waveforms gets its own number of channels and the level as it is.
        """
        device = device or self._execution_device
        length = self.latent_shape(num_samples)[1] * self.vae_scale_factor * self.hop_length
        waveforms = audio.match_channels(waveforms.float(), self.num_channels)
        waveforms = audio.resample(waveforms, sampling_rate, self.sampling_rate)[..., :num_samples]
        waveforms = torch.nn.functional.pad(waveforms, (0, length - waveforms.shape[-1]))
        front_end = None if self.encodes_waveforms else audio.LogMel.for_vocoder(self.vocoder.config)
        return encode(self.vae, waveforms.to(device), front_end)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, time, width) → log-mels (B, 1, frames, n_mels); differentiable.

        From an autoencoder of waveforms, (B, C, time) → (B, channels, samples).
        """
        decoded = self.vae.decode(denormalize_latents(self.vae, latents).to(self.vae.dtype)).sample
        return decoded.float() if self.encodes_waveforms else decoded

    def mel_spectrogram_to_waveform(self, mel_spectrogram: torch.Tensor) -> torch.Tensor:
        """Log-mels (B, 1, frames, n_mels) → waveforms (B, 1, samples), float32; differentiable."""
        return self.vocoder(mel_spectrogram.squeeze(1)).float()[:, None]

    def check_inputs(self, **arguments: Any) -> None:
        """Raise `ValueError` or `TypeError`, naming argument, value and remedy, before any work is done.

        Args:
            arguments: those of a call, see `inputs.check_inputs`.
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
    ) -> AudioPipelineOutput | tuple:
        """Generate sounds.

        Args:
            prompt: what to hear, one string or a list.
            audio_length_in_s: seconds of sound, in (0, 30] (Stable Audio: up to what it was trained with); by default
                what the network was trained with, or the length of `initial_audio_waveforms` or `latents`. Longer than
                in training gives a warning.
            num_inference_steps: jumps, 1 to 16 are useful; with γ = 0 more steps refine the same sound.
            guidance_scale: ω, the teacher's guidance strength the student imitates; outside
                `config.guidance_scale_range` a warning is given.
            nu: ν, mixes the conditional and the unconditional student, F = F_∅ + ν·(F_c − F_∅); 1 needs one network
                evaluation a step, any other value a batch of two.
            gamma: γ in [0, 1], 0 deterministic, 1 re-noises at every step like a consistency model.
            negative_prompt: takes the place of the empty prompt ∅ in the ν mix.
            num_waveforms_per_prompt: sounds a prompt.
            sigmas: own noise levels, decreasing, n + 1 values for n steps; replaces `num_inference_steps`.
            generator: one for the whole batch, or a list with one a sound, which makes each sound the same alone or in
                any batch.
            latents: starting noise of unit variance (B, C, time, width); its scaling to the first level is done here.
            prompt_embeds, negative_prompt_embeds: outputs of `encode_prompt` in place of the prompts.
            attention_mask, negative_attention_mask: their masks (B, L), True for tokens to use.
            initial_audio_waveforms: sounds to start from, (samples,), (batch, samples) or (batch, channels, samples).
            initial_audio_sampling_rate: their samples a second.
            strength: share of the Karras curve walked from its noisy end, in (0, 1]; 1 starts at σ_max, 0.5 (the
                default) keeps the outline of the initial sound.
            output_type: "np" or "pt" for waveforms, float32 (B, channels, samples) within ±1 (a sound whose
                peaks exceed it is scaled down as a whole), or "latent" for z_0.
            return_dict: False for a plain tuple.
            callback_on_step_end: `callback(pipe, step, timestep, tensors) → tensors` after each step.
            callback_on_step_end_tensor_inputs: which tensors it gets: `latents`; `previous_latents`, which the step
                started from; `prompt_embeds`, `negative_prompt_embeds`, `attention_mask` and `negative_attention_mask`,
                None where the call has none. Changes to `latents` and the embeddings are taken over.

        Returns:
            `AudioPipelineOutput` with `.audios`, or a tuple of it.

        Raises:
            ValueError, TypeError: an argument is wrong; the message names it.

        Example:
            >>> from diffusers_soundctm import SoundCTMPipeline
            >>> from diffusers_soundctm.audio import write_audio
            >>> pipe = SoundCTMPipeline.from_embedded()
            >>> audio = pipe("rain on a tin roof", num_inference_steps=4).audios[0]
            >>> write_audio("rain.wav", audio, pipe.sampling_rate)
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self.check_inputs(
            prompt=prompt,
            audio_length_in_s=audio_length_in_s,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            nu=nu,
            gamma=gamma,
            negative_prompt=negative_prompt,
            num_waveforms_per_prompt=num_waveforms_per_prompt,
            sigmas=sigmas,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            attention_mask=attention_mask,
            negative_attention_mask=negative_attention_mask,
            initial_audio_waveforms=initial_audio_waveforms,
            initial_audio_sampling_rate=initial_audio_sampling_rate,
            strength=strength,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        num_samples = self._samples = self._num_samples(
            audio_length_in_s, latents, initial_audio_waveforms, initial_audio_sampling_rate
        )
        self._warn_of_length(num_samples)
        self._guidance_scale, self._nu, self._interrupt = guidance_scale, nu, False
        device = self._execution_device
        batch_size = inputs.num_prompts(prompt, prompt_embeds) * num_waveforms_per_prompt

        # 1. Noise levels
        if initial_audio_waveforms is not None and sigmas is None:
            strength = DEFAULT_STRENGTH if strength is None else strength
            positions = torch.linspace(1 - strength, 1, num_inference_steps + 1, dtype=torch.float64)
            curve = self.scheduler.config
            sigmas = karras_sigma(positions, curve.sigma_min, curve.sigma_max, curve.rho)
        self.scheduler.set_timesteps(
            num_inference_steps if sigmas is None else None, device=device, gamma=gamma, sigmas=sigmas
        )
        timesteps, target_sigmas = self.scheduler.timesteps, self.scheduler.target_sigmas
        self._num_timesteps = len(timesteps)

        # 2. Prompt
        prompt_embeds, attention_mask, negative_prompt_embeds, negative_attention_mask = self.encode_prompt(
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

        # 3. Latents
        initial_latents = None
        if initial_audio_waveforms is not None:
            waveforms = inputs.as_tensor(initial_audio_waveforms)
            shape = {1: (1, 1, -1), 2: (waveforms.shape[0], 1, -1)}.get(waveforms.ndim, waveforms.shape)
            initial_latents = self.encode_audio(
                waveforms.reshape(shape), initial_audio_sampling_rate, num_samples, device
            )
            initial_latents = initial_latents.repeat_interleave(batch_size // initial_latents.shape[0], dim=0)
        shape = (batch_size, *self.latent_shape(num_samples)) if latents is None else latents.shape
        latents = self.prepare_latents(shape, self.scheduler.sigmas[0], device, generator, latents, initial_latents)

        # 4. Jumps from each noise level to the next
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, timestep in enumerate(timesteps):
                if self.interrupt:
                    continue
                model_output = self.predict(
                    self.scheduler.scale_model_input(latents, timestep),
                    timestep,
                    target_sigmas[i],
                    (prompt_embeds, attention_mask),
                    None if nu == 1 else (negative_prompt_embeds, negative_attention_mask),
                )
                previous_latents = latents
                latents = self.scheduler.step(model_output, timestep, latents, generator=generator).prev_sample

                if callback_on_step_end is not None:
                    tensors = {
                        "latents": latents,
                        "previous_latents": previous_latents,
                        "prompt_embeds": prompt_embeds,
                        "negative_prompt_embeds": negative_prompt_embeds,
                        "attention_mask": attention_mask,
                        "negative_attention_mask": negative_attention_mask,
                    }
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    outputs = callback_on_step_end(self, i, timestep, tensors) or {}
                    latents = outputs.get("latents", latents)
                    prompt_embeds = outputs.get("prompt_embeds", prompt_embeds)
                    negative_prompt_embeds = outputs.get("negative_prompt_embeds", negative_prompt_embeds)
                progress_bar.update()

        # 5. Waveforms
        audios = latents
        if output_type != "latent":
            audios = self.decode_latents(latents)
            if not self.encodes_waveforms:
                audios = self.mel_spectrogram_to_waveform(audios)
            audios = audios[..., :num_samples]
            # Within full scale, as the tanh of AudioLDM's vocoders and the clamp of image pipelines see to.
            audios = audio.limit_peak(audios.flatten(1)).reshape(audios.shape)
            if output_type == "np":
                audios = audios.cpu().numpy()
        self.maybe_free_model_hooks()
        return AudioPipelineOutput(audios=audios) if return_dict else (audios,)

    def _num_samples(self, audio_length_in_s, latents, waveforms, sampling_rate) -> int | None:
        """Samples of sound a call makes; None when there is no decoder, so that it does not matter."""
        if not self.has_decoder:
            return None
        if audio_length_in_s is None and latents is not None:
            return latents.shape[2] * self.vae_scale_factor * self.hop_length
        if audio_length_in_s is None and waveforms is not None:
            audio_length_in_s = min(waveforms.shape[-1] / sampling_rate, self.max_audio_length_in_s)
        if audio_length_in_s is None:
            audio_length_in_s = self.default_audio_length_in_s
        return max(round(audio_length_in_s * self.sampling_rate), 1)

    def _warn_of_length(self, num_samples: int | None) -> None:
        if num_samples is None or self.denoiser.config.sample_size is None:
            return
        seconds, trained = num_samples / self.sampling_rate, self.default_audio_length_in_s
        if seconds > trained + 1 / self.sampling_rate:
            logger.warning(
                f"The sound will be {seconds:.2f} s long and the model was trained with {trained:.2f} s; expect worse "
                "sounds, or pass a shorter `audio_length_in_s`."
            )

    def predict(
        self,
        model_input: torch.Tensor,
        timestep: torch.Tensor,
        target_sigma: torch.Tensor,
        positive: tuple[torch.Tensor, torch.Tensor | None],
        negative: tuple[torch.Tensor, torch.Tensor | None] | None,
    ) -> torch.Tensor:
        """F, float32: one network call; given a negative branch, of both halves, mixed as F_∅ + ν·(F_c − F_∅).

        G is affine in F, so mixing here equals mixing the jumps. ω and ν are those of the running (or last) call.

        Args:
            model_input: c_in(t)·z_t, (B, C, time, width).
            timestep, target_sigma: c_noise(t) and s, scalar tensors.
            positive, negative: embeddings and mask, as `encode_prompt` returns them.
        """
        embeds, mask = positive
        if negative is not None:
            model_input = torch.cat([model_input, model_input])
            if negative[0].shape[1] != embeds.shape[1]:
                length = max(negative[0].shape[1], embeds.shape[1])
                negative, (embeds, mask) = _pad_tokens(*negative, length), _pad_tokens(embeds, mask, length)
            embeds = torch.cat([negative[0], embeds])
            mask = None if mask is None else torch.cat([negative[1], mask])
        timestep_cond = torch.stack([target_sigma, torch.full_like(target_sigma, self.guidance_scale)])
        model_output = self.denoiser(
            model_input.to(self.denoiser.dtype),
            timestep,
            timestep_cond=timestep_cond.expand(model_input.shape[0], 2),
            **self.conditioning.network_kwargs(embeds, mask),
        ).sample.float()
        if negative is None:
            return model_output
        unconditional, conditional = model_output.chunk(2)
        return unconditional + self.nu * (conditional - unconditional)


def _pad_tokens(embeds: torch.Tensor, mask: torch.Tensor | None, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings (B, L, width) and their mask, padded to `length` tokens that are masked out."""
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    missing = length - embeds.shape[1]
    return torch.nn.functional.pad(embeds, (0, 0, 0, missing)), torch.nn.functional.pad(mask.bool(), (0, missing))
