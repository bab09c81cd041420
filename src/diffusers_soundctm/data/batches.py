"""What the training loop draws its batches from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ..pipelines.conditioning import PromptConditioning
from .prompts import PromptTable
from .sampling import clip_indices

# What a drawn batch becomes on a device: clean latents (B, ...), float32, the network arguments of their B prompts, and
# those of these prompts followed by B empty ones.
Batch = Callable[[torch.device | str], tuple[torch.Tensor, dict, dict]]


class DistillationData(Protocol):
    """Where `TripleStream` takes clean latents and prompts from."""

    latent_shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Clips of batch `number`, (batch_size,)."""
        ...

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        """The batch of these clips, of which the rows of this process are computed; all its draws are made at once."""
        ...


@dataclass
class TrainingData:
    """Latents bf16 (N, C, T, F), their captions, and what turns captions into network arguments."""

    latents: torch.Tensor
    prompts: PromptTable
    conditioning: PromptConditioning

    def __len__(self) -> int:
        return len(self.latents)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        return clip_indices(len(self), batch_size, number, seed)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        return tuple(self.latents.shape[1:])

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        prompts = self.prompts.draw(clips, caption_dropout, generator)[rows]

        def batch(device):
            return (
                self.latents[clips[rows]].to(device, torch.float32),
                self.network_kwargs(prompts, device),
                self.network_kwargs(torch.cat([prompts, torch.zeros_like(prompts)]), device),
            )

        return batch

    def network_kwargs(
        self, prompts: torch.Tensor, device: torch.device | str = "cpu"
    ) -> dict[str, torch.Tensor | None]:
        """Conditioning of the prompts with these indices, (B,)."""
        return self.conditioning.network_kwargs(*self.prompts.embeds(prompts, device))
