"""Building blocks of guidance and noise optimization: the look-ahead by a learned jump, and an objective's gradient."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .objectives import evaluate, name_of
from .sound import Sound

Conditions = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True)
class LookAhead:
    """ẑ_0 = G(z_t, t, σ_min): the student's estimate of the final latents, by one differentiable jump.

    Args:
        pipe: The pipeline.
        guidance_scale: ω.
        nu: ν.
        positive: Embeddings and mask of the prompt, from `encode_prompt`.
        negative: Embeddings and mask of the negative prompt. They are ignored for ν = 1.
    """

    tensor_inputs: ClassVar = (
        "previous_latents",
        "prompt_embeds",
        "attention_mask",
        "negative_prompt_embeds",
        "negative_attention_mask",
    )

    pipe: SoundCTMPipeline
    guidance_scale: float
    nu: float
    positive: Conditions
    negative: tuple[torch.Tensor | None, torch.Tensor | None]

    @classmethod
    def of_call(cls, pipe: SoundCTMPipeline, tensors: Mapping[str, torch.Tensor | None]) -> "LookAhead":
        """The look-ahead of a running call, from the pipeline and the `tensor_inputs` that its callbacks get."""
        positive = tensors["prompt_embeds"], tensors["attention_mask"]
        negative = tensors["negative_prompt_embeds"], tensors["negative_attention_mask"]
        return cls(pipe, pipe.guidance_scale, pipe.nu, positive, negative)

    def __call__(self, sample: torch.Tensor, sigma: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Compute ẑ_0, float32.

        Args:
            sample: z_t, (B, C, time, width).
            sigma: t, scalar.
            timestep: c_noise(t), scalar.
        """
        scheduler = self.pipe.scheduler
        sigma_min = torch.as_tensor(scheduler.config.sigma_min, dtype=torch.float32, device=sample.device)
        model_input = scheduler.scale_model_input(sample, timestep)
        model_output = self.pipe.predict(
            model_input, timestep, sigma_min, self.guidance_scale, self.nu, self.positive, self.negative
        )
        return scheduler.jump(model_output, sample, sigma, sigma_min)


def objective_gradient(
    decode: Callable[[torch.Tensor], Sound], objective: Callable[[Sound], torch.Tensor], sample: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute L (B,) and ∇L (B, ...) of `objective(decode(sample))`, both detached and float32.

    Args:
        decode: Function from the sample to a `Sound`.
        objective: Function from the `Sound` to L.
        sample: (B, ...).

    Raises:
        TypeError: The objective returns no tensor.
        ValueError: The objective does not return one number per waveform, or cannot be differentiated.
    """
    with torch.enable_grad():
        sample = sample.detach().float().requires_grad_()
        loss = evaluate(objective, decode(sample))
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss.sum(), sample, allow_unused=True)
    if gradient is None:
        raise ValueError(
            f"`objective` {name_of(objective)} has no gradient; compute it from the sound's latents, mel or waveform "
            "with torch alone, without `detach`, `numpy` or `torch.no_grad`."
        )
    return loss.detach(), gradient


def check_finite(loss: torch.Tensor, objective: Callable[[Sound], torch.Tensor]) -> None:
    """Raise `ValueError` if the objective is NaN or infinite for all waveforms, which is an error of the objective."""
    if not loss.isfinite().any():
        raise ValueError(
            f"`objective` {name_of(objective)} returned {loss.tolist()}, which is not finite; check its logarithms, "
            "roots and divisions at silence."
        )


def per_sample_norm(values: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each sample, (B, 1, 1, ...)."""
    return values.flatten(1).norm(dim=1).reshape(-1, *[1] * (values.ndim - 1))


# How many running blocks of `frozen` hold each weight; threads may share a pipeline.
_holders: dict[torch.nn.Parameter, int] = {}
_holders_lock = threading.Lock()


@contextmanager
def frozen(pipe: SoundCTMPipeline) -> Iterator[None]:
    """Disable the gradients of all weights, so that the backward pass keeps no activations for them.

    They are enabled again when the last of the running blocks ends.

    Raises:
        RuntimeError: `torch.inference_mode` is enabled, in which nothing can be differentiated.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Control needs gradients; call it outside `torch.inference_mode()`. `torch.no_grad()` works."
        )
    networks = (network for network in pipe.components.values() if isinstance(network, torch.nn.Module))
    weights = [weight for network in networks for weight in network.parameters()]
    with _holders_lock:
        weights = [weight for weight in weights if weight.requires_grad or weight in _holders]
        for weight in weights:
            _holders[weight] = _holders.get(weight, 0) + 1
            weight.requires_grad_(False)
    try:
        yield
    finally:
        with _holders_lock:
            for weight in weights:
                _holders[weight] -= 1
                if _holders[weight] == 0:
                    del _holders[weight]
                    weight.requires_grad_(True)
