"""The feature space of the teacher, in which jumps are compared."""

from collections.abc import Sequence
from typing import Any

import torch

from .denoisers import Preconditioning, arithmetic, cast_floats


class _LastFeatureReached(Exception):
    pass


class TeacherFeatures(torch.nn.Module):
    """A diffusers UNet or transformer that also returns its feature maps.

    Args:
        network: The teacher.
        mode: "full" returns the outputs of every down block, the mid block and every up block, or of all blocks of a
            transformer. "half" returns those of the down blocks, or of the first half of a transformer's blocks; the
            network stops there.

    Raises:
        ValueError: Another `mode`.
    """

    def __init__(self, network: torch.nn.Module, mode: str = "full"):
        super().__init__()
        if mode not in ("full", "half"):
            raise ValueError(f'`mode` is {mode!r}; choose "full" or "half".')
        self.network = network
        self.mode = mode

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Call the network with its own arguments.

        Returns:
            Its output F (None with "half") and its feature maps, each (B, C, ...); of a transformer (B, C, L).
        """
        features: list[torch.Tensor] = []

        def collect(block: torch.nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            feature = output[0] if isinstance(output, tuple) else output
            features.append(feature.transpose(1, 2) if feature.ndim == 3 else feature)
            if block is last:
                raise _LastFeatureReached

        blocks = self._blocks()
        last = blocks[-1] if self.mode == "half" else None
        hooks = [block.register_forward_hook(collect) for block in blocks]
        try:
            return self.network(*args, **kwargs).sample, features
        except _LastFeatureReached:
            return None, features
        finally:
            for hook in hooks:
                hook.remove()

    def _blocks(self) -> list[torch.nn.Module]:
        if hasattr(self.network, "transformer_blocks"):
            blocks = list(self.network.transformer_blocks)
            return blocks if self.mode == "full" else blocks[: (len(blocks) + 1) // 2]
        blocks = list(self.network.down_blocks)
        return blocks if self.mode == "half" else [*blocks, self.network.mid_block, *self.network.up_blocks]


def feature_distance(features: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compute the distance of two lists of feature maps.

        Σ_m mean ‖n(a_m) − n(b_m)‖²

    n normalizes to unit length along the channels.

    Args:
        features: Feature maps (B, C, ...).
        others: Feature maps in the same shapes.

    Returns:
        Distance per sample, (B,), float32.
    """
    return sum(
        (_unit_length(a) - _unit_length(b)).square().flatten(1).mean(1) for a, b in zip(features, others, strict=True)
    )


def _unit_length(feature: torch.Tensor) -> torch.Tensor:
    feature = feature.float()
    return feature / (feature.norm(dim=1, keepdim=True) + 1e-10)


class FeatureSpace:
    """The teacher's features of noisy latents, conditioned on the prompt. Gradients reach the latents.

    Args:
        network: The teacher.
        preconditioning: Its preconditioning.
        mode: "full" or "half", see `TeacherFeatures`.
        precision: Dtype of its products and convolutions, see `denoisers.arithmetic`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preconditioning: Preconditioning,
        mode: str = "full",
        precision: torch.dtype | None = None,
    ):
        self.features = TeacherFeatures(network, mode)
        self.preconditioning = preconditioning
        self.precision = precision

    def __call__(
        self, sample: torch.Tensor, sigma: torch.Tensor, network_kwargs: dict[str, torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """Compute the feature maps of z (B, ...) at σ (B,), given the network's arguments for B prompts."""
        dtype = next(self.features.parameters()).dtype
        model_input, timestep = self.preconditioning.network_input(sample, sigma)
        with arithmetic(self.precision, sample.device):
            return self.features(model_input.to(dtype), timestep, **cast_floats(network_kwargs, dtype))[1]
