"""Latent heads: small networks that read loudness, brightness, onsets and pitch off noisy latents."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from .measures import onset_strength, spectral_centroid, waveform_level
from .objectives import quantities_of
from .pitch import pitch_bins, pitch_logits
from .sound import Sound

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

FOLDER = "control_heads"  # beside the components of a pipeline
CURVES = ("loudness", "brightness", "onsets")
SILENCE_DB = -70.0  # quieter frames count as this, and have no brightness
_FREQUENCIES = 8


class LatentHeads(ModelMixin, ConfigMixin):
    """Read the curves of the final sound off latents at any noise level: a convolutional network over time.

    It sees c_in(t)·z_t and ln t. Guidance by its gradient needs no pass through the denoiser or the decoder.

    Args:
        in_channels: Channels times width of the latents.
        frames_per_position: Mel frames per latent position in time.
        hidden_size: Channels of the hidden layers.
        num_layers: Residual layers. Each sees two more positions on either side.
        sigma_data: Standard deviation of the latents.
        means: Mean of loudness (dB), brightness (octaves) and onsets.
        stds: Their standard deviations.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 128,
        frames_per_position: int = 4,
        hidden_size: int = 128,
        num_layers: int = 4,
        sigma_data: float = 0.5,
        means: tuple[float, ...] = (-35.0, 10.5, 0.1),
        stds: tuple[float, ...] = (15.0, 1.0, 0.1),
    ):
        super().__init__()
        self.noise_embedding = torch.nn.Sequential(
            torch.nn.Linear(2 * _FREQUENCIES, hidden_size), torch.nn.SiLU(), torch.nn.Linear(hidden_size, hidden_size)
        )
        self.conv_in = torch.nn.Conv1d(in_channels, hidden_size, 3, padding=1)
        self.layers = torch.nn.ModuleList(_Layer(hidden_size) for _ in range(num_layers))
        num_out = frames_per_position * len(CURVES) + len(pitch_bins())
        self.conv_out = torch.nn.Conv1d(hidden_size, num_out, 1)

    def forward(self, latents: torch.Tensor, sigma: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read the curves.

        Args:
            latents: z_t, (B, C, time, width) or (B, C, time).
            sigma: t, above 0, scalar or (B,).

        Returns:
            `loudness` in dB, `brightness` in octaves above 1 Hz, `onsets`, each (B, frames), and `pitch`, the logits of
            `pitch_bins`, (B, frames, bins).
        """
        config: Any = self.config
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=latents.device).expand(len(latents))
        scale = (sigma.square() + config.sigma_data**2).rsqrt()
        x = latents.transpose(1, 2).flatten(2).transpose(1, 2) * scale[:, None, None]
        octaves = 2.0 ** torch.arange(_FREQUENCIES, device=x.device) / 4
        angles = sigma.log()[:, None] / 4 * octaves
        noise = self.noise_embedding(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        x = self.conv_in(x.to(self.dtype))
        for layer in self.layers:
            x = layer(x, noise)
        x = self.conv_out(torch.nn.functional.silu(x)).float()
        frames = config.frames_per_position
        readings = {}
        for number, name in enumerate(CURVES):
            curve = x[:, number * frames : (number + 1) * frames].transpose(1, 2).flatten(1)
            readings[name] = config.means[number] + config.stds[number] * curve
        logits = x[:, len(CURVES) * frames :].transpose(1, 2)
        return readings | {"pitch": logits.repeat_interleave(frames, dim=1)}

    @classmethod
    def of_pipeline(cls, pipe: "SoundCTMPipeline") -> "LatentHeads | None":
        """Return the heads in the folder that `pipe` was loaded from, on its device; None if there are none."""
        folder = Path(str(pipe.config.get("_name_or_path", ""))) / FOLDER
        return _load(folder, pipe.device) if (folder / "config.json").is_file() else None

    def can_read(self, objective: Callable[[Sound], torch.Tensor]) -> bool:
        """Whether the heads read all that `objective` measures."""
        return quantities_of(objective) <= {*CURVES, "pitch"}

    def sound(self, pipe: "SoundCTMPipeline", latents: torch.Tensor, sigma: torch.Tensor, num_samples: int) -> Sound:
        """Return the sound that z_t will become, as far as the heads read it. It has no mel and no waveform."""
        sound = Sound.of_latents(pipe, latents, num_samples)
        frames = max(num_samples // sound.front_end.hop_length, 1)
        sound.readings = {name: curve[:, :frames] for name, curve in self(latents, sigma).items()}
        return sound


class _Layer(torch.nn.Module):
    """x + conv(SiLU(scale·norm(x) + shift)), with scale and shift from the noise level."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = torch.nn.GroupNorm(1, hidden_size, affine=False)
        self.modulation = torch.nn.Linear(hidden_size, 2 * hidden_size)
        self.conv = torch.nn.Conv1d(hidden_size, hidden_size, 5, padding=2)

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(noise)[:, :, None].chunk(2, dim=1)
        return x + self.conv(torch.nn.functional.silu((1 + scale) * self.norm(x) + shift))


@torch.no_grad()
def head_targets(sound: Sound, frames_per_position: int) -> dict[str, torch.Tensor]:
    """Return what the heads are trained to read: the curves of a sound, and `pitch`, probabilities (B, time, bins)."""
    pitch = pitch_logits(sound).softmax(dim=-1).transpose(1, 2)
    return {
        "loudness": waveform_level(sound).clamp(min=SILENCE_DB),
        "brightness": spectral_centroid(sound),
        "onsets": onset_strength(sound),
        "pitch": torch.nn.functional.avg_pool1d(pitch, frames_per_position).transpose(1, 2),
    }


def head_loss(
    readings: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], stds: Iterable[float]
) -> dict[str, torch.Tensor]:
    """Return the loss of each head: the squared error over the variance, and the cross entropy of the pitch, scalars.

    The squared error makes a head read the expectation of the curve given z_t. Silence has no brightness.
    """
    losses = {}
    audible = targets["loudness"] > SILENCE_DB
    for name, std in zip(CURVES, stds, strict=True):
        frames = targets[name].shape[1]
        error = ((readings[name][:, :frames] - targets[name]) / std).square()
        losses[name] = error[audible].mean() if name == "brightness" else error.mean()
    per_position = readings["pitch"].shape[1] // targets["pitch"].shape[1]
    log_probability = readings["pitch"][:, ::per_position].log_softmax(dim=-1)[:, : targets["pitch"].shape[1]]
    entropy = (targets["pitch"] * targets["pitch"].clamp(min=1e-9).log()).sum(dim=-1)
    losses["pitch"] = (entropy - (targets["pitch"] * log_probability).sum(dim=-1)).mean() / math.log(len(pitch_bins()))
    return losses


@lru_cache(maxsize=4)
def _load(folder: Path, device: torch.device) -> LatentHeads:
    with torch.inference_mode(False):
        heads: Any = LatentHeads.from_pretrained(folder, torch_dtype=torch.float32)
        return heads.eval().requires_grad_(False).to(device)
