"""Rows of a data set one after the other, from a disk, the Hub or tar files, without a local copy."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from .batches import Batch
from .clips import SILENCE_PEAK, Clips, open_dataset
from .latents import autoencoder_input
from .sampling import clip_indices


def open_rows(
    dataset: str,
    split: str = "train",
    audio_column: str = "audio",
    streaming: bool = False,
    data_files: Sequence[str] | None = None,
    shuffle: tuple[int, int] | None = None,
    skip: int = 0,
    caption_column: str = "caption",
) -> Iterator[dict[str, Any]]:
    """Rows with undecoded audio.

    Args:
        dataset: as for `data.load_clips`, or "webdataset" with `data_files` naming tar files.
        streaming: fetch rows when they are asked for; tar files are always streamed.
        shuffle: (seed, buffer size) of a streamed shuffle.
        skip: rows to leave out at the start.
        caption_column: of tar files, where a caption is one string.
    """
    from datasets import Audio, Value, load_dataset

    tar_files = dataset == "webdataset"
    if data_files or streaming:
        features = _tar_features(audio_column, caption_column) if tar_files else None
        files = list(data_files) if data_files else None
        rows = load_dataset(dataset, data_files=files, split=split, streaming=True, features=features)
    else:
        rows = open_dataset(dataset, split)
    if rows.column_names is not None and audio_column not in rows.column_names:
        raise ValueError(
            f"Column {audio_column!r} is not in data set {dataset!r}, which has {rows.column_names}; name the right "
            "one with --audio_column."
        )
    if data_files or streaming:
        if not tar_files:  # as plain values: the library's own audio type wants a decoder even for what stays undecoded
            rows = rows.cast_column(audio_column, {"bytes": Value("binary"), "path": Value("string")})
    else:
        rows = rows.cast_column(audio_column, Audio(decode=False))
    if shuffle is not None:
        rows = rows.shuffle(seed=shuffle[0], buffer_size=shuffle[1])
    rows = iter(rows.skip(skip) if skip else rows)
    if not tar_files:
        return rows
    return ({**row, audio_column: {"bytes": row[audio_column], "path": row["__key__"]}} for row in rows)


def _tar_features(audio_column: str, caption_column: str) -> Any:
    from datasets import Features, Value

    column, *keys = caption_column.split(".")
    caption: Any = Value("string")
    for key in reversed(keys):
        caption = {key: caption}
    return Features({"__key__": Value("string"), audio_column: Value("binary"), column: caption})


class MemorySource:
    """Clips in memory (or memory-mapped), in any order."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        return clip_indices(len(self), batch_size, number, seed)

    def fetch(self, positions: Sequence[int]) -> list[tuple[np.ndarray, list[str]]]:
        """(int16 waveform, wordings) of each clip."""
        return [(self.clips.waveforms[position], self.clips.captions[position]) for position in positions]


class StreamSource:
    """Clips of an endless stream: position p is its p-th row, or the next usable one where that is broken or silent.

    Positions only move on. After a restart the rows before them are passed over, undecoded.

    Args:
        open_epoch: epoch → iterator of rows with undecoded audio.
        read: row → (int16 waveform, wordings); `ValueError` for what is to be left out.
    """

    def __init__(
        self,
        open_epoch: Callable[[int], Iterator[dict[str, Any]]],
        read: Callable[[dict[str, Any]], tuple[np.ndarray, list[str]]],
    ):
        self.open_epoch, self.read = open_epoch, read
        self.stream = self._endless()
        self.next_row, self.rows = 0, {}

    def __len__(self) -> int:
        return 0

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Consecutive positions, whatever the `seed`: a stream is shuffled where it is opened."""
        return torch.arange(number * batch_size, (number + 1) * batch_size)

    def fetch(self, positions: Sequence[int]) -> list[tuple[np.ndarray, list[str]]]:
        """(int16 waveform, wordings) of each position.

        Raises:
            ValueError: a hundred rows one after the other are unusable.
        """
        first = min(positions)
        self.rows = {row: value for row, value in self.rows.items() if row >= first}
        return [self._usable(position, first) for position in positions]

    def _usable(self, position: int, first: int) -> tuple[np.ndarray, list[str]]:
        for row in range(position, position + 100):
            while self.next_row <= row:
                value = next(self.stream)
                if self.next_row >= first:
                    self.rows[self.next_row] = value
                self.next_row += 1
            try:
                return self.read(self.rows[row])
            except ValueError as error:
                reason = error
        raise ValueError(f"100 clips of the stream in a row cannot be used; the last one {reason}.")

    def _endless(self) -> Iterator[dict[str, Any]]:
        for epoch in count():
            empty = True
            for row in self.open_epoch(epoch):
                empty = False
                yield row
            if empty:
                raise ValueError("The data set has no rows; give one that has.")


class SoundData:
    """Sounds that are mixed, encoded and captioned for every batch, as `DistillationData`.

    With probability `mix_rate` a clip is mixed with another one of its batch, and their captions joined; the caption is
    dropped afterwards, so that there is no half of one.

    Args:
        source: where clips come from.
        teacher: whose autoencoder and text encoders are used.
        num_samples: length of a clip.
        mix_rate: share of mixtures.
    """

    def __init__(self, source: MemorySource | StreamSource, teacher: Any, num_samples: int, mix_rate: float = 0.0):
        self.source, self.teacher, self.mix_rate = source, teacher, mix_rate
        self.audio_length_in_s = num_samples / teacher.sampling_rate
        self.latent_shape = latent_shape(teacher, num_samples)

    def __len__(self) -> int:
        return len(self.source)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        return self.source.order(batch_size, number, seed)

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        size = len(clips)
        wording, second_wording, kept, mixed, ratio = torch.rand(5, size, generator=generator)
        # Another clip of the batch, never the same one.
        partners = (torch.arange(size) + torch.randint(1, max(size, 2), (size,), generator=generator)) % size

        def batch(device):
            mine = range(size)[rows]
            both = [int(clips[i]) for i in mine] + [int(clips[partners[i]]) for i in mine]
            fetched = self.source.fetch(both)
            waveforms, prompts = [], []
            for number, i in enumerate(mine):
                waveform, options = fetched[number]
                caption = options[int(wording[i] * len(options))]
                waveform = torch.from_numpy(waveform.astype("float32")) / 32768
                if mixed[i] < self.mix_rate and size > 1:
                    other, others = fetched[len(mine) + number]
                    waveform = mix(waveform, torch.from_numpy(other.astype("float32")) / 32768, float(ratio[i]))
                    caption = join_captions(caption, others[int(second_wording[i] * len(others))])
                waveforms.append(waveform)
                prompts.append("" if kept[i] < caption_dropout else caption)
            conditioning = self.teacher.conditioning
            for model in conditioning.models:
                model.to(device).eval()
            embeds, mask = conditioning.encode([*prompts, ""], torch.device(device), self.audio_length_in_s)
            # The empty prompt follows, once for every prompt.
            order = torch.tensor([*range(len(prompts)), *[len(prompts)] * len(prompts)], device=embeds.device)
            guided = embeds.float()[order], None if mask is None else mask[order]
            prompted = tuple(None if value is None else value[: len(prompts)] for value in guided)
            clean = self._encode(torch.stack(waveforms), device)
            return clean, conditioning.network_kwargs(*prompted), conditioning.network_kwargs(*guided)

        return batch

    def _encode(self, waveforms: torch.Tensor, device) -> torch.Tensor:
        return _encode(self.teacher.components["vae"], waveforms, device)


def latent_shape(teacher: Any, num_samples: int) -> tuple[int, ...]:
    """Shape of the latents of one waveform of `num_samples` samples, such as (C, T, F), by encoding near silence."""
    channels = teacher.num_channels
    silence = torch.zeros(1, num_samples) if channels == 1 else torch.zeros(1, channels, num_samples)
    return tuple(_encode(teacher.components["vae"], silence + SILENCE_PEAK, "cpu").shape[1:])


@torch.no_grad()
def _encode(vae: Any, waveforms: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    vae = vae.to(device).eval()
    latents = vae.encode(autoencoder_input(vae, waveforms.to(device))).latent_dist.mode().float()
    return latents * vae.config.get("scaling_factor", 1.0)


def mix(sound: torch.Tensor, other: torch.Tensor, ratio: float = 0.5) -> torch.Tensor:
    """Tango's mixture (arXiv 2304.13731): (p·x + (1−p)·y)/√(p² + (1−p)²), p = 1/(1 + 10^((G_x − G_y)/20)·(1−r)/r).

    G is a sound's level in dB, so that at r = 0.5 both are equally loud; r ∈ (0, 1) is drawn by the caller and kept
    within [0.3, 0.7], where both can still be heard.
    """
    ratio = 0.3 + 0.4 * ratio
    levels = [20 * x.square().mean().clamp(min=1e-12).sqrt().log10() for x in (sound, other)]
    share = 1 / (1 + 10 ** ((levels[0] - levels[1]) / 20) * (1 - ratio) / ratio)
    mixture = (share * sound + (1 - share) * other) / (share**2 + (1 - share) ** 2).sqrt()
    return mixture / mixture.abs().max().clamp(min=1.0)


def join_captions(caption: str, other: str) -> str:
    """Two captions as one sentence: "A dog barks." and "Rain falls" → "A dog barks and rain falls"."""
    first, second = caption.strip().rstrip(".!;, "), other.strip().rstrip(".!;, ")
    word = second.split(" ", 1)[0]
    # A capital stays where it is not the sentence's own: "I", abbreviations, names with inner capitals.
    if word != "I" and word[1:] == word[1:].lower():
        second = second[:1].lower() + second[1:]
    joint = ", and " if " and " in first or " and " in second else " and "
    return f"{first}{joint}{second}"
