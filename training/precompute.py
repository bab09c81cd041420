"""Encode a data set for a teacher once: latents and prompt embeddings, in shards that train_ctm.py reads.

python training/precompute.py --teacher_model cvssp/audioldm-s-full-v2 --dataset_name my/audiocaps --streaming \
    --output_dir runs/audiocaps-latents
python training/precompute.py --teacher_model cvssp/audioldm-s-full-v2 --dataset_name webdataset \
    --data_files 'clips-{000..099}.tar' --audio_column flac --caption_column json.caption --output_dir runs/latents

The same command resumes a stopped run. With accelerate launch, several processes share the shards. Then train with
train_ctm.py --dataset_name OUTPUT_DIR.
"""

import argparse
from contextlib import nullcontext
from datetime import timedelta
from itertools import count, islice
from pathlib import Path

from diffusers_soundctm.training.config import add_data_arguments, begin_script, parse_with_config, run_script

SETTINGS = "settings.json"
STOPPED = "Stopped by a signal. The same command goes on from here."
# Arguments that may differ when a run is resumed, because they do not change the shards.
_FREE = ("output_dir", "cache_dir", "batch_size", "config")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser, from_teacher=True)
    parser.add_argument("--teacher_model", default=..., help="folder or Hub id of the teacher's pipeline")
    parser.add_argument(
        "--allow_distilled_teacher",
        action="store_true",
        help="accept a teacher that is distilled already, whose trajectories are not those of its data",
    )
    parser.add_argument("--split", default="train", help="split of the data set")
    parser.add_argument("--streaming", action="store_true", help="read rows from the Hub as they are needed")
    parser.add_argument(
        "--data_files", nargs="+", help="files of the data set builder, for example the tar files of webdataset"
    )
    parser.add_argument("--shard_size", type=int, default=1024, help="rows per shard")
    parser.add_argument("--batch_size", type=int, default=16, help="clips per batch of the encoders")
    return parse_with_config(parser, argv)


if __name__ == "__main__":
    begin_script(parse_args, STOPPED)  # before the slow imports

from accelerate import PartialState
from tqdm import tqdm

from diffusers_soundctm.data.latents import fingerprint
from diffusers_soundctm.data.shards import (
    ShardEncoder,
    count_skipped,
    is_precomputed,
    shard_path,
    write_index,
    write_shard,
)
from diffusers_soundctm.data.sources import source_fingerprint
from diffusers_soundctm.data.streams import open_rows
from diffusers_soundctm.distillation.teachers import Teacher, load_teacher
from diffusers_soundctm.files import read_json, remove_unfinished, write_json
from diffusers_soundctm.training.output_folder import locked


def check_settings(args: argparse.Namespace, teacher: Teacher) -> None:
    """Write the settings of the shards to `output_dir`, or compare them with those of the run before.

    Raises:
        ValueError: The folder has shards with other settings.
    """
    weights = fingerprint(teacher.components["vae"], *teacher.conditioning.models)
    settings = {name: value for name, value in vars(args).items() if name not in _FREE} | {"weights": weights}
    settings["data"] = source_fingerprint(args.dataset_name, args.data_files, args.output_dir)
    folder = Path(args.output_dir)
    if (folder / SETTINGS).is_file():
        before = read_json(folder / SETTINGS)
        names = sorted({*before, *settings})
        changed = [
            f"{n} was {before.get(n)!r}, now {settings.get(n)!r}" for n in names if before.get(n) != settings.get(n)
        ]
        if changed:
            raise ValueError(
                f"--output_dir {folder} was begun with other settings: {'; '.join(changed)}. Pass the same settings to "
                "resume, or another --output_dir."
            )
    elif any(folder.glob("shard-*")):
        raise ValueError(
            f"--output_dir {folder} has shards but no {SETTINGS}, which says how they were made; give another folder."
        )
    else:
        write_json(folder / SETTINGS, settings)


def check_length(args: argparse.Namespace, teacher: Teacher) -> None:
    """Fill in length and sampling rate of the clips from the teacher, and check those that are given.

    Raises:
        ValueError: The teacher does not support them.
    """
    args.num_samples = args.num_samples or teacher.default_num_samples
    args.sampling_rate = args.sampling_rate or teacher.sampling_rate
    positions, multiple, unit = teacher.latent_positions(args.num_samples)
    if positions is None:
        raise ValueError(
            f"--num_samples {args.num_samples} is not a multiple of {unit * multiple}, as the networks require."
        )
    if args.sampling_rate != teacher.sampling_rate:
        raise ValueError(
            f"--sampling_rate {args.sampling_rate} is not the teacher's {teacher.sampling_rate} Hz; leave it out."
        )


def encode(args: argparse.Namespace, teacher: Teacher, processes: PartialState) -> None:
    """Write the missing shards, each by one process, and the index when all are written."""
    encoder = ShardEncoder(teacher.encoders, args.dataset_name, args.audio_column, args.caption_column,
                           args.num_samples, args.batch_size, processes.device)  # fmt: skip
    output_dir = Path(args.output_dir)
    number = next(k for k in count() if not shard_path(output_dir, k).is_file())
    done = number * args.shard_size
    rows = open_rows(args.dataset_name, args.split, args.audio_column, args.streaming, args.data_files, skip=done)
    rows = islice(rows, None if args.max_train_samples is None else max(args.max_train_samples - done, 0))
    with tqdm(unit="clip", desc="encoding", initial=done, disable=not processes.is_main_process) as progress:
        while some := list(islice(rows, args.shard_size)):
            mine = number % processes.num_processes == processes.process_index
            if mine and not shard_path(output_dir, number).is_file():
                tensors, skipped = encoder.encode(some, number * args.shard_size)
                # Shards of other processes and of earlier runs count too.
                (count_skipped(output_dir) + skipped).check(args.dataset_name, tolerated=2, complete=False)
                write_shard(output_dir, number, tensors, skipped)
            progress.update(len(some))
            number += 1
    processes.wait_for_everyone()
    if processes.is_main_process:
        skipped = write_index(output_dir, number, encoder, str(args.teacher_model))
        print(f"{skipped.seen - len(skipped.reasons)} clips encoded, {len(skipped.reasons)} skipped.")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if is_precomputed(args.output_dir):
        raise ValueError(f"--output_dir {args.output_dir} is complete; give another folder to encode something else.")
    processes = PartialState(timeout=timedelta(days=1))  # processes wait for the last shard
    teacher = load_teacher(
        args.teacher_model,
        allow_distilled=args.allow_distilled_teacher,
        vae=args.vae,
        text_encoder=args.text_encoder,
    )
    check_length(args, teacher)
    with locked(args.output_dir) if processes.is_main_process else nullcontext():
        with processes.main_process_first():
            remove_unfinished(args.output_dir)
            check_settings(args, teacher)
        encode(args, teacher, processes)


if __name__ == "__main__":
    run_script(main)
