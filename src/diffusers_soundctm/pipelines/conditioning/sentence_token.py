"""The 44.1 kHz SoundCTM: cross-attention to one token, CLAP's embedding of the prompt."""

import torch
import torch.nn.functional as F

from .base import PromptConditioning


class SentenceTokenConditioning(PromptConditioning):
    """The L2-normalized CLAP embedding of the prompt, (B, 1, width), the only token that the network attends to.

    From a `ClapTextModelWithProjection` it is the text embedding that CLAP shares with audio, from a `ClapTextModel`
    the pooled output.
    """

    prompt_embeds_ndim = 3

    @property
    def width(self) -> int:
        return self.config.cross_attention_input_dim

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embeds = self.embed_tokens(*self._tokenize(prompts, device))
        return embeds, torch.ones(len(prompts), 1, dtype=torch.bool, device=device)

    def embed_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        output = self.text_encoder(input_ids, attention_mask=attention_mask)
        return F.normalize(output.text_embeds if "text_embeds" in output else output.pooler_output, dim=-1)[:, None]

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask}
