"""Embeddings of every caption of a data set, computed once and kept on disk."""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from ..pipelines.conditioning import PromptConditioning
from .latents import fingerprint, save_atomically


class PromptTable:
    """Embeddings of every wording of a data set, stored without padding; index 0 is the empty prompt.

    Attributes:
        wordings: for every clip, the indices of its captions.
    """

    def __init__(self, states: torch.Tensor, lengths: torch.Tensor, masked: bool, wordings: list[list[int]]):
        self.states = states
        self.lengths = lengths
        self.ends = lengths.cumsum(0)
        self.masked = masked
        self.wordings = wordings

    def draw(self, clips: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """One wording for each clip index (B,), replaced by the empty prompt with probability `dropout`; (B,)."""
        positions, kept = torch.rand(2, len(clips), generator=generator)
        options = [self.wordings[clip] for clip in clips.tolist()]
        chosen = torch.tensor([o[int(p * len(o))] for o, p in zip(options, positions.tolist(), strict=True)])
        return torch.where(kept < dropout, 0, chosen)

    def embeds(
        self, indices: torch.Tensor, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(prompt_embeds, attention_mask) as from `PromptConditioning.encode`, padded with zeros: (B, L, D), (B, L)."""
        rows = [self.states[self.ends[i] - self.lengths[i] : self.ends[i]] for i in indices.tolist()]
        if not self.masked:
            return torch.cat(rows).to(device, dtype), None
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device, dtype)
        mask = torch.arange(states.shape[1]) < self.lengths[indices, None]
        return states, mask.to(device)


def embed_captions(
    conditioning: PromptConditioning,
    captions: list[list[str]],
    cache_dir: str | os.PathLike,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    audio_length_in_s: float | None = None,
) -> PromptTable:
    """Embed each wording of `captions` (and the empty prompt) once, fp16 on disk under `cache_dir`.

    Args:
        conditioning: from `conditioning_for(unet, text_encoder, tokenizer)`.
        captions: for every clip, its wordings.
        audio_length_in_s: of the clips, for conditionings that tell it.
    """
    prompts = ["", *sorted({wording for wordings in captions for wording in wordings} - {""})]
    more = conditioning.models[1:] + ([audio_length_in_s] if conditioning.needs_audio_length else [])
    path = Path(cache_dir) / f"prompts-{fingerprint(conditioning.text_encoder, prompts, *more)}.safetensors"
    if not path.exists():
        for model in conditioning.models:
            model.to(device).eval()
        # Prompts of like length share a batch, so that little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        states: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
        masked = False
        for start in tqdm(range(0, len(order), batch_size), desc="embedding captions", unit="batch"):
            chosen = order[start : start + batch_size]
            embeds, mask = conditioning.encode([prompts[i] for i in chosen], torch.device(device), audio_length_in_s)
            masked = mask is not None
            for row, i in enumerate(chosen):
                states[i] = (embeds[row][mask[row]] if masked else embeds[row : row + 1]).half().cpu()
        lengths = torch.tensor([len(rows) for rows in states])
        save_atomically({"states": torch.cat(states), "lengths": lengths, "masked": torch.tensor(masked)}, path)
    stored = load_file(path)
    position = {prompt: i for i, prompt in enumerate(prompts)}
    wordings = [[position[wording] for wording in options] for options in captions]
    return PromptTable(stored["states"], stored["lengths"], bool(stored["masked"]), wordings)
