"""From prompts to the tensors that condition the denoiser."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import logging

from .conditioning import PromptConditioning, conditioning_for
from .conditioning.base import pad_tokens
from .inputs import check_prompts
from .known_sounds import KnownSounds, embed_prompts, unknown_message

logger = logging.get_logger(__name__)


class PromptMixin:
    """The part of the pipeline that knows the text encoders."""

    _absent_denoiser_config: FrozenDict | None = None  # of a folder whose denoiser is not loaded

    if TYPE_CHECKING:  # of the pipeline
        denoiser: Any
        known_sounds: KnownSounds | None
        text_encoder: Any
        tokenizer: Any
        text_encoder_2: Any
        tokenizer_2: Any
        projection_model: Any
        language_model: Any
        duration_embedder: Any
        condition_encoder: Any
        default_audio_length_in_s: float
        _execution_device: torch.device

    @property
    def conditioning(self) -> PromptConditioning:
        """How prompts condition the denoiser.

        Raises:
            ValueError: the pipeline has no denoiser and does not know its configuration.
        """
        # The configuration is enough to encode prompts, so that the denoiser can be left out until they are encoded.
        return conditioning_for(
            SimpleNamespace(config=self._denoiser_config) if self.denoiser is None else self.denoiser,
            self.text_encoder,
            self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
            projection_model=self.projection_model,
            language_model=self.language_model,
            duration_embedder=self.duration_embedder,
            condition_encoder=self.condition_encoder,
        )

    @property
    def _denoiser_config(self) -> FrozenDict:
        if self.denoiser is not None:
            return self.denoiser.config
        if self._absent_denoiser_config is None:
            raise ValueError("The pipeline has no student; load `unet` or `transformer`.")
        return self._absent_denoiser_config

    def unknown_sounds(self, prompts: str | list[str]) -> dict[str, list[str]]:
        """Return the prompts that are far from every kind of sound that the model knows, each with the nearest kinds.

        Empty if the model's folder does not say what it knows. A call logs a warning about these prompts.

        Args:
            prompts: One prompt or a list.
        """
        if self.known_sounds is None:
            return {}
        prompts = [prompts] if isinstance(prompts, str) else prompts
        embeds, mask, _, _ = self.encode_prompt(prompts, do_nu_sampling=False)
        return self.known_sounds.unknown(prompts, embed_prompts(embeds, mask))

    def _warn_unknown(
        self, prompts: str | list[str], embeds: torch.Tensor, mask: torch.Tensor | None, num_waveforms_per_prompt: int
    ) -> None:
        """Log a warning for each prompt of a call, given its embeddings and mask, that is far from every kind.

        With an adapter, the model knows more than its own kinds, and nothing is logged.
        """
        has_adapters = bool(getattr(self.denoiser, "peft_config", None))
        if self.known_sounds is None or (has_adapters and self.denoiser._effective_adapters()):
            return
        first_of_each = slice(None, None, num_waveforms_per_prompt)
        sentences = embed_prompts(embeds[first_of_each], None if mask is None else mask[first_of_each])
        unknown = self.known_sounds.unknown([prompts] if isinstance(prompts, str) else prompts, sentences)
        for prompt, nearest in unknown.items():
            logger.warning(unknown_message(prompt, nearest))

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
        """Encode the prompt and, for ν ≠ 1, the negative prompt, in one pass of the text encoder.

        A pipeline that `from_pretrained` loaded with `unet=None` or `transformer=None` encodes prompts too, so that the
        text encoder and the denoiser need not be in memory together.

        Args:
            prompt: one prompt or a list; None with `prompt_embeds`.
            device: device of the result and of the text encoder.
            num_waveforms_per_prompt: waveforms per prompt.
            do_nu_sampling: whether to encode the negative prompt.
            negative_prompt: one for all prompts, or one per prompt; "" by default.
            prompt_embeds: earlier result for `prompt`.
            negative_prompt_embeds: earlier result for `negative_prompt`.
            attention_mask: mask of `prompt_embeds`.
            negative_attention_mask: mask of `negative_prompt_embeds`.
            audio_length_in_s: length in seconds that Stable Audio is conditioned on; by default what it was trained
                with.

        Returns:
            `(prompt_embeds, attention_mask, negative_prompt_embeds, negative_attention_mask)`: embeddings (B, L, width)
            and boolean masks (B, L), or (B, width) and None for AudioLDM. B is prompts × waveforms per prompt, with
            the waveforms of a prompt next to each other. The negative pair is None without `do_nu_sampling`.

        Raises:
            ValueError, TypeError: an argument is wrong, or an encoder is missing; the message names it.
        """
        device = device or self._execution_device
        conditioning = self.conditioning
        check_prompts(
            conditioning,
            prompt,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            attention_mask,
            negative_attention_mask,
        )
        prompts = [prompt] if isinstance(prompt, str) else prompt
        negatives = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""]

        texts = [] if prompts is None else list(prompts)
        encode_negatives = do_nu_sampling and negative_prompt_embeds is None
        if encode_negatives:
            texts += negatives
        if texts:
            if encode_negatives and prompts is None and conditioning.missing:
                raise ValueError(
                    f"The pipeline has no {' and no '.join(conditioning.missing)} to encode the negative prompt with; "
                    "pass `negative_prompt_embeds`, or `nu=1`."
                )
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
            pairs = [pad_tokens(embeds, mask, length) for embeds, mask in pairs]

        encoded = []
        for embeds, mask in pairs:
            repeats = num_waveforms_per_prompt * (batch_size // embeds.shape[0])
            dtype = embeds.dtype if self.denoiser is None else self.denoiser.dtype
            embeds = embeds.to(device, dtype).repeat_interleave(repeats, dim=0)
            encoded += [embeds, None if mask is None else mask.to(device, torch.bool).repeat_interleave(repeats, dim=0)]
        return tuple(encoded) if do_nu_sampling else (*encoded, None, None)
