"""Stable Audio 3: cross-attention to T5Gemma's states and a duration token, and the duration as global condition."""

import torch
import torch.nn.functional as F

from .base import PromptConditioning, tokenize

MAX_TEXT_TOKENS = 256  # of the teacher's training


class StableAudio3Conditioning(PromptConditioning):
    """One token for the duration of the waveform, then T5Gemma's hidden states: (B, 1 + L, width).

    The network attends to the text, padded to a fixed length with an embedding that it has learned, followed by the
    duration token, which is also its global condition. The empty prompt is encoded as any other; its duration stays.
    """

    prompt_embeds_ndim = 3
    needs_audio_length = True
    encoders = ("text_encoder", "tokenizer", "duration_embedder")

    @property
    def width(self) -> int:
        """See `PromptConditioning`."""
        return self.config.cond_token_dim

    @property
    def max_audio_length_in_s(self) -> float | None:
        """See `PromptConditioning`."""
        return None if self.duration_embedder is None else self.duration_embedder.config.max_val

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens that a text is padded to: of a student's config, else the teacher's limit."""
        if "num_text_tokens" in self.config:
            return self.config.num_text_tokens
        return min(self.tokenizer.model_max_length, MAX_TEXT_TOKENS)

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PromptConditioning.encode`."""
        self._require_encoders()
        input_ids, attention_mask = tokenize(self.tokenizer, prompts, device, self.num_text_tokens)
        text = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        seconds = torch.full((len(prompts),), audio_length_in_s, dtype=torch.float32, device=device)
        duration = self.duration_embedder(seconds).to(text.dtype)
        return torch.cat([duration[:, None], text], dim=1), F.pad(attention_mask.bool(), (1, 0), value=True)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """See `PromptConditioning.network_kwargs`."""
        duration, text = prompt_embeds[:, :1], prompt_embeds[:, 1:]
        mask = attention_mask
        if mask is None:
            mask = torch.ones(prompt_embeds.shape[:2], dtype=torch.bool, device=prompt_embeds.device)
        padding = self.num_text_tokens - text.shape[1]
        text, mask = F.pad(text, (0, 0, 0, padding)), F.pad(mask[:, 1:].bool(), (0, padding))
        return {
            "encoder_hidden_states": torch.cat([text, duration], dim=1),
            "encoder_attention_mask": F.pad(mask, (0, 1), value=True),
            "global_hidden_states": duration[:, 0],
        }
