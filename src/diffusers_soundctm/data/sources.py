"""What `train_ctm.py` reads, whichever form it has: clips, a stream, or latents that were computed before."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from transformers import AutoModel, AutoTokenizer

from ..pipelines.conditioning import conditioning_for
from .batches import DistillationData, TrainingData
from .captions import wordings_of
from .clips import Clips, load_clips, sounding, to_int16
from .latents import encode_latents
from .prompts import embed_captions
from .shards import INDEX, ShardedData, column_of, is_precomputed
from .streams import MemorySource, SoundData, StreamSource, latent_shape, open_rows


def distillation_data(args: argparse.Namespace, teacher: Any, device: torch.device | str) -> DistillationData:
    """Of the data set that the arguments describe: `precompute.py`'s shards, a stream, sounds that are mixed, or clips
    whose latents and prompts are computed once and cached.

    Raises:
        ValueError: the data set does not fit the teacher or the arguments.
    """
    if args.captions is not None:
        return caption_data(args, teacher, device)
    if args.max_train_samples is not None and (is_precomputed(args.dataset_name) or args.streaming or args.data_files):
        raise ValueError(
            f"--max_train_samples {args.max_train_samples} limits neither a stream nor the latents of precompute.py; "
            "leave it out here, and pass it to precompute.py."
        )
    if is_precomputed(args.dataset_name):
        if args.mix_rate:
            raise ValueError(
                "--mix_rate needs sounds; the latents of precompute.py cannot be mixed: pass --mix_rate 0."
            )
        data = ShardedData(args.dataset_name, teacher)
        if data.num_samples != args.num_samples:
            raise ValueError(f"--num_samples {args.num_samples} is not the {data.num_samples} of {args.dataset_name}.")
        return data
    if args.streaming or args.data_files:
        return SoundData(_stream(args, teacher), teacher, args.num_samples, args.mix_rate)
    clips = clips_of(args, teacher.num_channels)
    if args.mix_rate:
        return SoundData(MemorySource(clips), teacher, args.num_samples, args.mix_rate)
    latents = encode_latents(teacher.components["vae"], clips, cache_folder(args), device=device)
    prompts = embed_captions(
        teacher.conditioning,
        clips.captions,
        cache_folder(args),
        device=device,
        audio_length_in_s=args.num_samples / args.sampling_rate,
    )
    return TrainingData(latents, prompts, teacher.conditioning)


def caption_data(args: argparse.Namespace, teacher: Any, device: torch.device | str) -> TrainingData:
    """Captions without audio, from the text file `args.captions`, one caption per line.

    The latents are zeros, so that every trajectory starts from pure noise, σ_max·ε, and from the teacher alone. Every
    line is equally likely, so a caption that occurs twice is drawn twice as often.

    Raises:
        ValueError: the file has no caption.
    """
    text = Path(args.captions).read_text(encoding="utf-8-sig")
    captions = [line.strip() for line in text.splitlines() if line.strip()]
    if not captions:
        raise ValueError(f"--captions {args.captions} has no caption; give a text file with one caption per line.")
    prompts = embed_captions(
        teacher.conditioning,
        [[caption] for caption in captions],
        cache_folder(args),
        device=device,
        audio_length_in_s=args.num_samples / args.sampling_rate,
    )
    nothing = torch.zeros((), dtype=torch.bfloat16).expand(len(captions), *latent_shape(teacher, args.num_samples))
    return TrainingData(nothing, prompts, teacher.conditioning)


def default_num_samples(dataset_name: str | None, teacher: Any) -> int:
    """Length of a clip: that of precomputed latents, else the teacher's."""
    if dataset_name is not None and is_precomputed(dataset_name):
        return json.loads((Path(dataset_name) / INDEX).read_text(encoding="utf-8"))["num_samples"]
    return teacher.default_num_samples


def _stream(args: argparse.Namespace, teacher: Any) -> StreamSource:
    def open_epoch(epoch: int):
        return open_rows(
            args.dataset_name,
            audio_column=args.audio_column,
            caption_column=args.caption_column,
            streaming=True,
            data_files=args.data_files,
            shuffle=(args.seed + epoch, args.stream_buffer_size),
        )

    def read(row: dict[str, Any]):
        audio, captions = (column_of(row, name, args.dataset_name) for name in (args.audio_column, args.caption_column))
        audio = audio or {"bytes": None, "path": None}
        captions = wordings_of(captions, args.caption_column, str(audio["path"]), args.dataset_name)
        sound = sounding(audio, args.sampling_rate, args.num_samples, teacher.num_channels)
        return to_int16(sound, args.num_samples), captions

    first = next(open_epoch(0), None)
    if first is None:
        raise ValueError(f"Data set {args.dataset_name!r} has no rows; give one that has.")
    column_of(first, args.caption_column, args.dataset_name)
    return StreamSource(open_epoch, read)


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
