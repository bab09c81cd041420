"""What training reads instead of audio and text: latents and prompt embeddings, computed once and kept on disk."""

import argparse
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL, ModelMixin
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from ..audio import LogMel, is_waveform_autoencoder, peak_normalize
from ..data import Clips, load_clips
from ..pipelines.conditioning import PromptConditioning, conditioning_for
from .noise_levels import clip_indices


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


class PromptTable:
    """Embeddings of every wording of a data set, stored without padding; index 0 is the empty prompt.

    Attributes:
        wordings: for every clip, the indices of its captions.
    """

    def __init__(self, states: torch.Tensor, lengths: torch.Tensor, masked: bool, wordings: list[list[int]]):
        self.states = states
        self.lengths = lengths
        self.ends = lengths.cumsum(0)
        self.masked = masked
        self.wordings = wordings

    def draw(self, clips: torch.Tensor, dropout: float, generator: torch.Generator) -> torch.Tensor:
        """One wording for each clip index (B,), replaced by the empty prompt with probability `dropout`; (B,)."""
        positions, kept = torch.rand(2, len(clips), generator=generator)
        options = [self.wordings[clip] for clip in clips.tolist()]
        chosen = torch.tensor([o[int(p * len(o))] for o, p in zip(options, positions.tolist(), strict=True)])
        return torch.where(kept < dropout, 0, chosen)

    def embeds(
        self, indices: torch.Tensor, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(prompt_embeds, attention_mask) as from `PromptConditioning.encode`, padded with zeros: (B, L, D), (B, L)."""
        rows = [self.states[self.ends[i] - self.lengths[i] : self.ends[i]] for i in indices.tolist()]
        if not self.masked:
            return torch.cat(rows).to(device, dtype), None
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device, dtype)
        mask = torch.arange(states.shape[1]) < self.lengths[indices, None]
        return states, mask.to(device)


def embed_captions(
    conditioning: PromptConditioning,
    captions: list[list[str]],
    cache_dir: str | os.PathLike,
    *,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    audio_length_in_s: float | None = None,
) -> PromptTable:
    """Embed each wording of `captions` (and the empty prompt) once, fp16 on disk under `cache_dir`.

    Args:
        conditioning: from `conditioning_for(unet, text_encoder, tokenizer)`.
        captions: for every clip, its wordings.
        audio_length_in_s: of the clips, for conditionings that tell it.
    """
    prompts = ["", *sorted({wording for wordings in captions for wording in wordings} - {""})]
    more = conditioning.models[1:] + ([audio_length_in_s] if conditioning.needs_audio_length else [])
    path = Path(cache_dir) / f"prompts-{fingerprint(conditioning.text_encoder, prompts, *more)}.safetensors"
    if not path.exists():
        for model in conditioning.models:
            model.to(device).eval()
        # Prompts of like length share a batch, so that little is padded.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        states: list[torch.Tensor] = [torch.empty(0)] * len(prompts)
        masked = False
        for start in tqdm(range(0, len(order), batch_size), desc="embedding captions", unit="batch"):
            chosen = order[start : start + batch_size]
            embeds, mask = conditioning.encode([prompts[i] for i in chosen], torch.device(device), audio_length_in_s)
            masked = mask is not None
            for row, i in enumerate(chosen):
                states[i] = (embeds[row][mask[row]] if masked else embeds[row : row + 1]).half().cpu()
        lengths = torch.tensor([len(rows) for rows in states])
        save_atomically({"states": torch.cat(states), "lengths": lengths, "masked": torch.tensor(masked)}, path)
    stored = load_file(path)
    position = {prompt: i for i, prompt in enumerate(prompts)}
    wordings = [[position[wording] for wording in options] for options in captions]
    return PromptTable(stored["states"], stored["lengths"], bool(stored["masked"]), wordings)


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


def training_data(args: argparse.Namespace, unet: ModelMixin, device: torch.device | str) -> TrainingData:
    """Load the data set, or what is cached of it, as `config.add_data_arguments` describes it, to train `unet`."""
    text_encoder = AutoModel.from_pretrained(args.text_encoder)
    conditioning = conditioning_for(unet, text_encoder, AutoTokenizer.from_pretrained(args.text_encoder))
    clips = clips_of(args)
    latents = encode_latents(AutoencoderKL.from_pretrained(args.vae), clips, cache_folder(args), device=device)
    prompts = embed_captions(conditioning, clips.captions, cache_folder(args), device=device)
    return TrainingData(latents, prompts, conditioning)


def cache_folder(args: argparse.Namespace) -> Path:
    return Path(args.cache_dir or Path(args.output_dir) / "cache")


def clips_of(args: argparse.Namespace, num_channels: int = 1) -> Clips:
    """The data set that the arguments of `config.add_data_arguments` describe."""
    return load_clips(
        args.dataset_name,
        audio_column=args.audio_column,
        caption_column=args.caption_column,
        sampling_rate=args.sampling_rate,
        num_samples=args.num_samples,
        max_samples=args.max_train_samples,
        cache_dir=cache_folder(args),
        num_channels=num_channels,
    )
