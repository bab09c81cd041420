"""LongCat-AudioDiT: cross-attention to UMT5's states."""

import re

import torch
import torch.nn.functional as F

from .base import PromptConditioning


class LongCatConditioning(PromptConditioning):
    """The sum of UMT5's last and first hidden states, each layer-normalized: (B, L, width).

    The empty prompt is zeros. It has as many tokens as the prompt that it guides, or replaces in training. Prompts are
    read in lower case, without quotation marks.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        """See `PromptConditioning`."""
        return self.config.dit_text_dim

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PromptConditioning.encode`."""
        has_text = torch.tensor([prompt != "" for prompt in prompts], device=device)
        prompts = [" ".join(re.sub('["“”‘’]', " ", prompt.lower()).split()) for prompt in prompts]
        input_ids, attention_mask = self._tokenize(prompts, device)
        output = self.text_encoder(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        first, last = (
            F.layer_norm(states, states.shape[-1:], eps=1e-6)
            for states in (output.hidden_states[0], output.last_hidden_state)
        )
        mask = attention_mask.bool()
        mask[:, 0] = True  # a tokenizer may write nothing for ""
        return (first + last) * has_text[:, None, None], mask

    def negative_mask(
        self, mask: torch.Tensor | None, negative_embeds: torch.Tensor, negative_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """See `PromptConditioning.negative_mask`."""
        if mask is None or negative_mask is None:
            return negative_mask
        has_text = negative_embeds.abs().amax(dim=(1, 2)) > 0
        return torch.where(has_text[:, None], negative_mask, mask)

    def dropped(self, prompt: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
        """See `PromptConditioning.dropped`."""
        return torch.zeros_like(prompt)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """See `PromptConditioning.network_kwargs`."""
        if attention_mask is None:
            attention_mask = torch.ones(prompt_embeds.shape[:2], dtype=torch.bool, device=prompt_embeds.device)
        return {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask.bool()}
