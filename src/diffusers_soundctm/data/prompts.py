"""Encode prompts, keep their embeddings without padding, and pad them into batches."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from ..files import save_safetensors
from ..pipelines.conditioning import PromptConditioning
from .devices import moved
from .latents import fingerprint


def encode_prompts(
    conditioning: PromptConditioning,
    prompts: Sequence[str],
    *,
    audio_length_in_s: float | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, torch.Tensor]]:
    """Encode prompts one batch after the other, without their padding.

    Args:
        conditioning: Its text encoders are moved to `device`.
        prompts: In any order. Prompts of similar length share a batch, so that little is padded.
        audio_length_in_s: Length of the waveforms in seconds, for a conditioning that needs it.
        batch_size: Prompts per call of the text encoders.
        device: Where the text encoders run.

    Yields:
        The index of a prompt and its embeddings, (tokens, width) on `device`; (1, width) without a mask.
    """
    for model in conditioning.models:
        model.to(device).eval()
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        embeds, mask = conditioning.encode(
            [prompts[index] for index in chosen], torch.device(device), audio_length_in_s
        )
        for row, index in enumerate(chosen):
            yield index, embeds[row : row + 1] if mask is None else embeds[row][mask[row]]


def pad_prompts(
    embeddings: Sequence[torch.Tensor], has_mask: bool, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Pad the embeddings of B prompts with zeros to the longest, and mask the padding.

    Args:
        embeddings: For each prompt, (tokens, width), as `encode_prompts` yields them.
        has_mask: False for a conditioning by one vector per prompt, which is not padded.
        device: Where the results are needed.

    Returns:
        `(prompt_embeds, attention_mask)`: float32 (B, L, width) and boolean (B, L), True for tokens; or (B, width) and
        None without a mask.
    """
    if not has_mask:
        return torch.cat(list(embeddings)).to(device, torch.float32), None
    lengths = torch.tensor([len(rows) for rows in embeddings])
    padded = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True).to(device, torch.float32)
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).to(device)


class PromptTable:
    """Embeddings of every caption of a data set, without padding. Index 0 is the empty prompt.

    Args:
        states: The tokens of all prompts one after the other, (tokens, width).
        lengths: Tokens per prompt, (prompts,).
        conditioning: What encoded them.
        captions: For each clip, the indices of its captions.
    """

    def __init__(
        self,
        states: torch.Tensor,
        lengths: torch.Tensor,
        conditioning: PromptConditioning,
        captions: list[list[int]],
    ):
        self.states, self.lengths = states, lengths
        self.embeddings = states.split(lengths.tolist())
        self.conditioning = conditioning
        self.captions = captions

    def draw(self, clips: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """Draw one caption per clip.

        Args:
            clips: Indices of clips, (B,).
            dropout: Probability that the caption is dropped.
            generator: Source of the draws.

        Returns:
            Indices of prompts, (B,). That of a dropped caption is negated.
        """
        positions, kept = torch.rand(2, len(clips), generator=generator)
        options = [self.captions[clip] for clip in clips.tolist()]
        chosen = torch.tensor([o[int(p * len(o))] for o, p in zip(options, positions.tolist(), strict=True)])
        return torch.where(kept < dropout, -chosen, chosen)

    def embeds(
        self, indices: torch.Tensor, device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the padded embeddings and the mask of prompts, (B,), see `draw` and `pad_prompts`."""
        embeddings = [
            self.conditioning.dropped(self.embeddings[-index], self.embeddings[0])
            if index < 0
            else self.embeddings[index]
            for index in indices.tolist()
        ]
        return pad_prompts(embeddings, self.conditioning.prompt_embeds_ndim == 3, device)


def embed_captions(
    conditioning: PromptConditioning,
    captions: list[list[str]],
    cache_dir: str | os.PathLike,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    audio_length_in_s: float | None = None,
) -> PromptTable:
    """Embed every caption of a data set and the empty prompt once, or read the embeddings of an earlier call.

    Args:
        conditioning: See `conditioning_for`.
        captions: For each clip, its captions.
        cache_dir: Folder that keeps the embeddings in float16. The file is named after the text encoders and captions.
        batch_size: Captions per call of the text encoders.
        device: Where the text encoders run. They are moved back.
        audio_length_in_s: Length of the clips in seconds, for a conditioning that needs it.
    """
    prompts = ["", *sorted({caption for options in captions for caption in options} - {""})]
    more = conditioning.models[1:] + ([audio_length_in_s] if conditioning.needs_audio_length else [])
    path = Path(cache_dir) / f"prompts-{fingerprint(conditioning.text_encoder, prompts, *more)}.safetensors"
    if not path.exists():
        states: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
        encoded = encode_prompts(
            conditioning, prompts, audio_length_in_s=audio_length_in_s, batch_size=batch_size, device=device
        )
        with moved(conditioning.models, device):
            for index, rows in tqdm(encoded, total=len(prompts), desc="embedding captions", unit="caption"):
                states[index] = rows.half().cpu()
        lengths = torch.tensor([len(rows) for rows in states])
        save_safetensors({"states": torch.cat(states), "lengths": lengths}, path)
    stored = load_file(path)
    position = {prompt: index for index, prompt in enumerate(prompts)}
    indices = [[position[caption] for caption in options] for options in captions]
    return PromptTable(stored["states"], stored["lengths"], conditioning, indices)
