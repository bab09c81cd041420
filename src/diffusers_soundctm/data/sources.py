"""Open the data of a training run, whichever form it has: clips, a stream, or precomputed latents."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import torch

from ..files import is_hidden, read_json
from .batches import DistillationData, TrainingData
from .captions import read_captions
from .clips import Clips, load_clips, name_of
from .encoders import Encoders
from .latents import encode_latents, fingerprint
from .prompts import PromptTable, embed_captions
from .shards import INDEX, ShardedData, is_precomputed, read_clip
from .streams import MemorySource, StreamSource, WaveformData, column_of, open_rows


@dataclass(frozen=True)
class DataSettings:
    """Which data a run reads, and how.

    Attributes:
        dataset: As for `load_clips`, "webdataset" with `data_files`, or a folder of `training/precompute.py`. None with
            `captions`.
        num_samples: Length of a clip.
        cache_dir: Folder of decoded clips, latents and prompt embeddings.
        audio_column: Column of the audio.
        caption_column: Column of the captions.
        max_samples: Number of rows to read, None for all.
        streaming: Whether rows are fetched only when they are needed.
        data_files: Files of the data set, for example tar files; they are streamed.
        stream_buffer_size: Rows in the buffer of a stream's shuffle.
        mix_rate: Fraction of clips that are mixed with another one.
        sample_posterior: Whether latents are samples of the autoencoder's posterior, drawn anew for every batch, not
            its mode.
        captions: Text file with one caption per line, in place of a data set with audio.
        seed: Of a stream's shuffle.
    """

    dataset: str | None
    num_samples: int
    cache_dir: str | os.PathLike
    audio_column: str = "audio"
    caption_column: str = "caption"
    max_samples: int | None = None
    streaming: bool = False
    data_files: Sequence[str] | None = None
    stream_buffer_size: int = 1000
    mix_rate: float = 0.0
    sample_posterior: bool = False
    captions: str | os.PathLike | None = None
    seed: int = 0

    @property
    def is_stream(self) -> bool:
        """Whether the data set is read as a stream."""
        return self.streaming or bool(self.data_files)


def distillation_data(
    settings: DataSettings, encoders: Encoders, num_latent_channels: int, device: torch.device | str = "cpu"
) -> DistillationData:
    """Open the data of a distillation.

    Args:
        settings: Which data.
        encoders: The teacher's encoders.
        num_latent_channels: Latent channels of the teacher's network.
        device: Where the encoders run.

    Raises:
        ValueError: The data set does not fit the teacher or the settings.
    """
    if settings.captions is not None:
        return caption_data(settings, encoders, device)
    precomputed = is_precomputed(settings.dataset)
    if settings.max_samples is not None and (precomputed or settings.is_stream):
        raise ValueError(
            f"--max_train_samples {settings.max_samples} limits neither a stream nor the latents of precompute.py; "
            "leave it out here, and pass it to precompute.py."
        )
    if precomputed:
        for argument, given in {
            "--mix_rate": settings.mix_rate,
            "--sample_posterior": settings.sample_posterior,
        }.items():
            if given:
                raise ValueError(
                    f"{argument} needs waveforms, but the latents of precompute.py cannot be mixed or sampled again; "
                    "leave it out, or name the data set itself."
                )
        data = ShardedData(settings.dataset, encoders, num_latent_channels)
        if data.num_samples != settings.num_samples:
            raise ValueError(
                f"--num_samples {settings.num_samples} is not the {data.num_samples} of {settings.dataset}; "
                "leave it out."
            )
        return data
    if settings.is_stream:
        return _waveform_data(_stream(settings, encoders), settings, encoders)
    if settings.mix_rate or settings.sample_posterior:
        return _waveform_data(MemorySource(_clips(settings, encoders)), settings, encoders)
    return training_data(settings, encoders, device)


def source_fingerprint(
    dataset: str | None, data_files: Sequence[str] | None = None, output_dir: str | os.PathLike = ""
) -> str:
    """A digest of the local files that a stream reads: their names, sizes and dates. Remote ones count by their names.

    Args:
        dataset: As for `DataSettings`.
        data_files: Paths, patterns or URLs, as for `DataSettings`.
        output_dir: Folder of the run, which may lie in that of the data set and does not count.
    """
    folder, files = Path(dataset or ""), []
    if dataset and folder.is_dir():
        inside = [path for path in sorted(folder.rglob("*")) if not is_hidden(path.relative_to(folder))]
        files = [path for path in inside if path.is_file() and Path(output_dir) not in path.parents]
    for pattern in data_files or []:
        files += [Path(path) for path in sorted(glob(pattern))]  # noqa: PTH207, patterns may be absolute
    found = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return fingerprint(found or (dataset, data_files))


def default_num_samples(dataset: str | None, otherwise: int) -> int:
    """Return the length of a clip in samples: that of a precomputed data set, or `otherwise`."""
    if dataset is None or not is_precomputed(dataset):
        return otherwise
    return read_json(Path(dataset) / INDEX)["num_samples"]


def caption_data(settings: DataSettings, encoders: Encoders, device: torch.device | str = "cpu") -> TrainingData:
    """Read captions without audio.

    The latents are zeros, so that every trajectory starts from pure noise, σ_max·ε. A caption that occurs twice is
    drawn twice as often.

    Args:
        settings: Names the file of the captions.
        encoders: Those of the teacher.
        device: Where the text encoders run.

    Raises:
        ValueError: The file is not UTF-8 or has no caption.
    """
    captions = read_captions(settings.captions)
    prompts = _prompts([[caption] for caption in captions], settings, encoders, device)
    shape = encoders.latent_shape(settings.num_samples)
    nothing = torch.zeros((), dtype=torch.bfloat16).expand(len(captions), *shape)
    return TrainingData(nothing, prompts, encoders.conditioning)


def training_data(settings: DataSettings, encoders: Encoders, device: torch.device | str = "cpu") -> TrainingData:
    """Encode the clips and captions of a data set once, and keep the latents and embeddings in `settings.cache_dir`.

    Args:
        settings: Which data; `streaming`, `data_files`, `mix_rate` and `sample_posterior` have no effect.
        encoders: Those of the teacher.
        device: Where the encoders run.
    """
    clips = _clips(settings, encoders)
    latents = encode_latents(encoders.vae, clips, settings.cache_dir, front_end=encoders.front_end, device=device)
    return TrainingData(latents, _prompts(clips.captions, settings, encoders, device), encoders.conditioning)


def _prompts(
    captions: list[list[str]], settings: DataSettings, encoders: Encoders, device: torch.device | str
) -> PromptTable:
    return embed_captions(
        encoders.conditioning,
        captions,
        settings.cache_dir,
        device=device,
        audio_length_in_s=settings.num_samples / encoders.sampling_rate,
    )


def _clips(settings: DataSettings, encoders: Encoders) -> Clips:
    return load_clips(
        settings.dataset,
        audio_column=settings.audio_column,
        caption_column=settings.caption_column,
        sampling_rate=encoders.sampling_rate,
        num_samples=settings.num_samples,
        max_samples=settings.max_samples,
        cache_dir=Path(settings.cache_dir),
        num_channels=encoders.num_channels,
    )


def _waveform_data(source: MemorySource | StreamSource, settings: DataSettings, encoders: Encoders) -> WaveformData:
    return WaveformData(source, encoders, settings.num_samples, settings.mix_rate, settings.sample_posterior)


def _stream(settings: DataSettings, encoders: Encoders) -> StreamSource:
    def open_epoch(epoch: int):
        return open_rows(
            settings.dataset,
            audio_column=settings.audio_column,
            streaming=True,
            data_files=settings.data_files,
            shuffle=(settings.seed + epoch, settings.stream_buffer_size),
        )

    def read(row: dict[str, Any]):
        return read_clip(
            row,
            settings.dataset,
            settings.audio_column,
            settings.caption_column,
            encoders,
            settings.num_samples,
        )

    first = next(open_epoch(0), None)
    if first is None:
        raise ValueError(f"Data set {settings.dataset!r} has no rows; give one that has.")
    column = settings.caption_column.split(".")[0]
    if settings.dataset != "webdataset" and column not in first:
        column_of(first, column, settings.dataset)
    return StreamSource(
        open_epoch, read, lambda row, number: name_of(row.get(settings.audio_column), number), settings.dataset
    )
