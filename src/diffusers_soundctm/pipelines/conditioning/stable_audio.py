"""Stable Audio: cross-attention to text and duration, and the duration as global condition."""

import torch
import torch.nn.functional as F

from .base import MAX_TOKENS, PromptConditioning


class StableAudioConditioning(PromptConditioning):
    """One token each for start and end of the waveform, then T5's projected hidden states: (B, 2 + L, width).

    The network is conditioned on text and duration: it attends to the text, padded with zeros to a fixed length,
    followed by the two time tokens, which are also its global condition. The empty prompt is what the model was
    trained with: zeros for everything it attends to, and the time tokens as global condition.
    """

    prompt_embeds_ndim = 3
    needs_audio_length = True
    fixed_length = True
    encoders = ("text_encoder", "tokenizer", "projection_model")

    @property
    def width(self) -> int:
        return self.config.cross_attention_input_dim

    @property
    def num_text_tokens(self) -> int:
        """Number of tokens that a text is padded to: of a student's config, else the tokenizer's limit."""
        if "num_text_tokens" in self.config:
            return self.config.num_text_tokens
        return min(self.tokenizer.model_max_length, MAX_TOKENS)

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._require_encoders()
        input_ids, attention_mask = self._tokenize(prompts, device)
        hidden_states = self.text_encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        has_text = torch.tensor([prompt != "" for prompt in prompts], device=device)
        projected = self.projection_model(
            text_hidden_states=hidden_states.to(self.projection_model.dtype),
            start_seconds=torch.zeros(len(prompts), device=device),
            end_seconds=torch.full((len(prompts),), audio_length_in_s, dtype=torch.float32, device=device),
        )
        times = [projected.seconds_start_hidden_states, projected.seconds_end_hidden_states]
        embeds = torch.cat([*times, projected.text_hidden_states], dim=1)
        return embeds, F.pad(attention_mask.bool() & has_text[:, None], (2, 0), value=True)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        times, text = prompt_embeds[:, :2], prompt_embeds[:, 2:]
        mask = text.new_ones(text.shape[:2]) if attention_mask is None else attention_mask[:, 2:].to(text.dtype)
        text = F.pad(text * mask[..., None], (0, 0, 0, self.num_text_tokens - text.shape[1]))
        has_text = mask.amax(dim=1, keepdim=True)[..., None] if mask.shape[1] else mask.new_zeros(len(mask), 1, 1)
        return {
            "encoder_hidden_states": torch.cat([text, times], dim=1) * has_text,
            "global_hidden_states": times.flatten(1)[:, None],
        }
