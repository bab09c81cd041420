"""Latents and prompt embeddings of a data set of any size, precomputed into shards that training reads row by row.

    latents.json              {"latent_shape", "masked", "shards": [clips of each], "teacher", "skipped"}, written last
    empty.safetensors         the empty prompt's states
    shard-00000.safetensors   latents (n, C, ...) bf16; states (tokens, D) fp16 of all wordings one after the other;
                              lengths (wordings,) in tokens; wordings (n,) of each clip

Shard k holds the usable clips among rows k·S to (k+1)·S of the data set. So a stopped run goes on at its first missing
shard, and several processes need not speak to each other.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from .batches import Batch
from .captions import wordings_of
from .clips import MAX_CORRUPT_FRACTION, sounding, to_int16
from .latents import autoencoder_input, save_atomically
from .sampling import clip_indices

INDEX = "latents.json"


def shard_path(folder: str | os.PathLike, number: int) -> Path:
    return Path(folder) / f"shard-{number:05d}.safetensors"


def is_precomputed(folder: str | os.PathLike) -> bool:
    return (Path(folder) / INDEX).is_file()


@dataclass
class Encoder:
    """Turns rows of a data set into a shard's tensors, by a teacher's autoencoder and text encoders.

    Args:
        teacher: a `Teacher`.
        audio_column, caption_column: of the rows; audio undecoded, captions a string or a list. "json.caption" is the
            key `caption` of column `json`.
        num_samples: length of a clip.
        batch_size, device: how the encoders are run.
    """

    teacher: Any
    audio_column: str = "audio"
    caption_column: str = "caption"
    num_samples: int = 81920
    batch_size: int = 16
    device: torch.device | str = "cpu"
    skipped: list[str] = field(default_factory=list)
    seen: int = 0

    @torch.no_grad()
    def encode(self, rows: Iterable[dict[str, Any]], dataset: str) -> dict[str, torch.Tensor]:
        """The tensors of a shard; broken and silent clips are left out and named in `skipped`.

        Raises:
            ValueError: a column is missing, a caption is empty, or more than 1 % of the clips are unusable.
        """
        waveforms, wordings = [], []
        for row in rows:
            self.seen += 1
            audio, captions = (column_of(row, name, dataset) for name in (self.audio_column, self.caption_column))
            name = (audio or {}).get("path") or f"row {self.seen}"
            captions = wordings_of(captions, self.caption_column, name, dataset)
            try:
                sound = sounding(
                    audio or {"bytes": None, "path": None},
                    self.teacher.sampling_rate,
                    self.num_samples,
                    self.teacher.num_channels,
                )
            except ValueError as error:
                self.skipped.append(f"{name} {error}")
                continue
            waveforms.append(torch.from_numpy(to_int16(sound, self.num_samples)))
            wordings.append(captions)
        # A few are let pass before the share means anything.
        if len(self.skipped) > max(2, MAX_CORRUPT_FRACTION * self.seen):
            raise ValueError(
                f"{len(self.skipped)} of {self.seen} clips of {dataset!r} are corrupt or silent: "
                f"{'; '.join(self.skipped[:20])}. Repair or remove these files."
            )
        latents = [self.latents(torch.stack(some)) for some in batched(waveforms, self.batch_size)]
        states = self.prompts([wording for options in wordings for wording in options])
        width = self.teacher.conditioning.width
        return {
            "latents": torch.cat(latents) if latents else torch.empty(0, dtype=torch.bfloat16),
            "states": torch.cat(states) if states else torch.empty(0, width, dtype=torch.float16),
            "lengths": torch.tensor([len(rows) for rows in states], dtype=torch.int32),
            "wordings": torch.tensor([len(options) for options in wordings], dtype=torch.int32),
        }

    def latents(self, waveforms: torch.Tensor) -> torch.Tensor:
        """int16 waveforms → scaled latents, bf16."""
        vae = self.teacher.components["vae"].to(self.device).eval()
        sound = autoencoder_input(vae, (waveforms.float() / 32768).to(self.device))
        latents = vae.encode(sound).latent_dist.mode().float() * vae.config.get("scaling_factor", 1.0)
        return latents.to(torch.bfloat16).cpu()

    def prompts(self, prompts: list[str]) -> list[torch.Tensor]:
        """The states of each prompt, fp16 (tokens, D)."""
        conditioning = self.teacher.conditioning
        for model in conditioning.models:
            model.to(self.device).eval()
        states = []
        for some in batched(prompts, self.batch_size):
            embeds, mask = conditioning.encode(some, torch.device(self.device), self.audio_length_in_s)
            states += [
                (embeds[row : row + 1] if mask is None else embeds[row][mask[row]]).half().cpu()
                for row in range(len(some))
            ]
        return states

    @property
    def audio_length_in_s(self) -> float:
        return self.num_samples / self.teacher.sampling_rate


def column_of(row: dict[str, Any], name: str, dataset: str) -> Any:
    """row[name], or row[a][b] for "a.b"."""
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise ValueError(
                f"Column {name!r} is not in data set {dataset!r}, which has {sorted(row)}; name the right ones with "
                "--audio_column and --caption_column."
            )
        value = value[key]
    return value


def batched(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def write_shard(folder: str | os.PathLike, number: int, tensors: dict[str, torch.Tensor]) -> None:
    save_atomically(tensors, shard_path(folder, number))


def write_index(folder: str | os.PathLike, num_shards: int, encoder: Encoder, teacher_name: str) -> None:
    """Close a folder whose shards are all there."""
    folder, sizes, shape = Path(folder), [], None
    for number in range(num_shards):
        with safe_open(shard_path(folder, number), "pt") as file:
            latents = file.get_slice("latents").get_shape()
        sizes.append(latents[0])
        shape = latents[1:] if latents[0] else shape
    if not sum(sizes):
        raise ValueError("The data set has no usable clip.")
    save_atomically({"states": encoder.prompts([""])[0]}, folder / "empty.safetensors")
    index = {
        "latent_shape": shape,
        "masked": encoder.teacher.conditioning.prompt_embeds_ndim == 3,
        "shards": sizes,
        "teacher": teacher_name,
        "num_samples": encoder.num_samples,
        "skipped": encoder.skipped,
    }
    temporary = folder / f"{INDEX}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / INDEX)


class ShardedData:
    """A folder of shards as `DistillationData`; only the rows of a batch are read.

    Raises:
        ValueError: the shards are of another teacher's latents or prompts, or not complete.
    """

    def __init__(self, folder: str | os.PathLike, teacher: Any):
        self.folder, self.conditioning = Path(folder), teacher.conditioning
        index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        self.latent_shape, self.masked = tuple(index["latent_shape"]), index["masked"]
        self.num_samples = index["num_samples"]
        self.ends = torch.tensor(index["shards"]).cumsum(0).tolist()
        missing = [number for number in range(len(self.ends)) if not shard_path(self.folder, number).is_file()]
        if missing:
            raise ValueError(f"{folder} lacks {shard_path('', missing[0])}; run precompute.py again.")
        self.empty = load_file(self.folder / "empty.safetensors")["states"]
        channels = teacher.network.config.in_channels
        if (self.latent_shape[0], self.empty.shape[1]) != (channels, self.conditioning.width):
            raise ValueError(
                f"{folder} was precomputed with {index['teacher']}: {self.latent_shape[0]} channels and prompts of "
                f"width {self.empty.shape[1]}; this teacher needs {channels} and {self.conditioning.width}."
            )

    def __len__(self) -> int:
        return self.ends[-1]

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        return clip_indices(len(self), batch_size, number, seed)

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        position, kept = torch.rand(2, len(clips), generator=generator)
        chosen = list(zip(clips[rows].tolist(), position[rows].tolist(), kept[rows].tolist(), strict=True))

        def batch(device):
            latents, prompts = [], []
            for clip, where, keep in chosen:
                latent, states = self._read(clip, where)
                latents.append(latent)
                prompts.append(self.empty if keep < caption_dropout else states)
            clean = torch.stack(latents).to(device, torch.float32)
            guided = prompts + [self.empty] * len(prompts)
            return clean, self._network_kwargs(prompts, device), self._network_kwargs(guided, device)

        return batch

    def _read(self, clip: int, where: float) -> tuple[torch.Tensor, torch.Tensor]:
        number = bisect_right(self.ends, clip)
        row = clip - (self.ends[number - 1] if number else 0)
        file, first, wordings, token_ends = _open_shard(shard_path(self.folder, number))
        prompt = int(first[row]) + int(where * int(wordings[row]))
        start = int(token_ends[prompt - 1]) if prompt else 0
        states = file.get_slice("states")[start : int(token_ends[prompt])]
        return file.get_slice("latents")[row : row + 1][0], states

    def _network_kwargs(self, prompts: list[torch.Tensor], device) -> dict[str, torch.Tensor | None]:
        if not self.masked:
            return self.conditioning.network_kwargs(torch.cat(prompts).to(device, torch.float32), None)
        lengths = torch.tensor([len(states) for states in prompts])
        embeds = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
        mask = torch.arange(embeds.shape[1]) < lengths[:, None]
        return self.conditioning.network_kwargs(embeds.to(device, torch.float32), mask.to(device))


@lru_cache(maxsize=64)
def _open_shard(path: Path) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(file, first prompt of each clip, number of them, end of each prompt's tokens)."""
    file = safe_open(path, "pt")
    wordings = file.get_tensor("wordings").long()
    return file, wordings.cumsum(0) - wordings, wordings, file.get_tensor("lengths").long().cumsum(0)
