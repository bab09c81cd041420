"""What training reads instead of audio and text: latents and prompt embeddings, computed once and kept on disk."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import ModelMixin
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..audio import LogMel, is_waveform_autoencoder, peak_normalize
from .clips import Clips


def fingerprint(*parts: object) -> str:
    """Hexadecimal digest of numbers, strings, arrays and modules' weights: the name of a cache file."""
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


def save_atomically(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file that is either complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def autoencoder_input(vae: ModelMixin, waveforms: torch.Tensor) -> torch.Tensor:
    """What `vae` encodes: waveforms (B, channels, samples) as they are, or the log-mels (B, 1, frames, mels) of mono
    ones (B, samples) with a peak of 0.5.
    """
    if is_waveform_autoencoder(vae):
        return waveforms if waveforms.ndim == 3 else waveforms[:, None]
    return LogMel().to(waveforms.device)(peak_normalize(waveforms))[:, None]


@torch.no_grad()
def encode_latents(
    vae: ModelMixin,
    clips: Clips,
    cache_dir: str | os.PathLike,
    *,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Scaled latents of every clip, bf16 (N, C, T, F), from `cache_dir` if they were computed before.

    A clip is normalised to a peak of 0.5; the latent is the posterior's mode times the VAE's `scaling_factor`. An
    autoencoder of waveforms gets the clip's own level and gives (N, C, T).

    Args:
        vae: autoencoder of log-mel spectrograms (B, 1, frames, mels); `config.scaling_factor` is read. Or one of
            waveforms (B, channels, samples).
        clips: waveforms int16 (N, samples) or (N, channels, samples) at the VAE's rate.
        cache_dir: folder of the cache; the file is named after the weights and the clips.
        batch_size, device, dtype: how the encoder is run.
    """
    scale = vae.config.get("scaling_factor", 1.0)
    path = Path(cache_dir) / f"latents-{fingerprint(vae, scale, clips.waveforms)}.safetensors"
    if not path.exists():
        vae = vae.to(device).eval()
        batches = []
        for start in tqdm(range(0, len(clips), batch_size), desc="encoding clips", unit="batch"):
            waveforms = torch.from_numpy(clips.waveforms[start : start + batch_size].astype("float32") / 32768)
            sound = autoencoder_input(vae, waveforms.to(device))
            with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
                posterior = vae.encode(sound).latent_dist
            batches.append((posterior.mode().float() * scale).to(torch.bfloat16).cpu())
        save_atomically({"latents": torch.cat(batches)}, path)
    return load_file(path)["latents"]
