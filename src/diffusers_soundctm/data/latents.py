"""Encode waveforms to the latents that networks are trained on."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from safetensors.torch import load_file
from tqdm import tqdm

from ..audio import LogMel, as_samples, is_waveform_autoencoder, peak_normalize
from ..files import save_safetensors
from .clips import Clips
from .devices import moved


def encode(
    vae: ModelMixin, waveforms: torch.Tensor, front_end: LogMel | None = None, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """Encode waveforms to latents z_0 in the unit of the diffusion network.

        z_0 = scaling_factor · (z_vae − latents_mean) / latents_std

    z_vae is the mode of the posterior N(μ, σ²), or its sample μ + σ·noise. An autoencoder of mel spectrograms encodes
    the log-mel of the mono mix, scaled to a peak of 0.5. An autoencoder of waveforms encodes the waveforms unchanged.

    Args:
        vae: Autoencoder of log-mels (B, 1, frames, mels) or of waveforms (B, channels, samples). `scaling_factor`
            (default 1), `latents_mean` (0) and `latents_std` (1) are read from its configuration.
        waveforms: (B, channels, samples) or (B, samples), full scale 1, at the sampling rate of the autoencoder, on its
            device.
        front_end: Mel front end of the model, see `LogMel.for_vocoder`; the 16 kHz AudioLDM one by default. An
            autoencoder of waveforms ignores it.
        noise: Standard normal noise in the shape of the latents, to sample the posterior. None takes its mode. It has
            no effect without a posterior, see `has_posterior`.

    Returns:
        (B, C, time, width), or (B, C, time) from an autoencoder of waveforms; float32, differentiable.
    """
    waveforms = as_samples(waveforms, "waveforms")
    waveforms = waveforms[:, None] if waveforms.ndim == 2 else waveforms
    if not is_waveform_autoencoder(vae):
        front_end = LogMel.for_vocoder(None) if front_end is None else front_end
        waveforms = front_end.to(waveforms.device)(peak_normalize(waveforms.mean(dim=1)))[:, None]
    # LongCat's autoencoder draws from its posterior unless it is told not to.
    mode = {"sample_posterior": False} if "downsampling_ratio" in vae.config else {}
    encoded = vae.encode(waveforms.to(vae.dtype), **mode)
    if not has_posterior(vae):
        latents = encoded.latents
    else:
        posterior = encoded.latent_dist
        latents = posterior.mode() if noise is None else posterior.mean + posterior.std * noise
    return normalize_latents(vae, latents.float())


def has_posterior(vae: ModelMixin) -> bool:
    """Whether latents can be sampled from the autoencoder's posterior: not of `AutoencoderSAME` and LongCat's."""
    return "encoder_strides" not in vae.config and "downsampling_ratio" not in vae.config


def normalize_latents(vae: ModelMixin, latents: torch.Tensor) -> torch.Tensor:
    """Bring latents of the autoencoder to the unit of the diffusion network, see `encode`."""
    mean, scale = _statistics(vae, latents)
    return latents * scale if mean is None else (latents - mean) * scale


def denormalize_latents(vae: ModelMixin, latents: torch.Tensor) -> torch.Tensor:
    """Invert `normalize_latents`."""
    mean, scale = _statistics(vae, latents)
    return latents / scale if mean is None else latents / scale + mean


def _statistics(vae: ModelMixin, latents: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | float]:
    """`latents_mean` and scaling_factor/latents_std, each (C, 1, ...); (None, scaling_factor) without them."""
    mean, std, factor = (vae.config.get(name) for name in ("latents_mean", "latents_std", "scaling_factor"))
    factor = 1.0 if factor is None else factor
    if mean is None and std is None:
        return None, factor
    channels = latents.shape[1]
    mean, std = (
        latents.new_tensor([default] * channels if value is None else value).reshape(-1, *[1] * (latents.ndim - 2))
        for value, default in ((mean, 0.0), (std, 1.0))
    )
    return mean, factor / std


@torch.no_grad()
def encode_latents(
    vae: ModelMixin,
    clips: Clips,
    cache_dir: str | os.PathLike,
    *,
    front_end: LogMel | None = None,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Encode every clip of a data set, or read the latents of an earlier call.

    Args:
        vae: Autoencoder, see `encode`. It runs on `device` and is moved back.
        clips: int16 waveforms (N, samples) or (N, channels, samples) at the sampling rate of the autoencoder.
        cache_dir: Folder that keeps the latents. The file is named after the autoencoder, the front end and the clips.
        front_end: Mel front end, see `encode`.
        batch_size: Clips per call of the autoencoder.
        device: Where the autoencoder runs.

    Returns:
        Latents of the clips, see `encode`; bfloat16, on the CPU.
    """
    settings = [vae.config.get(name) for name in ("scaling_factor", "latents_mean", "latents_std")]
    mels = [] if front_end is None or is_waveform_autoencoder(vae) else list(front_end.buffers())
    name = fingerprint(vae, settings, *(buffer.cpu().numpy() for buffer in mels), clips.waveforms)
    path = Path(cache_dir) / f"latents-{name}.safetensors"
    if not path.exists():
        batches = []
        with moved([vae.eval()], device):
            for start in tqdm(range(0, len(clips), batch_size), desc="encoding clips", unit="batch"):
                waveforms = from_int16(clips.waveforms[start : start + batch_size]).to(device)
                batches.append(encode(vae, waveforms, front_end).to(torch.bfloat16).cpu())
        save_safetensors({"latents": torch.cat(batches)}, path)
    return load_file(path)["latents"]


def from_int16(waveforms: np.ndarray) -> torch.Tensor:
    """int16 samples → float32 in [-1, 1)."""
    return torch.from_numpy(waveforms.astype("float32") / 32768)


def fingerprint(*parts: object) -> str:
    """Hexadecimal digest of numbers, strings, arrays and modules' weights; names a cache file."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.nn.Module):
            for name, tensor in part.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        elif isinstance(part, np.ndarray):
            digest.update(repr((part.shape, part.dtype.str)).encode())
            for start in range(0, len(part), 256):  # a memory map is never in memory as a whole
                digest.update(part[start : start + 256].reshape(-1))
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()[:24]
