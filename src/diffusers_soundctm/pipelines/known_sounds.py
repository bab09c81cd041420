"""The kinds of sounds that a model knows, and a warning about prompts that are far from all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
FALSE_ALARMS = 0.025  # of held-out captions of the kinds, where the threshold is set


class KnownSounds:
    """The kinds that a model was trained on, with captions of each in the text encoder's own embedding.

    The similarity of a prompt is the largest cosine between its embedding and those of the captions. Prompts below the
    threshold are unknown.

    Args:
        kinds: Kind to example prompts.
        names: Kind of each reference, (n,).
        references: Unit-norm embeddings of captions, (n, width).
        threshold: Smallest similarity of a known prompt.
    """

    def __init__(
        self, kinds: Mapping[str, Sequence[str]], names: Sequence[str], references: torch.Tensor, threshold: float
    ):
        self.kinds = {kind: list(prompts) for kind, prompts in kinds.items()}
        self.names, self.references, self.threshold = list(names), references.float(), threshold

    @classmethod
    def fit(
        cls,
        kinds: Mapping[str, Sequence[str]],
        references: Mapping[str, torch.Tensor],
        heldout: torch.Tensor,
        false_alarms: float = FALSE_ALARMS,
    ) -> Self:
        """Set the threshold so that a fraction `false_alarms` of held-out captions lies below it.

        Args:
            kinds: Kind to example prompts.
            references: Kind to embeddings of its captions, (n, width).
            heldout: Embeddings of captions of the kinds that are no references, (m, width).
            false_alarms: Fraction of `heldout` that is taken for unknown.
        """
        names = [kind for kind, embeddings in references.items() for _ in embeddings]
        known = cls(kinds, names, torch.cat(list(references.values())), 0.0)
        known.threshold = round(float(np.quantile(known.similarities(heldout).amax(dim=1), false_alarms)), 4)
        return known

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote into a model's folder; None for a model without known kinds.

        Raises:
            OSError: a file is damaged.
        """
        content = read_known_sounds(folder)
        if not content or not content["kinds"]:
            return None
        file = folder / KNOWN_SOUNDS_WEIGHTS
        try:
            references = load_file(file)["references"]
            names = [kind for kind, count in content["references"].items() for _ in range(count)]
            if references.ndim != 2 or len(references) != len(names):
                raise ValueError(f"{tuple(references.shape)} references for {len(names)} names")
            return cls(content["kinds"], names, references, float(content["threshold"]))
        except (AttributeError, KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise OSError(f"{file} does not fit {KNOWN_SOUNDS} ({error}); download or copy the model again.") from error

    def save(self, folder: Path) -> None:
        """Write the kinds as JSON and the embeddings as float16 into a model's folder."""
        counts = {kind: self.names.count(kind) for kind in dict.fromkeys(self.names)}
        content: dict[str, Any] = {"threshold": self.threshold, "references": counts, "kinds": self.kinds}
        write_json(folder / KNOWN_SOUNDS, content)
        save_safetensors({"references": self.references.half()}, folder / KNOWN_SOUNDS_WEIGHTS)

    def similarities(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines of unit-norm embeddings (N, width) with all references, (N, n), float32, on the CPU."""
        return embeddings.detach().to("cpu", torch.float32) @ self.references.T

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
                found[prompt] = list(dict.fromkeys(self.names[i] for i in order))[:NEAREST]
        return found


def embed_prompts(prompt_embeds: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Unit-norm sentence embeddings (N, width) of prompts as `encode_prompt` returns them."""
    if prompt_embeds.ndim == 2:
        return torch.nn.functional.normalize(prompt_embeds.float(), dim=-1)
    return sentence_embedding(prompt_embeds, attention_mask).float()


def unknown_message(prompt: str, nearest: Sequence[str]) -> str:
    """Return the sentence that people read about a prompt that is far from every kind."""
    return f"The model does not know {prompt!r}; the nearest kinds that it knows are {', '.join(nearest)}."
