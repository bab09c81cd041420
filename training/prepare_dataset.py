"""Render the audio-caption data set that the embedded model is trained on.

    apt install fluid-soundfont-gm fluid-soundfont-gs sonic-pi-samples openttd-opensfx freedoom endless-sky-data
    pip install --no-deps tinysoundfont
    python training/prepare_dataset.py --output_dir data/embedded

The result is a folder of parquet files (splits train and test) that `datasets.load_dataset` and every training script
here read, with a card that credits each source. The same seed gives the same clips.
"""

import argparse
import io
import multiprocessing
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
from tqdm.auto import tqdm

from diffusers_soundctm.files import atomic_folder, remove_unfinished
from diffusers_soundctm.training.config import begin_script, run_script
from diffusers_soundctm.training.ranges import range_problems

sys.path.insert(0, str(Path(__file__).parent))  # also found by worker processes

from sources import recordings
from sources.captions import mixture_captions, single_captions
from sources.card import NUM_SAMPLES, UNSEEN_PAIRS, card
from sources.classes import CLASSES, File, SoundClass
from sources.rendering import SAMPLING_RATE, Part, Renderer

CAPTIONS_PER_CLIP = {"train": 12, "test": 4}
ROWS_PER_FILE = 1000
# A 50 ms frame counts as sounding above this fraction of the loudest frame; this fraction of frames should sound.
SOUNDING_LEVEL, SOUNDING_SHARE = 0.02, 0.3
_SPLIT_NUMBER = {"train": 0, "test": 1}
_FEATURES = ("caption", "label", "source", "recording", "license", "kind")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Render the audio-caption data set of the embedded model.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write; it must not exist yet")
    parser.add_argument("--train_clips", type=int, default=12600, help="clips of the split train")
    parser.add_argument("--test_clips", type=int, default=1520, help="clips of the split test")
    parser.add_argument("--mixture_share", type=float, default=0.15, help="fraction of clips with two sounds")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    parser.add_argument("--num_proc", type=int, default=os.cpu_count(), help="number of processes")
    args = parser.parse_args()
    problems = list(range_problems(args))
    if problems:
        parser.error("; ".join(problems))
    if args.output_dir.exists():
        parser.error(f"--output_dir {args.output_dir} exists already; remove it or name another folder")
    return args


@lru_cache
def unseen_pairs(seed: int) -> frozenset[tuple[str, str]]:
    """The pairs of labels that only test mixtures use."""
    pairs = list(combinations(sorted(sound.label for sound in CLASSES), 2))
    chosen = np.random.default_rng(seed).choice(len(pairs), round(UNSEEN_PAIRS * len(pairs)), replace=False)
    return frozenset(pairs[i] for i in chosen)


def plan(split: str, clips: int, mixture_share: float, seed: int) -> list[tuple[str, int, int, str | None]]:
    """List the clips to render as (split, seed, index, label), with every class equally often.

    The label None stands for a mixture.
    """
    mixtures = round(clips * mixture_share)
    labels = [CLASSES[i % len(CLASSES)].label for i in range(clips - mixtures)] + [None] * mixtures
    order = np.random.default_rng([seed, _SPLIT_NUMBER[split]]).permutation(clips)
    return [(split, seed, index, labels[i]) for index, i in enumerate(order)]


@lru_cache(maxsize=1)
def _renderer() -> Renderer:
    return Renderer()


def make_clip(task: tuple[str, int, int, str | None]) -> dict[str, object]:
    """Render one row of the data set. It depends only on the task, so the number of processes does not matter."""
    split, seed, index, label = task
    rng = np.random.default_rng([seed, _SPLIT_NUMBER[split], index])
    seconds = NUM_SAMPLES / SAMPLING_RATE
    if label is None:
        first, second = _draw_pair(split, seed, rng)
        return _mixture(split, first, second, seconds, index, rng)
    sound = next(sound for sound in CLASSES if sound.label == label)
    part = _render(sound, split, seconds, rng)
    captions = single_captions(part, split, CAPTIONS_PER_CLIP[split], rng)
    return _row(split, index, part.waveform, captions, label, sound.kind, [part], rng)


def _mixture(
    split: str, first: SoundClass, second: SoundClass, seconds: float, index: int, rng: np.random.Generator
) -> dict[str, object]:
    order = "sequence" if rng.random() < 0.4 else "together"
    if order == "sequence":
        parts = [_render(sound, split, seconds / 2, rng) for sound in (first, second)]
        waveform = np.concatenate([_level(part.waveform) for part in parts])
        second_db = 0.0
    else:
        parts = [_render(sound, split, seconds, rng) for sound in (first, second)]
        second_db = float(rng.uniform(-8, 1))
        waveform = _level(parts[0].waveform) + _level(parts[1].waveform) * 10 ** (second_db / 20)
    captions = mixture_captions(*parts, order, second_db, split, CAPTIONS_PER_CLIP[split], rng)
    return _row(split, index, waveform, captions, f"{first.label} + {second.label}", "mixture", parts, rng)


def _draw_pair(split: str, seed: int, rng: np.random.Generator) -> tuple[SoundClass, SoundClass]:
    while True:
        first, second = (CLASSES[i] for i in rng.choice(len(CLASSES), 2, replace=False))
        # Two instruments at once are the hardest to tell apart, so they are drawn less often.
        if first.kind == second.kind == "instrument" and rng.random() < 0.4:
            continue
        pair = tuple(sorted((first.label, second.label)))
        if (pair in unseen_pairs(seed)) == (split == "test"):
            return first, second


def _render(sound: SoundClass, split: str, seconds: float, rng: np.random.Generator) -> Part:
    """Render a sound that fills enough of the clip, or the fullest of 12 draws if the class has only short sounds."""
    best = None
    for _ in range(12):
        part = _renderer().render(sound, split, seconds, rng)
        share = sounding_share(part.waveform)
        if best is None or share > best[0]:
            best = share, part
        if share >= SOUNDING_SHARE:
            break
    return best[1]


def sounding_share(waveform: np.ndarray) -> float:
    """The fraction of 50 ms frames that are not silent."""
    frame = SAMPLING_RATE // 20
    frames = waveform[: len(waveform) // frame * frame].reshape(-1, frame)
    level = np.sqrt((frames**2).mean(axis=1))
    return float((level > SOUNDING_LEVEL * level.max()).mean())


def _level(waveform: np.ndarray) -> np.ndarray:
    """Scale to the RMS 1 of the sounding part, or less if that would need a gain above 6."""
    sounding = np.abs(waveform) > 0.02
    rms = np.sqrt((waveform[sounding] ** 2).mean())
    return waveform / max(rms, 1 / 6)


def _row(
    split: str,
    index: int,
    waveform: np.ndarray,
    captions: list[str],
    label: str,
    kind: str,
    parts: list[Part],
    rng: np.random.Generator,
) -> dict[str, object]:
    if len(waveform) != NUM_SAMPLES or not np.isfinite(waveform).all():
        raise RuntimeError(f"{split} clip {index} ({label}) has {len(waveform)} samples or a value that is not finite.")
    waveform = waveform * (rng.uniform(0.4, 0.9) / np.abs(waveform).max())
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return {
        "audio": {"bytes": file.getvalue(), "path": f"{split}-{index:05d}.flac"},
        "caption": captions,
        "label": label,
        "source": ", ".join(sorted({source for part in parts for source in part.sources})),
        "recording": ", ".join(sorted({part.recording for part in parts})),
        "license": ", ".join(sorted({license for part in parts for license in part.licenses})),
        "kind": kind,
    }


def write_split(split: str, rows: Iterator[dict[str, object]], clips: int, folder: Path) -> list[dict[str, object]]:
    """Write the parquet files of a split; returns the rows without their audio."""
    from datasets import Audio, Features, List, Value

    features = Features(
        {"audio": Audio(sampling_rate=SAMPLING_RATE)}
        | {name: List(Value("string")) if name == "caption" else Value("string") for name in _FEATURES}
    )
    files = -(-clips // ROWS_PER_FILE)
    texts, batch = [], []
    for number, row in enumerate(tqdm(rows, total=clips, desc=split, unit="clip"), start=1):
        texts.append({name: row[name] for name in _FEATURES})
        batch.append(row)
        if len(batch) == ROWS_PER_FILE or number == clips:
            part = (number - 1) // ROWS_PER_FILE
            # pyarrow writes the table, because `datasets` needs torchcodec even for audio that is encoded already.
            table = pyarrow.Table.from_pylist(batch, schema=features.arrow_schema)
            pyarrow.parquet.write_table(
                table,
                folder / f"{split}-{part:05d}-of-{files:05d}.parquet",
                row_group_size=100,
            )
            batch = []
    return texts


def check(train: list[dict[str, object]], test: list[dict[str, object]]) -> None:
    """Check that the splits share no caption and no pair of mixed classes.

    Raises:
        RuntimeError: They do.
    """
    captions = [{caption for row in rows for caption in row["caption"]} for rows in (train, test)]
    if shared := captions[0] & captions[1]:
        raise RuntimeError(f"{len(shared)} test captions are also used in training, such as {sorted(shared)[:3]}.")
    pairs = [
        {frozenset(row["label"].split(" + ")) for row in rows if row["kind"] == "mixture"} for rows in (train, test)
    ]
    if shared := pairs[0] & pairs[1]:
        raise RuntimeError(
            f"{len(shared)} pairs of test mixtures are also used in training, such as {list(shared)[:3]}."
        )


def main() -> None:
    args = parse_args()
    for sound in CLASSES:
        for voice in sound.voices:
            if isinstance(voice, File):
                recordings.read(voice.source, voice.name)  # a missing package ends the run now, not in an hour
    remove_unfinished(args.output_dir.parent)
    with atomic_folder(args.output_dir) as temporary:
        texts = {}
        with multiprocessing.get_context("spawn").Pool(args.num_proc) as pool:
            for split, clips in (("train", args.train_clips), ("test", args.test_clips)):
                rows = pool.imap(make_clip, plan(split, clips, args.mixture_share, args.seed), chunksize=16)
                texts[split] = write_split(split, rows, clips, temporary)
        check(texts["train"], texts["test"])
        (temporary / "README.md").write_text(card(texts["train"], texts["test"], args), encoding="utf-8")
    print(f"{args.output_dir}: {args.train_clips} training and {args.test_clips} test clips.")


if __name__ == "__main__":
    begin_script(parse_args, "Stopped by a signal. Nothing was written; start the same command again.")
    run_script(main)
