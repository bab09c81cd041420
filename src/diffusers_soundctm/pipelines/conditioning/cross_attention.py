"""Tango, the 16 kHz SoundCTM and the embedded model: cross-attention to the hidden states of a text encoder."""

import torch

from .base import PromptConditioning, sentence_embedding


class CrossAttentionConditioning(PromptConditioning):
    """Hidden states (B, L, width) of a T5 or BERT, attended to under a boolean mask (B, L).

    A network with `class_embed_type="simple_projection"` also gets the sentence embedding, the L2-normalized masked
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
        return self.embed_tokens(input_ids, attention_mask), attention_mask.bool()

    def embed_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        kwargs = {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}
        if self.config.class_embed_type == "simple_projection":
            kwargs["class_labels"] = sentence_embedding(prompt_embeds, attention_mask)
        return kwargs
