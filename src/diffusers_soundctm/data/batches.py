"""What a training step reads: clean latents and the network's arguments for their prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ..pipelines.conditioning import PromptConditioning
from .prompts import PromptTable
from .sampling import clip_indices

# A drawn batch that is computed when it is called with a device. It returns clean latents (B, ...), float32, the
# network's arguments for their B prompts, and its arguments for these prompts followed by B empty ones.
Batch = Callable[[torch.device | str], tuple[torch.Tensor, dict, dict]]


class DistillationData(Protocol):
    """A source of clean latents and prompts.

    Attributes:
        latent_shape: Shape of one clip's latents, without the batch dimension.
    """

    latent_shape: tuple[int, ...]

    def __len__(self) -> int:
        """Number of clips, 0 for a stream."""
        ...

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Return the indices of the clips of batch `number`, (batch_size,)."""
        ...

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        """Make all random draws of a batch at once.

        Args:
            clips: Indices of the clips of all processes, from `order`.
            rows: The rows of the batch that this process computes.
            caption_dropout: Probability of the empty prompt.
            generator: Source of the draws.
        """
        ...


@dataclass
class TrainingData:
    """Latents and prompts of a data set in memory.

    Attributes:
        latents: bfloat16 (N, C, time, width) or (N, C, time).
        prompts: The captions of the N clips.
        conditioning: Turns prompt embeddings into arguments of the network.
    """

    latents: torch.Tensor
    prompts: PromptTable
    conditioning: PromptConditioning

    def __len__(self) -> int:
        return len(self.latents)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Shuffled epochs, see `clip_indices`."""
        return clip_indices(len(self), batch_size, number, seed)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one clip's latents."""
        return tuple(self.latents.shape[1:])

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        """See `DistillationData.draw`."""
        prompts = self.prompts.draw(clips, caption_dropout, generator)[rows]

        def batch(device):
            return (
                self.latents[clips[rows]].to(device, torch.float32),
                self.network_kwargs(prompts, device),
                self.conditioning.guided_kwargs(
                    *self.prompts.embeds(torch.cat([prompts, torch.zeros_like(prompts)]), device)
                ),
            )

        return batch

    def network_kwargs(
        self, prompts: torch.Tensor, device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor | None]:
        """Return the network's arguments for the prompts with these indices, (B,)."""
        return self.conditioning.network_kwargs(*self.prompts.embeds(prompts, device))
