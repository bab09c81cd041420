"""The parts of a pipeline as modules of plain tensors, each of which becomes one ONNX graph.

What differs between families stays inside of the graphs: the network's preconditioning, its timestep, how it reads the
prompt, and the scale of the latents. A runtime only needs the noise levels and the jump.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.export import Dim

from .. import preconditioning
from ..data.latents import denormalize_latents
from ..models.vocoder import ISTFTVocoder
from ..pipelines.conditioning import PromptConditioning
from .real_vocoder import RealVocoder

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline


class TextEncoderGraph(nn.Module):
    """Token ids and attention mask, int64 (B, L) → prompt embeddings (B, L, width), (B, 1, width) or (B, width)."""

    def __init__(self, conditioning: PromptConditioning):
        super().__init__()
        self.model = conditioning.text_encoder
        self.conditioning = conditioning

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.conditioning.embed_tokens(input_ids, attention_mask).float()


class DenoiserGraph(nn.Module):
    """The student with its preconditioning: z_t, t, s, ω and the prompt → the estimate g of z_0, float32.

    The jump to s is G = (s/t)·z_t + (1 − s/t)·g.
    """

    def __init__(self, network: Any, conditioning: PromptConditioning, scheduler: Any):
        super().__init__()
        self.network = network
        self.conditioning = conditioning
        self.prediction_type, self.sigma_data = scheduler.config.prediction_type, scheduler.config.sigma_data
        self.register_buffer("log_sigmas", scheduler.log_sigmas, persistent=False)

    def forward(
        self,
        latents: torch.Tensor,
        sigma: torch.Tensor,
        target_sigma: torch.Tensor,
        guidance_scale: torch.Tensor,
        prompt_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        scale = preconditioning.c_in(sigma, self.prediction_type, self.sigma_data)
        model_output = self.network(
            preconditioning.per_sample(scale, latents) * latents,
            preconditioning.c_noise(sigma, self.prediction_type, self.log_sigmas),
            timestep_cond=torch.stack([target_sigma, guidance_scale], dim=-1),
            **self.conditioning.network_kwargs(prompt_embeds, attention_mask),
        ).sample
        return preconditioning.denoised(model_output, latents, sigma, self.prediction_type, self.sigma_data)


class DecoderGraph(nn.Module):
    """Latents z_0 → log-mels (B, frames, n_mels), or with a waveform autoencoder waveforms (B, channels, samples)."""

    def __init__(self, vae: Any, encodes_waveforms: bool):
        super().__init__()
        self.vae = vae
        self.encodes_waveforms = encodes_waveforms

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        decoded = self.vae.decode(denormalize_latents(self.vae, latents)).sample
        return decoded if self.encodes_waveforms else decoded[:, 0]


@dataclass(frozen=True)
class Graph:
    """A module to export.

    Attributes:
        module: In float32 and evaluation mode.
        inputs: Example inputs by name.
        dynamic: Dimensions that may have any size, by input and axis.
        output: Name of the output.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    dynamic: dict[str, dict[int, Any]]
    output: str


def graphs(pipe: "SoundCTMPipeline", time_multiple: int) -> dict[str, Graph]:
    """The graphs of a pipeline in float32, by name."""
    conditioning = pipe.conditioning
    tokens, time = 7, 3 * time_multiple
    channels, _, *width = pipe.latent_shape(1)
    # diffusers treats batches of 64 and more in a way of their own, which makes no difference to the graph.
    batch, length = Dim("batch", min=1, max=63), Dim("tokens", min=2, max=2**12)
    multiples = Dim("multiples", min=1, max=2**12)
    positions = multiples if time_multiple == 1 else time_multiple * multiples
    ids = torch.zeros(2, tokens, dtype=torch.long)
    text_encoder = TextEncoderGraph(conditioning)
    with torch.no_grad():
        embeds = text_encoder(ids, torch.ones_like(ids))
    per_token = embeds.ndim == 3 and embeds.shape[1] == tokens
    latents = torch.randn(2, channels, time, *width)
    numbers = {"sigma": torch.tensor([9.0, 1.0]), "target_sigma": torch.tensor([2.0, 0.5])}
    numbers["guidance_scale"] = torch.tensor([2.0, 3.0])
    prompt = {"prompt_embeds": embeds} | ({"attention_mask": ids == 0} if per_token else {})
    per_prompt = {0: batch, 1: length} if per_token else {0: batch}
    found = {
        "text_encoder": Graph(
            text_encoder,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")},
            "prompt_embeds",
        ),
        "denoiser": Graph(
            DenoiserGraph(pipe.denoiser, conditioning, pipe.scheduler),
            {"latents": latents, **numbers, **prompt},
            {"latents": {0: batch, 2: positions}, **{name: {0: batch} for name in numbers}}
            | {name: per_prompt for name in prompt},
            "denoised",
        ),
        "decoder": Graph(
            DecoderGraph(pipe.vae, pipe.encodes_waveforms),
            {"latents": latents},
            {"latents": {0: batch, 2: positions}},
            "waveform" if pipe.encodes_waveforms else "mel",
        ),
    }
    if not pipe.encodes_waveforms:
        max_frames = round(pipe.max_audio_length_in_s * pipe.sampling_rate / pipe.hop_length)
        vocoder, multiple = pipe.vocoder, time_multiple * pipe.vae_scale_factor
        found["vocoder"] = Graph(
            RealVocoder(vocoder, max_frames, multiple) if isinstance(vocoder, ISTFTVocoder) else vocoder,
            {"mel": torch.randn(2, 2 * multiple, vocoder.config.model_in_dim) - 5},
            {"mel": {0: batch, 1: multiple * multiples}},
            "waveform",
        )
    return found
