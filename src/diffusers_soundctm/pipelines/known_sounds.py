"""The kinds of sounds that a model knows, and a warning about prompts that are far from all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging
from safetensors import SafetensorError
from safetensors.torch import load_file
from typing_extensions import Self

from ..files import save_safetensors, write_json
from ..hub import KNOWN_SOUNDS, KNOWN_SOUNDS_WEIGHTS, read_known_sounds
from .conditioning.base import sentence_embedding

logger = logging.get_logger(__name__)

NEAREST = 3  # kinds that the warning names
FALSE_ALARMS = 0.002  # fraction of held-out captions of the kinds below the threshold


class KnownSounds:
    """The kinds that a model was trained on, with prompts of each in the text encoder's own embedding.

    The similarity of a prompt is the largest cosine between its embedding and those of the example prompts. Prompts
    below the threshold are unknown.

    Args:
        kinds: Kind to example prompts.
        embeddings: Unit-norm embeddings of the example prompts, in order, (n, width).
        threshold: Smallest similarity of a known prompt.
    """

    def __init__(self, kinds: Mapping[str, Sequence[str]], embeddings: torch.Tensor, threshold: float):
        self.kinds = {kind: list(prompts) for kind, prompts in kinds.items()}
        self.embeddings, self.threshold = embeddings.float(), threshold
        self._names = [kind for kind, prompts in self.kinds.items() for _ in prompts]
        if embeddings.ndim != 2 or len(embeddings) != len(self._names):
            raise ValueError(f"{tuple(embeddings.shape)} embeddings for {len(self._names)} prompts; pass one for each.")

    @classmethod
    def fit(
        cls,
        kinds: Mapping[str, Sequence[str]],
        embeddings: torch.Tensor,
        heldout: torch.Tensor,
        false_alarms: float = FALSE_ALARMS,
    ) -> Self:
        """Set the threshold so that a fraction `false_alarms` of held-out captions lies below it.

        Args:
            kinds: Kind to example prompts.
            embeddings: Of the example prompts, (n, width).
            heldout: Embeddings of other captions of the kinds, (m, width).
            false_alarms: Fraction of `heldout` that is taken for unknown.
        """
        known = cls(kinds, embeddings, 0.0)
        known.threshold = round(float(np.quantile(known.similarities(heldout).amax(dim=1), false_alarms)), 4)
        return known

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote into a model's folder; None for a model without known kinds.

        Raises:
            OSError: a file is damaged.
        """
        content, file = read_known_sounds(folder), folder / KNOWN_SOUNDS_WEIGHTS
        if not content.get("kinds"):
            return None
        try:
            return cls(content["kinds"], load_file(file)["embeddings"], float(content["threshold"]))
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise OSError(f"{file} does not fit {KNOWN_SOUNDS} ({error}); download or copy the model again.") from error

    def save(self, folder: Path) -> None:
        """Write the kinds as JSON and the embeddings as float16 into a model's folder."""
        write_json(folder / KNOWN_SOUNDS, {"threshold": self.threshold, "kinds": self.kinds})
        save_safetensors({"embeddings": self.embeddings.half()}, folder / KNOWN_SOUNDS_WEIGHTS)

    def similarities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines of unit-norm embeddings (N, width) with those of the example prompts, (N, n), float32, on the CPU."""
        return embeddings.detach().to("cpu", torch.float32) @ self.embeddings.T

    def unknown(self, prompts: Sequence[str], embeddings: torch.Tensor) -> dict[str, list[str]]:
        """Return the prompts that are far from every kind, each with the kinds that are nearest.

        Args:
            prompts: N prompts. Empty ones are not looked at.
            embeddings: As `embed_prompts` returns them, (N, width).
        """
        found = {}
        for prompt, cosines in zip(prompts, self.similarities(embeddings), strict=True):
            if prompt.strip() and cosines.max() < self.threshold:
                order = cosines.argsort(descending=True).tolist()
                found[prompt] = list(dict.fromkeys(self._names[i] for i in order))[:NEAREST]
        return found


def embed_prompts(prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Unit-norm sentence embeddings (N, width) of prompts as `encode_prompt` returns them."""
    if prompt_embeds.ndim == 2:
        return torch.nn.functional.normalize(prompt_embeds.float(), dim=-1)
    return sentence_embedding(prompt_embeds, attention_mask).float()


def unknown_message(prompt: str, nearest: Sequence[str]) -> str:
    """Return the sentence that people read about a prompt that is far from every kind."""
    return f"The model does not know {prompt!r}; the nearest kinds that it knows are {', '.join(nearest)}."
