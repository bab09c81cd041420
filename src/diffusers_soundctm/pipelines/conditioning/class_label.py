"""AudioLDM and MusicLDM: CLAP's text embedding is the class label."""

import torch
import torch.nn.functional as F

from .base import PromptConditioning, clap_embedding


class ClassLabelConditioning(PromptConditioning):
    """The L2-normalized CLAP text embedding (B, width) as class label; no cross-attention, no mask.

    AudioLDM's text encoder is CLAP's text tower, MusicLDM's the whole `ClapModel`.
    """

    prompt_embeds_ndim = 2

    @property
    def width(self) -> int:
        return self.config.projection_class_embeddings_input_dim

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, None]:
        return self.embed_tokens(*self._tokenize(prompts, device)), None

    def embed_tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return F.normalize(clap_embedding(self.text_encoder, input_ids, attention_mask), dim=-1)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        return {"encoder_hidden_states": None, "class_labels": prompt_embeds}
