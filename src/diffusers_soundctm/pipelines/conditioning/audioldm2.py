"""AudioLDM2: cross-attention to embeddings that GPT-2 generates, and to T5's hidden states."""

import torch
import torch.nn.functional as F

from .base import PromptConditioning, clap_embedding, tokenize


class AudioLDM2Conditioning(PromptConditioning):
    """n embeddings that GPT-2 generates from the CLAP and T5 states, followed by T5's hidden states.

    Both streams are stored in one tensor (B, n + L, width), the narrower one padded with zeros. The mask is True for
    the generated embeddings. Each prompt is encoded alone: padding would shift the positions that GPT-2 reads, so that
    in the original pipeline a prompt's embeddings depend on the longest prompt of its batch.
    """

    prompt_embeds_ndim = 3
    encoders = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "projection_model", "language_model")

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of the generated embeddings and of T5's hidden states."""
        levels = self.config.cross_attention_dim
        level = next(item for item in levels if isinstance(item, (list, tuple)) or item is not None)
        streams = [width for width in level if width is not None] if isinstance(level, (list, tuple)) else [level] * 2
        return streams[0], streams[-1]

    @property
    def width(self) -> int:
        return max(self.widths)

    @property
    def num_generated_tokens(self) -> int:
        """Number of embeddings that GPT-2 generates: n of a student's config, else of the language model's."""
        if "num_generated_tokens" in self.config:
            return self.config.num_generated_tokens
        return getattr(self.language_model.config, "max_new_tokens", None) or 8

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._require_encoders()
        rows = [self._encode_one(prompt, device) for prompt in prompts]
        lengths = torch.tensor([len(row) for row in rows], device=device)
        embeds = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return embeds, torch.arange(embeds.shape[1], device=device) < lengths[:, None]

    def _encode_one(self, prompt: str, device: torch.device) -> torch.Tensor:
        clap = clap_embedding(self.text_encoder, *tokenize(self.tokenizer, [prompt], device))[:, None]
        input_ids, attention_mask = tokenize(self.tokenizer_2, [prompt], device)
        hidden_states = self.text_encoder_2(input_ids, attention_mask=attention_mask).last_hidden_state
        states = self.projection_model(
            hidden_states=clap.to(self.projection_model.dtype),
            hidden_states_1=hidden_states.to(self.projection_model.dtype),
            attention_mask=attention_mask.new_ones(1, 1),
            attention_mask_1=attention_mask,
        ).hidden_states.to(self.language_model.dtype)
        for _ in range(self.num_generated_tokens):
            last = self.language_model(inputs_embeds=states, output_hidden_states=True).hidden_states[-1][:, -1:]
            states = torch.cat([states, last], dim=1)
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
