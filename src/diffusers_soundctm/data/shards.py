"""Precompute latents and prompt embeddings of a data set of any size, into shards that training reads row by row.

    latents.json              written last: {"latent_shape", "masked", "shards" (clips per shard), "teacher",
                              "num_samples", "seen", "skipped"}
    empty.safetensors         states of the empty prompt
    shard-00000.safetensors   latents (n, C, ...) bfloat16; states (tokens, width) float16 of all captions, one after
                              the other; lengths (captions,) in tokens; wordings (n,), captions per clip; the counts of
                              skipped clips as metadata

Shard k holds the usable clips among rows k·S to (k+1)·S of the data set. A stopped run therefore goes on at its first
missing shard, and several processes need not communicate.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ..files import read_json, save_safetensors, write_json
from .batches import Batch
from .captions import check_captions
from .clips import name_of, read_waveform, to_int16
from .encoders import Encoders
from .latents import from_int16
from .prompts import pad_prompts
from .sampling import clip_indices
from .skipped import SkippedClips
from .streams import column_of

INDEX = "latents.json"


def shard_path(folder: str | os.PathLike, number: int) -> Path:
    """Path of a shard."""
    return Path(folder) / f"shard-{number:05d}.safetensors"


def is_precomputed(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a complete precomputed data set."""
    return (Path(folder) / INDEX).is_file()


@dataclass
class ShardEncoder:
    """Encode the rows of a data set to the tensors of a shard.

    Attributes:
        encoders: Encode waveforms and captions.
        dataset: Name of the data set, for messages.
        audio_column: Column of undecoded audio.
        caption_column: Column of a caption or a list of captions. "json.caption" is the entry `caption` of the column
            `json`.
        num_samples: Length of a clip.
        batch_size: Clips per call of the encoders.
        device: Where the encoders run.
    """

    encoders: Encoders
    dataset: str
    audio_column: str = "audio"
    caption_column: str = "caption"
    num_samples: int = 81920
    batch_size: int = 16
    device: torch.device | str = "cpu"

    def encode(
        self, rows: Sequence[dict[str, Any]], first_row: int = 0
    ) -> tuple[dict[str, torch.Tensor], SkippedClips]:
        """Encode the rows of a shard.

        Args:
            rows: Rows of the data set.
            first_row: Number of the first of them, for messages.

        Returns:
            The tensors of the shard, and the clips that were skipped: broken or silent audio, or no valid caption.
        """
        waveforms, captions, skipped = [], [], SkippedClips()
        for number, row in enumerate(rows, first_row):
            clip = problem = None
            try:
                clip = read_clip(
                    row, self.dataset, self.audio_column, self.caption_column, self.encoders, self.num_samples
                )
            except ValueError as error:
                problem = error
            skipped.record(name_of(row.get(self.audio_column), number), problem)
            if clip is not None:
                waveforms.append(from_int16(clip[0]))
                captions.append(clip[1])
        latents = [
            self.encoders.encode_waveforms(torch.stack(some), self.device).to(torch.bfloat16).cpu()
            for some in batched(waveforms, self.batch_size)
        ]
        states = self.prompts([caption for options in captions for caption in options])
        width = self.encoders.conditioning.width
        tensors = {
            "latents": torch.cat(latents) if latents else torch.empty(0, dtype=torch.bfloat16),
            "states": torch.cat(states) if states else torch.empty(0, width, dtype=torch.float16),
            "lengths": torch.tensor([len(rows) for rows in states], dtype=torch.int32),
            "wordings": torch.tensor([len(options) for options in captions], dtype=torch.int32),
        }
        return tensors, skipped

    def prompts(self, prompts: list[str]) -> list[torch.Tensor]:
        """Encode prompts to (tokens, width) each, float16."""
        length = self.num_samples / self.encoders.sampling_rate
        states = self.encoders.encode_prompts(prompts, length, self.device, self.batch_size)
        return [rows.half().cpu() for rows in states]


def read_clip(
    row: dict[str, Any], dataset: str, audio_column: str, caption_column: str, encoders: Encoders, num_samples: int
) -> tuple[Any, list[str]]:
    """Read the int16 waveform and the captions of a row.

    Raises:
        ValueError: The row cannot be used. The message goes on after the name of the clip: "is silent".
    """
    captions = check_captions(column_of(row, caption_column, dataset), caption_column)
    if audio_column not in row:
        column_of(row, audio_column, dataset)
    waveform = read_waveform(row[audio_column], encoders.sampling_rate, num_samples, encoders.num_channels)
    return to_int16(waveform, num_samples), captions


def batched(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Cut `items` into lists of `size`; the last may be shorter."""
    items = iter(items)
    while some := list(islice(items, size)):
        yield some


def write_shard(
    folder: str | os.PathLike, number: int, tensors: dict[str, torch.Tensor], skipped: SkippedClips
) -> None:
    """Write a shard and the counts of the clips that were skipped."""
    save_safetensors(tensors, shard_path(folder, number), skipped.metadata())


def count_skipped(folder: str | os.PathLike) -> SkippedClips:
    """Add up the counts of all shards in a folder, whichever process or run wrote them."""
    return sum(
        (_skipped_in(path, path.stat().st_mtime_ns) for path in sorted(Path(folder).glob("shard-*.safetensors"))),
        SkippedClips(),
    )


@cache
def _skipped_in(path: Path, modified: int) -> SkippedClips:
    with safe_open(path, "pt") as file:
        return SkippedClips.from_metadata(file.metadata())


def write_index(folder: str | os.PathLike, num_shards: int, encoder: ShardEncoder, teacher_name: str) -> SkippedClips:
    """Complete a folder of which all shards are written.

    Returns:
        The counts of skipped clips.

    Raises:
        ValueError: The data set has no clip that can be used, or more than 1 % that cannot.
    """
    folder, sizes, shape = Path(folder), [], None
    for number in range(num_shards):
        with safe_open(shard_path(folder, number), "pt") as file:
            latents = file.get_slice("latents").get_shape()
        sizes.append(latents[0])
        shape = latents[1:] if latents[0] else shape
    skipped = count_skipped(folder)
    if not sum(sizes):
        problems = "; ".join(skipped.reasons[:20]) or "it has no rows"
        raise ValueError(f"Data set {encoder.dataset!r} has no clip that can be used: {problems}.")
    skipped.check(encoder.dataset, tolerated=2)
    save_safetensors({"states": encoder.prompts([""])[0]}, folder / "empty.safetensors")
    index = {
        "latent_shape": shape,
        "masked": encoder.encoders.conditioning.prompt_embeds_ndim == 3,
        "shards": sizes,
        "teacher": teacher_name,
        "num_samples": encoder.num_samples,
        "seen": skipped.seen,
        "skipped": skipped.reasons,
    }
    write_json(folder / INDEX, index)
    return skipped


class ShardedData:
    """A folder of shards as `DistillationData`. Only the rows of a batch are read.

    Args:
        folder: Written by `training/precompute.py`.
        encoders: Those of the teacher, to compare with.
        num_channels: Latent channels of the teacher's network.

    Raises:
        ValueError: The shards hold latents or prompts of another teacher, or a shard is missing.
    """

    def __init__(self, folder: str | os.PathLike, encoders: Encoders, num_channels: int):
        self.folder, self.conditioning = Path(folder), encoders.conditioning
        index = read_json(self.folder / INDEX)
        self.latent_shape, self.masked = tuple(index["latent_shape"]), index["masked"]
        self.num_samples = index["num_samples"]
        self.ends = torch.tensor(index["shards"]).cumsum(0).tolist()
        missing = [number for number in range(len(self.ends)) if not shard_path(self.folder, number).is_file()]
        if missing:
            raise ValueError(f"{folder} lacks {shard_path('', missing[0])}; run precompute.py again.")
        self.empty = load_file(self.folder / "empty.safetensors")["states"]
        if (self.latent_shape[0], self.empty.shape[1]) != (num_channels, self.conditioning.width):
            raise ValueError(
                f"{folder} was precomputed with {index['teacher']}: {self.latent_shape[0]} channels and prompts of "
                f"width {self.empty.shape[1]}; this teacher needs {num_channels} and {self.conditioning.width}."
            )

    def __len__(self) -> int:
        return self.ends[-1]

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Shuffled epochs, see `clip_indices`."""
        return clip_indices(len(self), batch_size, number, seed)

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        """See `DistillationData.draw`."""
        position, kept = torch.rand(2, len(clips), generator=generator)
        chosen = list(zip(clips[rows].tolist(), position[rows].tolist(), kept[rows].tolist(), strict=True))

        def batch(device):
            latents, prompts = [], []
            for clip, where, keep in chosen:
                latent, states = self._read(clip, where)
                latents.append(latent)
                prompts.append(self.conditioning.dropped(states, self.empty) if keep < caption_dropout else states)
            clean = torch.stack(latents).to(device, torch.float32)
            condition = self.conditioning.network_kwargs(*pad_prompts(prompts, self.masked, device))
            guided = pad_prompts(prompts + [self.empty] * len(prompts), self.masked, device)
            return clean, condition, self.conditioning.guided_kwargs(*guided)

        return batch

    def _read(self, clip: int, where: float) -> tuple[torch.Tensor, torch.Tensor]:
        number = bisect_right(self.ends, clip)
        row = clip - (self.ends[number - 1] if number else 0)
        file, first, captions, token_ends = _open_shard(shard_path(self.folder, number))
        prompt = int(first[row]) + int(where * int(captions[row]))
        start = int(token_ends[prompt - 1]) if prompt else 0
        states = file.get_slice("states")[start : int(token_ends[prompt])]
        return file.get_slice("latents")[row : row + 1][0], states


@lru_cache(maxsize=64)
def _open_shard(path: Path) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(file, first prompt of each clip, captions per clip, end of each prompt's tokens)."""
    file = safe_open(path, "pt")
    captions = file.get_tensor("wordings").long()
    return file, captions.cumsum(0) - captions, captions, file.get_tensor("lengths").long().cumsum(0)
