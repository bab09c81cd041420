"""The interface that every kind of conditioning implements, and what they share."""

import threading
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.utils import logging
from diffusers.utils.accelerate_utils import apply_forward_hook
from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.get_logger(__name__)

# A tokenizer without a limit of its own reports a huge number. No text encoder of these families reads more than this.
MAX_TOKENS = 512
# A fast tokenizer keeps truncation and padding as state, and fails if two threads set them at once.
_TOKENIZING = threading.Lock()


class PromptConditioning:
    """Encodes prompts once, then turns the stored tensors into keyword arguments of the network.

    In every row, the tokens that the mask keeps come first, so that a prompt can be stored without its padding.

    Args:
        config: configuration of the network.
        text_encoder, tokenizer: the prompt's encoder. Without them, only `network_kwargs` can be used.
        text_encoder_2, tokenizer_2, projection_model, language_model, duration_embedder, condition_encoder: further
            components of some families.

    Attributes:
        prompt_embeds_ndim: number of dimensions of the embeddings that `encode` returns: 3 for (B, L, width), 2 for
            (B, width).
        width: their last dimension.
        needs_audio_length: whether `encode` requires `audio_length_in_s`.
        fixed_length: whether the number of latent positions is fixed, so that shorter audio is a condition alone.
        encoders: names of the components that `encode` requires.
    """

    prompt_embeds_ndim: int
    width: int
    needs_audio_length = False
    fixed_length = False
    encoders: tuple[str, ...] = ("text_encoder", "tokenizer")

    def __init__(
        self,
        config: Any,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        projection_model: ModelMixin | None = None,
        language_model: PreTrainedModel | None = None,
        duration_embedder: ModelMixin | None = None,
        condition_encoder: ModelMixin | None = None,
    ):
        self.config = config
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.text_encoder_2 = text_encoder_2
        self.tokenizer_2 = tokenizer_2
        self.projection_model = projection_model
        self.language_model = language_model
        self.duration_embedder = duration_embedder
        self.condition_encoder = condition_encoder

    @property
    def max_audio_length_in_s(self) -> float | None:
        """Longest audio that the condition can express, in seconds; None if it has no limit."""
        return None

    @property
    def models(self) -> list[torch.nn.Module]:
        """The networks that encode prompts, the text encoder first."""
        parts = (
            self.text_encoder, self.text_encoder_2, self.projection_model, self.language_model, self.duration_embedder,
            self.condition_encoder,
        )  # fmt: skip
        return [part for part in parts if part is not None]

    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode prompts.

        Args:
            prompts: B strings.
            device: device of the text encoders.
            audio_length_in_s: length of the generated waveform in seconds, for kinds with `needs_audio_length`.

        Returns:
            The embeddings, (B, L, width) or (B, width), in the text encoder's dtype, and their boolean mask (B, L) or
            None.
        """
        raise NotImplementedError

    def embed_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embed tokenized prompts, for kinds with one text encoder; this is the part of `encode` that can be exported.

        Args:
            input_ids: token ids, integer (B, L).
            attention_mask: 1 for tokens, 0 for padding, integer (B, L).

        Returns:
            The embeddings, (B, L, width) or (B, width).
        """
        raise NotImplementedError

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Return the network's keyword arguments, a pure function of these tensors and the network's config."""
        raise NotImplementedError

    def negative_mask(
        self, mask: torch.Tensor | None, negative_embeds: torch.Tensor, negative_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """Return the mask of negative prompts, (B, L), in the guidance of prompts whose mask is `mask`."""
        return negative_mask

    def dropped(self, prompt: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        """Return what replaces a prompt that training drops: the empty prompt.

        Args:
            prompt: embeddings of the prompt without padding, (tokens, width).
            empty: those of the empty prompt.
        """
        return empty

    def guided_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """Return the network's keyword arguments for 2·B samples: prompts followed by their negative prompts."""
        if attention_mask is not None:
            mask, negative_mask = attention_mask.chunk(2)
            negative_mask = self.negative_mask(mask, prompt_embeds.chunk(2)[1], negative_mask)
            attention_mask = torch.cat([mask, negative_mask])
        return self.network_kwargs(prompt_embeds, attention_mask)

    def _tokenize(self, prompts: list[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        self._require_encoders()
        return tokenize(self.tokenizer, prompts, device)

    @property
    def missing(self) -> list[str]:
        """Those of `encoders` that are None."""
        return [name for name in self.encoders if getattr(self, name) is None]

    def _require_encoders(self) -> None:
        if self.missing:
            raise ValueError(
                f"The pipeline has no {' and no '.join(self.missing)} to encode prompts with; load "
                f"{' and '.join(self.encoders)}, or pass `prompt_embeds`."
            )


def tokenize(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], device: torch.device, max_length: int = MAX_TOKENS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both integer (B, L). Warns when a prompt is cut to `max_length` tokens."""
    max_length = min(tokenizer.model_max_length, max_length)
    with _TOKENIZING:
        tokens = tokenizer(
            prompts, padding=True, truncation=True, max_length=max_length, return_tensors="pt", padding_side="right"
        )
    for prompt, encoding in zip(prompts, tokens.encodings or (), strict=False):  # a slow tokenizer has no encodings
        if encoding.overflowing:
            cut = tokenizer.decode(encoding.overflowing[0].ids, skip_special_tokens=True)
            logger.warning(
                f"The text encoder reads {max_length} tokens of the prompt {prompt[:40]!r} …; it ignores {cut!r}."
            )
    return tokens.input_ids.to(device), tokens.attention_mask.to(device)


def clap_embedding(clap: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Projected text embedding (B, width) of a CLAP text tower, or of a whole `ClapModel`, which also normalizes it."""
    if hasattr(clap, "get_text_features"):
        # Offloading moves a model to the device in `forward`, which this method bypasses.
        get_text_features = apply_forward_hook(type(clap).get_text_features)
        features = get_text_features(clap, input_ids, attention_mask=attention_mask)
        return getattr(features, "pooler_output", features)
    return clap(input_ids, attention_mask=attention_mask).text_embeds


def sentence_embedding(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
    """L2-normalized mean over the tokens that the mask keeps: (B, L, width) and (B, L) → (B, width).

    The mean is computed in float32.
    """
    weights = hidden_states.new_ones(hidden_states.shape[:2]) if attention_mask is None else attention_mask
    weights = weights[..., None].float()
    mean = (hidden_states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    return F.normalize(mean, dim=-1).to(hidden_states.dtype)


def pad_tokens(embeds: torch.Tensor, mask: torch.Tensor | None, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token embeddings (B, L, width) and their mask to `length` tokens, which are masked out."""
    if mask is None:
        mask = torch.ones(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
    missing = length - embeds.shape[1]
    return F.pad(embeds, (0, 0, 0, missing)), F.pad(mask.bool(), (0, missing))
