"""Read the rows of a data set one after the other, from a disk, the Hub or tar files, without a local copy."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import reading
from .batches import Batch
from .clips import Clips, check_described, metadata_files, open_dataset
from .encoders import Encoders
from .latents import from_int16
from .prompts import pad_prompts
from .sampling import clip_indices
from .skipped import SkippedClips
from .tars import decode_member, read_tars


def open_rows(
    dataset: str,
    split: str = "train",
    audio_column: str = "audio",
    streaming: bool = False,
    data_files: Sequence[str] | None = None,
    shuffle: tuple[int, int] | None = None,
    skip: int = 0,
) -> Iterator[dict[str, Any]]:
    """Open the rows of a data set, without decoding the audio.

    Args:
        dataset: As for `load_clips`, or "webdataset" with tar files as `data_files`.
        split: Split to read.
        audio_column: Column of the audio; in tar files the extension of the audio members.
        streaming: Whether to fetch rows only when they are read. Tar files are always streamed.
        data_files: Files of the data set, for builders that take them.
        shuffle: Seed and buffer size of a streamed shuffle.
        skip: Number of rows to leave out at the start.

    Returns:
        An iterator of rows. The audio is a dictionary of `bytes` and `path`.

    Raises:
        ValueError: There is no such column, split or file.
    """
    from datasets import Audio, IterableDataset, Value, load_dataset, load_dataset_builder

    if dataset == "webdataset":
        if not data_files:
            raise ValueError("Data set 'webdataset' needs its tar files: name them with --data_files.")
        with reading(f"--data_files {' '.join(data_files)}"):
            files = load_dataset_builder(dataset, data_files=list(data_files)).config.data_files
        rows = IterableDataset.from_generator(read_tars, gen_kwargs={"paths": [str(f) for f in files["train"]]})
    elif data_files or (streaming and not metadata_files(Path(dataset))):
        if not data_files:
            check_described(dataset)
        with reading(f"Data set {dataset!r}"):
            rows = load_dataset(dataset, data_files=list(data_files or []) or None, split=split, streaming=True)
    else:
        rows = open_dataset(dataset, split)
    if rows.column_names is not None and audio_column not in rows.column_names:
        raise ValueError(
            f"Column {audio_column!r} is not in data set {dataset!r}, which has {rows.column_names}; name the right "
            "one with --audio_column."
        )
    if not isinstance(rows, IterableDataset):
        rows = rows.cast_column(audio_column, Audio(decode=False))
        rows = rows.to_iterable_dataset() if streaming else rows
    elif dataset != "webdataset":  # as plain values: `datasets` requires a decoder even for audio that it leaves alone
        rows = rows.cast_column(audio_column, {"bytes": Value("binary"), "path": Value("string")})
    if shuffle is not None:
        rows = rows.shuffle(seed=shuffle[0], buffer_size=shuffle[1])
    rows = _named(rows.skip(skip) if skip else rows, dataset)
    return (_tar_row(row, audio_column) for row in rows) if dataset == "webdataset" else rows


def _named(rows: Iterable[dict[str, Any]], dataset: str) -> Iterator[dict[str, Any]]:
    with reading(f"Data set {dataset!r}"):
        yield from rows


def _tar_row(row: dict[str, Any], audio_column: str) -> dict[str, Any]:
    return {**row, audio_column: {"bytes": row.get(audio_column, b""), "path": f"{row['__key__']}.{audio_column}"}}


def column_of(row: Mapping[str, Any], name: str, dataset: str) -> Any:
    """Return a column of a row, or for "a.b" the entry b of column a. Text members of tar files are decoded.

    Raises:
        ValueError: There is no such column or entry, or the member is damaged.
    """
    value: Any = row
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(
                f"has no column {name!r} (data set {dataset!r} has {sorted(k for k in row if k != '__key__')}; name "
                "the right ones with --audio_column and --caption_column)"
            )
        value = value[key]
        if isinstance(value, bytes):
            value = decode_member(value, key)
    return value


class MemorySource:
    """Clips in memory or in a memory-mapped file, in any order."""

    def __init__(self, clips: Clips):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Shuffled epochs, see `clip_indices`."""
        return clip_indices(len(self), batch_size, number, seed)

    def fetch(self, positions: Sequence[int]) -> list[tuple[np.ndarray, list[str]]]:
        """Return (int16 waveform, captions) of each clip."""
        return [(self.clips.waveforms[position], self.clips.captions[position]) for position in positions]


class StreamSource:
    """Clips of an endless stream.

    Position p is the p-th row, or the next row that can be used. Positions only increase. After a restart, earlier rows
    are passed over without decoding them.

    Args:
        open_epoch: Returns an epoch's iterator of rows with undecoded audio.
        read: Returns (int16 waveform, captions) of a row. Raises ValueError for a row that cannot be used.
        name_of: Returns the name of a row, given the row and its number.
        dataset: Name of the data set, for messages.

    Attributes:
        skipped: Counts of the rows that this process read. They are part of a checkpoint.
    """

    def __init__(
        self,
        open_epoch: Callable[[int], Iterator[dict[str, Any]]],
        read: Callable[[dict[str, Any]], tuple[np.ndarray, list[str]]],
        name_of: Callable[[dict[str, Any], int], str] = lambda row, number: f"row {number}",
        dataset: str = "stream",
    ):
        self.open_epoch, self.read, self.name_of, self.dataset = open_epoch, read, name_of, dataset
        self.skipped = SkippedClips()
        self.stream = self._endless()
        self.next_row, self.counted_before = 0, 0
        self.rows: dict[int, Any] = {}  # number → row, or what `read` made of it: a clip, or None

    def __len__(self) -> int:
        return 0

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """Consecutive positions for any seed: a stream is shuffled where it is opened."""
        return torch.arange(number * batch_size, (number + 1) * batch_size)

    def fetch(self, positions: Sequence[int]) -> list[tuple[np.ndarray, list[str]]]:
        """Return (int16 waveform, captions) of each position.

        Raises:
            ValueError: More than 1 % of the rows cannot be used, see `SkippedClips.check`.
        """
        first = min(positions)
        self.rows = {number: row for number, row in self.rows.items() if number >= first}
        return [self._usable(position, first) for position in positions]

    def state_dict(self) -> dict[str, Any]:
        """The counts of skipped rows."""
        return {"next_row": self.next_row, **self.skipped.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting after the rows that `state` has counted.

        `state` may be a `merged` one of several processes.
        """
        self.counted_before = state["next_row"]
        self.skipped.load_state_dict(state)

    def _usable(self, position: int, first: int) -> tuple[np.ndarray, list[str]]:
        for number in count(position):
            while self.next_row <= number:
                row = next(self.stream)
                if self.next_row >= first:
                    self.rows[self.next_row] = row
                self.next_row += 1
            if isinstance(self.rows[number], dict):
                self.rows[number] = self._read(self.rows[number], number)
            if self.rows[number] is not None:
                return self.rows[number]

    def _read(self, row: dict[str, Any], number: int) -> tuple[np.ndarray, list[str]] | None:
        clip, problem = None, None
        try:
            clip = self.read(row)
        except ValueError as error:
            problem = error
        if number >= self.counted_before:
            self.skipped.record(self.name_of(row, number), problem)
            self.skipped.check(self.dataset, tolerated=2, complete=False)
        return clip

    def _endless(self) -> Iterator[dict[str, Any]]:
        for epoch in count():
            empty = True
            for row in self.open_epoch(epoch):
                empty = False
                yield row
            if empty:
                raise ValueError(f"Data set {self.dataset!r} has no rows; give one that has.")


def merged(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the `state_dict`s that the processes of a run have of the same stream: every skipped row counts once."""
    reasons = list(dict.fromkeys(reason for state in states for reason in state["reasons"]))
    return {"next_row": max(state["next_row"] for state in states), "seen": max(state["seen"] for state in states),
            "reasons": reasons}  # fmt: skip


class WaveformData:
    """Waveforms that are mixed and encoded for every batch, as `DistillationData`.

    With probability `mix_rate` a clip is mixed with another one of its batch, and their captions are joined. Captions
    are dropped after that, so that a mixture keeps both or none.

    Args:
        source: Where clips come from.
        encoders: Encode waveforms and captions.
        num_samples: Length of a clip.
        mix_rate: Fraction of mixtures.
        sample_posterior: Whether latents are samples of the autoencoder's posterior, not its mode.
    """

    def __init__(
        self,
        source: MemorySource | StreamSource,
        encoders: Encoders,
        num_samples: int,
        mix_rate: float = 0.0,
        sample_posterior: bool = False,
    ):
        self.source, self.encoders, self.mix_rate = source, encoders, mix_rate
        self.sample_posterior = sample_posterior
        self.audio_length_in_s = num_samples / encoders.sampling_rate
        self.latent_shape = encoders.latent_shape(num_samples)

    def __len__(self) -> int:
        return len(self.source)

    def order(self, batch_size: int, number: int, seed: int) -> torch.Tensor:
        """See `DistillationData.order`."""
        return self.source.order(batch_size, number, seed)

    def draw(self, clips: torch.Tensor, rows: slice, caption_dropout: float, generator: torch.Generator) -> Batch:
        """See `DistillationData.draw`."""
        size = len(clips)
        caption, second_caption, kept, mixed, ratio = torch.rand(5, size, generator=generator)
        # Another clip of the batch, never the same one.
        partners = (torch.arange(size) + torch.randint(1, max(size, 2), (size,), generator=generator)) % size
        noise = torch.randn(size, *self.latent_shape, generator=generator)[rows] if self.sample_posterior else None

        def batch(device):
            mine = range(size)[rows]
            both = [int(clips[i]) for i in mine] + [int(clips[partners[i]]) for i in mine]
            fetched = self.source.fetch(both)
            waveforms, prompts = [], []
            for number, i in enumerate(mine):
                samples, options = fetched[number]
                waveform, prompt = from_int16(samples), options[int(caption[i] * len(options))]
                if mixed[i] < self.mix_rate and size > 1:
                    other, others = fetched[len(mine) + number]
                    waveform = mix(waveform, from_int16(other), float(ratio[i]))
                    prompt = join_captions(prompt, others[int(second_caption[i] * len(others))])
                waveforms.append(waveform)
                prompts.append(prompt)
            *embeddings, empty = self.encoders.encode_prompts([*prompts, ""], self.audio_length_in_s, device)
            conditioning = self.encoders.conditioning
            embeddings = [
                conditioning.dropped(states, empty) if kept[i] < caption_dropout else states
                for i, states in zip(mine, embeddings, strict=True)
            ]
            clean = self.encoders.encode_waveforms(
                torch.stack(waveforms), device, None if noise is None else noise.to(device)
            )
            return clean, *_network_kwargs(conditioning, embeddings, empty, device)

        return batch

    @property
    def skipped(self) -> SkippedClips | None:
        """The counts of the clips that a stream skipped; None for clips in memory."""
        return self.source.skipped if isinstance(self.source, StreamSource) else None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the counts of skipped clips of a stream."""
        return self.source.state_dict() if isinstance(self.source, StreamSource) else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from `state_dict()`."""
        if isinstance(self.source, StreamSource) and state:
            self.source.load_state_dict(state)


def _network_kwargs(conditioning, embeddings, empty, device) -> tuple[dict, dict]:
    """Network arguments of the prompts, and of the prompts followed by as many empty ones."""
    has_mask = conditioning.prompt_embeds_ndim == 3
    prompts = pad_prompts(embeddings, has_mask, device)
    guided = pad_prompts([*embeddings, *[empty] * len(embeddings)], has_mask, device)
    return conditioning.network_kwargs(*prompts), conditioning.guided_kwargs(*guided)


def mix(waveform: torch.Tensor, other: torch.Tensor, ratio: float = 0.5) -> torch.Tensor:
    """Mix two waveforms as Tango does (arXiv 2304.13731).

        (p·x + (1−p)·y) / √(p² + (1−p)²)        p = 1 / (1 + 10^((G_x − G_y)/20) · (1−r)/r)

    G is the level of a waveform in dB, so that both are equally loud for r = 0.5. r = 0.3 + 0.4·`ratio`, so that both
    can be heard. The mixture is scaled down if it exceeds full scale.

    Args:
        waveform: x, (..., samples).
        other: y, in the same shape.
        ratio: In [0, 1].
    """
    ratio = 0.3 + 0.4 * ratio
    levels = [20 * x.square().mean().clamp(min=1e-12).sqrt().log10() for x in (waveform, other)]
    share = 1 / (1 + 10 ** ((levels[0] - levels[1]) / 20) * (1 - ratio) / ratio)
    mixture = (share * waveform + (1 - share) * other) / (share**2 + (1 - share) ** 2).sqrt()
    return mixture / mixture.abs().max().clamp(min=1.0)


def join_captions(caption: str, other: str) -> str:
    """Join two captions to one sentence: "A dog barks." and "Rain falls" give "A dog barks and rain falls"."""
    first, second = caption.strip().rstrip(".!;, "), other.strip().rstrip(".!;, ")
    word = second.split(" ", 1)[0]
    # A capital stays where it does not only begin the sentence: "I", abbreviations, names with inner capitals.
    if word != "I" and word[1:] == word[1:].lower():
        second = second[:1].lower() + second[1:]
    joint = ", and " if " and " in first or " and " in second else " and "
    return f"{first}{joint}{second}"
