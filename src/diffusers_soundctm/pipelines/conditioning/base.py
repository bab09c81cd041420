"""From a prompt to what the network wants: one small class a teacher family, used by the pipeline and by training."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.utils import logging
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# Tokenizers without a limit of their own report a huge number; no text encoder of these families reads more than this.
MAX_TOKENS = 512


def conditioning_for(
    unet: ModelMixin,
    text_encoder: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **more: Any,
) -> "PromptConditioning":
    """The conditioning that the network asks for; without a text encoder only `network_kwargs` can be used.

    Args:
        unet: a teacher or a student.
        more: `text_encoder_2`, `tokenizer_2`, `projection_model` and `language_model` of the families that have them.
    """
    classes = {base.__name__ for base in type(getattr(unet, "_orig_mod", unet)).__mro__}  # of a compiled one
    if "AudioLDM2UNet2DConditionModel" in classes:
        family = AudioLDM2Conditioning
    elif "StableAudioNetwork" in classes:
        family = StableAudioConditioning
    elif is_transformer(unet.config):
        family = SentenceTokenConditioning
    else:
        widths = unet.config.cross_attention_dim
        # AudioLDM's "cross-attention" is as wide as the block it sits in: it attends to the block itself, not to text.
        attends_to_itself = isinstance(widths, (list, tuple)) and list(widths) == list(unet.config.block_out_channels)
        family = ClassLabelConditioning if attends_to_itself else CrossAttentionConditioning
    return family(unet.config, text_encoder, tokenizer, **more)


def is_transformer(unet_config: FrozenDict) -> bool:
    """Whether the network is a transformer over latents (B, C, time), not a UNet over (B, C, time, width)."""
    return "cross_attention_input_dim" in unet_config


class PromptConditioning:
    """Encodes prompts once, then turns the stored tensors into keyword arguments of the network.

    `prompt_embeds_ndim` is the rank of the tensor `encode` returns, `width` its last dimension. The tokens a mask keeps
    come first in every row: they are what is stored of a prompt.
    """

    prompt_embeds_ndim: int
    width: int
    needs_audio_length = False

    def __init__(
        self,
        unet_config: FrozenDict,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        projection_model: ModelMixin | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        self.config = unet_config
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.text_encoder_2 = text_encoder_2
        self.tokenizer_2 = tokenizer_2
        self.projection_model = projection_model
        self.language_model = language_model

    @property
    def models(self) -> list[torch.nn.Module]:
        """The networks that encode prompts, the text encoder first."""
        parts = (self.text_encoder, self.text_encoder_2, self.projection_model, self.language_model)
        return [part for part in parts if part is not None]

    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prompts → (prompt_embeds, attention_mask or None), in the text encoder's dtype.

        `audio_length_in_s` is asked for by families with `needs_audio_length`.
        """
        raise NotImplementedError

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Keyword arguments for `unet(sample, timestep, ...)`: a pure function of these tensors and `unet.config`."""
        raise NotImplementedError

    def _tokenize(self, prompts: list[str], device: torch.device):
        self._require("text_encoder", "tokenizer")
        return _tokenize(self.tokenizer, prompts, device)

    def _require(self, *names: str) -> None:
        if any(getattr(self, name) is None for name in names):
            raise ValueError(f"Prompts need {' and '.join(names)}; load them or pass `prompt_embeds` instead.")


def _tokenize(tokenizer, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    max_length = min(tokenizer.model_max_length, MAX_TOKENS)
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    for prompt, encoding in zip(prompts, tokens.encodings or (), strict=False):  # a slow tokenizer has no encodings
        if encoding.overflowing:
            logger.warning(f"The text encoder reads {max_length} tokens; the end of {prompt!r} is left out.")
    return tokens.input_ids.to(device), tokens.attention_mask.to(device)


class CrossAttentionConditioning(PromptConditioning):
    """Tango, embedded model: hidden states (B, L, width) of a T5 or BERT, attended to under a boolean mask (B, L).

    A network with `class_embed_type="simple_projection"` also gets the sentence embedding, the L2-normalised masked
    mean of the hidden states, as its class label.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        projected = self.config.encoder_hid_dim
        widths = self.config.cross_attention_dim if projected is None else projected
        return widths if isinstance(widths, int) else widths[0]

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, attention_mask = self._tokenize(prompts, device)
        hidden_states = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden_states, attention_mask.bool()

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        kwargs = {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}
        if self.config.class_embed_type == "simple_projection":
            kwargs["class_labels"] = sentence_embedding(prompt_embeds, attention_mask)
        return kwargs


class ClassLabelConditioning(PromptConditioning):
    """AudioLDM, MusicLDM: the L2-normalised CLAP text embedding (B, width) is the class label; no cross-attention, no
    mask. AudioLDM brings CLAP's text tower alone, MusicLDM the whole `ClapModel`.
    """

    prompt_embeds_ndim = 2

    @property
    def width(self) -> int:
        return self.config.projection_class_embeddings_input_dim

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, None]:
        return F.normalize(_clap_embedding(self.text_encoder, *self._tokenize(prompts, device)), dim=-1), None

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": None, "class_labels": prompt_embeds}


class AudioLDM2Conditioning(PromptConditioning):
    """AudioLDM2: n tokens that a GPT-2 writes after the prompt in CLAP's and T5's words, then T5's hidden states.

    Both streams are kept in one tensor (B, n + L, width), the narrower one padded with zeros; the mask is True for the
    written tokens. Each prompt is written for alone: padding would shift the positions of what GPT-2 reads, so that in
    the original pipeline a prompt's condition depends on the longest prompt of its batch.
    """

    prompt_embeds_ndim = 3

    @property
    def widths(self) -> tuple[int, int]:
        """Of the written tokens and of T5's hidden states."""
        levels = self.config.cross_attention_dim
        level = next(item for item in levels if isinstance(item, (list, tuple)) or item is not None)
        streams = [width for width in level if width is not None] if isinstance(level, (list, tuple)) else [level] * 2
        return streams[0], streams[-1]

    @property
    def width(self) -> int:
        return max(self.widths)

    @property
    def num_generated_tokens(self) -> int:
        if "num_generated_tokens" in self.config:
            return self.config.num_generated_tokens
        return getattr(self.language_model.config, "max_new_tokens", None) or 8

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._require(
            "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "projection_model", "language_model"
        )
        rows = [self._encode_one(prompt, device) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return embeds, torch.arange(embeds.shape[1], device=device) < lengths[:, None]

    def _encode_one(self, prompt: str, device: torch.device) -> torch.Tensor:
        clap = _clap_embedding(self.text_encoder, *_tokenize(self.tokenizer, [prompt], device))[:, None]
        input_ids, attention_mask = _tokenize(self.tokenizer_2, [prompt], device)
        hidden_states = self.text_encoder_2(input_ids, attention_mask=attention_mask).last_hidden_state
        states = self.projection_model(
            hidden_states=clap,
            hidden_states_1=hidden_states,
            attention_mask=attention_mask.new_ones(1, 1),
            attention_mask_1=attention_mask,
        ).hidden_states
        for _ in range(self.num_generated_tokens):
            written = self.language_model(inputs_embeds=states, output_hidden_states=True).hidden_states[-1][:, -1:]
            states = torch.cat([states, written], dim=1)
        generated = states[:, -self.num_generated_tokens :].to(hidden_states.dtype)
        streams = [F.pad(stream, (0, self.width - stream.shape[-1])) for stream in (generated, hidden_states)]
        return torch.cat(streams, dim=1)[0]

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        count, (generated, hidden) = self.num_generated_tokens, self.widths
        return {
            "encoder_hidden_states": prompt_embeds[:, :count, :generated],
            "encoder_hidden_states_1": prompt_embeds[:, count:, :hidden],
            "encoder_attention_mask_1": None if attention_mask is None else attention_mask[:, count:],
        }


class StableAudioConditioning(PromptConditioning):
    """Stable Audio: a token each for start and end of the sound, then T5's projected hidden states, (B, 2 + L, width).

    The network reads the text padded with zeros to a fixed length, then the two times; they are also its global
    condition. The empty prompt is what the model was trained with: zeros for all it attends to, the times given.
    """

    prompt_embeds_ndim = 3
    needs_audio_length = True

    @property
    def width(self) -> int:
        return self.config.cross_attention_input_dim

    @property
    def num_text_tokens(self) -> int:
        if "num_text_tokens" in self.config:
            return self.config.num_text_tokens
        return min(self.tokenizer.model_max_length, MAX_TOKENS)

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._require("text_encoder", "tokenizer", "projection_model")
        input_ids, attention_mask = self._tokenize(prompts, device)
        hidden_states = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        spoken = torch.tensor([prompt != "" for prompt in prompts], device=device)
        projected = self.projection_model(
            text_hidden_states=hidden_states,
            start_seconds=torch.zeros(len(prompts), device=device),
            end_seconds=torch.full((len(prompts),), audio_length_in_s, dtype=torch.float32, device=device),
        )
        times = [projected.seconds_start_hidden_states, projected.seconds_end_hidden_states]
        embeds = torch.cat([*times, projected.text_hidden_states], dim=1)
        return embeds, F.pad(attention_mask.bool() & spoken[:, None], (2, 0), value=True)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        times, text = prompt_embeds[:, :2], prompt_embeds[:, 2:]
        mask = text.new_ones(text.shape[:2]) if attention_mask is None else attention_mask[:, 2:].to(text.dtype)
        text = F.pad(text * mask[..., None], (0, 0, 0, self.num_text_tokens - text.shape[1]))
        spoken = mask.amax(dim=1, keepdim=True)[..., None] if mask.shape[1] else mask.new_zeros(len(mask), 1, 1)
        return {
            "encoder_hidden_states": torch.cat([text, times], dim=1) * spoken,
            "global_hidden_states": times.flatten(1)[:, None],
        }


class SentenceTokenConditioning(PromptConditioning):
    """44.1 kHz SoundCTM: the L2-normalised CLAP embedding of the prompt, (B, 1, width), is the one token attended to.

    With a `ClapTextModelWithProjection` it is the one shared with sounds, with a `ClapTextModel` the pooled output.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        return self.config.cross_attention_input_dim

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, attention_mask = self._tokenize(prompts, device)
        output = self.text_encoder(input_ids, attention_mask=attention_mask)
        embeds = F.normalize(output.text_embeds if "text_embeds" in output else output.pooler_output, dim=-1)
        return embeds[:, None], torch.ones(len(prompts), 1, dtype=torch.bool, device=device)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}


def _clap_embedding(clap, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Projected text embedding (B, width) of a CLAP text tower, or of a whole `ClapModel`, which normalises it."""
    if hasattr(clap, "get_text_features"):
        # A model is offloaded until its `forward` is called, which this is not.
        get_text_features = apply_forward_hook(type(clap).get_text_features)
        features = get_text_features(clap, input_ids, attention_mask=attention_mask)
        return getattr(features, "pooler_output", features)
    return clap(input_ids, attention_mask=attention_mask).text_embeds


def sentence_embedding(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """L2-normalised mean over the tokens the mask keeps, (B, L, width) and (B, L) → (B, width), summed in float32."""
    weights = hidden_states.new_ones(hidden_states.shape[:2]) if attention_mask is None else attention_mask
    weights = weights[..., None].float()
    mean = (hidden_states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return F.normalize(mean, dim=-1).to(hidden_states.dtype)
