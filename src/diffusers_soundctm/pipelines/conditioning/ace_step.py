"""ACE-Step 1.5: cross-attention to its condition encoder's states of lyrics, timbre and text."""

import torch

from .base import PromptConditioning, tokenize

MAX_TEXT_TOKENS = 256  # of the teacher's pipeline
MAX_AUDIO_LENGTH_IN_S = 600.0
TIMBRE_POSITIONS = 750  # 30 s of latents
INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"


class AceStepConditioning(PromptConditioning):
    """One sequence of lyrics, timbre and text: (B, L, width). Prompts are text; there are no lyrics and no timbre.

    The text names the length in whole seconds; tempo, key and time signature are left to the model. The empty prompt is
    the embedding that the model has learned for it, one token.
    """

    prompt_embeds_ndim = 3
    needs_audio_length = True
    encoders = ("text_encoder", "tokenizer", "condition_encoder")

    @property
    def width(self) -> int:
        """See `PromptConditioning`."""
        return self.config.encoder_hidden_size or self.config.hidden_size

    @property
    def max_audio_length_in_s(self) -> float | None:
        """See `PromptConditioning`."""
        return MAX_AUDIO_LENGTH_IN_S

    @torch.no_grad()
    def encode(
        self, prompts: list[str], device: torch.device, audio_length_in_s: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PromptConditioning.encode`."""
        self._require_encoders()
        # The layout that the teacher was trained with, to the letter.
        metas = f"- bpm: N/A\n- timesignature: N/A\n- keyscale: N/A\n- duration: {int(audio_length_in_s)} seconds\n"
        texts = [
            f"# Instruction\n{INSTRUCTION}\n\n# Caption\n{prompt}\n\n# Metas\n{metas}<|endoftext|>\n"
            for prompt in prompts
        ]
        ids, text_mask = tokenize(self.tokenizer, texts, device, MAX_TEXT_TOKENS)
        text = self.text_encoder(input_ids=ids).last_hidden_state
        ids, lyric_mask = tokenize(self.tokenizer, ["# Languages\nen\n\n# Lyric\n<|endoftext|>"], device)
        lyrics = self.text_encoder.get_input_embeddings()(ids)
        dtype, count = self.condition_encoder.dtype, len(prompts)
        silence = self.condition_encoder.silence_latent[:, :TIMBRE_POSITIONS]
        embeds, mask = self.condition_encoder(
            text_hidden_states=text.to(dtype),
            text_attention_mask=text_mask.bool(),
            lyric_hidden_states=lyrics.to(dtype).expand(count, -1, -1),
            lyric_attention_mask=lyric_mask.bool().expand(count, -1),
            refer_audio_acoustic_hidden_states_packed=silence.to(device).expand(count, -1, -1),
            refer_audio_order_mask=torch.arange(count, device=device),
        )
        has_text = torch.tensor([prompt != "" for prompt in prompts], device=device)[:, None]
        empty = self.condition_encoder.null_condition_emb.to(embeds)
        first = torch.arange(embeds.shape[1], device=device) == 0
        return torch.where(has_text[..., None], embeds, empty), torch.where(has_text, mask.bool(), first)

    def network_kwargs(
        self, prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | None]:
        """See `PromptConditioning.network_kwargs`."""
        if attention_mask is None:
            attention_mask = torch.ones(prompt_embeds.shape[:2], dtype=torch.bool, device=prompt_embeds.device)
        return {"encoder_hidden_states": prompt_embeds, "encoder_attention_mask": attention_mask.bool()}
