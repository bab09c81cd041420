"""The card of the prepared data set: contents, what is held out, and the credit for every recording."""

import argparse
from collections import Counter, defaultdict

from sources import recordings
from sources.classes import CLASSES, File
from sources.rendering import HELDOUT_SHIFTS, SAMPLING_RATE, holds_out_zones, split_voices

NUM_SAMPLES = 81920  # per clip
UNSEEN_PAIRS = 0.2  # fraction of the pairs of classes that only test mixtures use

_HEADER = """---
license: other
language: en
task_categories: [text-to-audio]
configs:
- config_name: default
  data_files:
  - {split: train, path: train-*.parquet}
  - {split: test, path: test-*.parquet}
---
# Audio clips with captions, from free soundfonts and recordings
"""

_FLUIDR3 = (
    "| fluid-soundfont-gm, fluid-soundfont-gs | MIT | FluidR3, © 2000-2002, 2008 Frank Wen, © 2008 Toby Smithe; "
    "samples by Suren M. Seron, Scott Hanan, Steve Aupperle, Chris Gillman, Alex Taubr, Chris Prola, Andrew Klenk, "
    "Winfried Hubbe, Dylan, Tim, Gort, Uros Katic, Ethan Winer |"
)


def card(train: list[dict[str, object]], test: list[dict[str, object]], args: argparse.Namespace) -> str:
    """The data set card as Markdown.

    Args:
        train: Rows of the split train, without their audio.
        test: Rows of the split test, without their audio.
        args: Arguments of `prepare_dataset.py`.
    """
    lines = [
        _HEADER,
        f"{len(train)} training and {len(test)} test clips of {NUM_SAMPLES} samples at {SAMPLING_RATE} Hz, mono, FLAC: "
        f"{len(CLASSES)} classes, and mixtures of two of them. Made by `training/prepare_dataset.py --seed "
        f"{args.seed} --train_clips {args.train_clips} --test_clips {args.test_clips} "
        f"--mixture_share {args.mixture_share}`.",
        "",
        "Columns: `audio`, `caption` (list of captions of one clip), `label` (mixtures: `a + b`), `kind` (instrument, "
        "effect, recorded, mixture), `source`, `recording`, `license`.",
        "",
        *_heldout(),
        "",
        *_classes(train, test),
        "",
        *_attribution(),
    ]
    return "\n".join(lines) + "\n"


def _heldout() -> list[str]:
    bands = " and ".join(f"{low:+g} to {high:+g}" for low, high in HELDOUT_SHIFTS)
    return [
        "## What only the test split has",
        "",
        "- **Captions**: its templates are not used in training, and no test caption occurs there. The nouns "
        "are the same.",
        f"- **Pairs**: {UNSEEN_PAIRS:.0%} of all pairs of classes are mixed in test only; both classes are known.",
        "- **Recordings**: as the table below says, one of four. *Files or presets*: those named are in test only. "
        "*Sample zones*: every fourth zone of an instrument. *Keys*: every fourth key of an instrument with few zones, "
        "whose recordings are shared. *Pitch shifts*: a class with one or two recordings shares them and holds out "
        f"shifts of {bands} semitones (of ±4).",
        "- **Not independent**, though held out by file: the drum kit shares samples with other kits; steam whistles 4 "
        "and 5 are edits of one recording; tabla_tun3, tabla_te_m and bass_trance_c resemble tabla_tun2, tabla_te2 and "
        "bass_thick_c (peak correlation 0.99, 0.94 and 0.83).",
        "",
        "Captions call notes low or high relative to the instrument's range, and soft or loud by their velocity. "
        "Clips are normalized to a random peak, so only the timbre tells soft from loud.",
    ]


def _classes(train: list[dict[str, object]], test: list[dict[str, object]]) -> list[str]:
    counts = [Counter(row["label"] for row in rows if row["kind"] != "mixture") for rows in (train, test)]
    lines = [
        "## Classes",
        "",
        "| label | kind | train | test | made from | held out for test |",
        "|---|---|---|---|---|---|",
    ]
    for sound in CLASSES:
        voices = ", ".join(_voice(v) for v in split_voices(sound, "train"))
        if sound.heldout:
            heldout = ", ".join(_voice(v) for v in sound.heldout)
        elif sound.kind == "instrument":
            heldout = "sample zones" if holds_out_zones(sound) else "keys"
        else:
            heldout = "pitch shifts"
        lines.append(
            f"| {sound.label} | {sound.kind} | {counts[0][sound.label]} | {counts[1][sound.label]} "
            f"| {voices} | {heldout} |"
        )
    return lines


def _voice(voice: object) -> str:
    if isinstance(voice, File):
        return f"{voice.source} {voice.name}"
    return f"FluidR3 {voice.font} {voice.bank}:{voice.preset}"


def _attribution() -> list[str]:
    by_source: dict[str, list[recordings.Recording]] = defaultdict(list)
    for voice in sorted({v for sound in CLASSES for v in sound.voices if isinstance(v, File)}, key=_voice):
        by_source[voice.source].append(recordings.read(voice.source, voice.name))
    lines = ["## Attribution", "", "| source (Debian package) | license | credit |", "|---|---|---|", _FLUIDR3]
    for source, used in by_source.items():
        licenses = ", ".join(sorted({recording.license for recording in used}))
        credits = sorted({recording.credit for recording in used})
        credit = "see below" if len(credits) > 1 else credits[0]
        lines.append(f"| {source} | {licenses} | {credit} |")
    lines += [
        "",
        "All clips are excerpts, repetitions, pitch shifts or mixtures of these. OpenSFX as a collection is "
        "CC-BY-SA-3.0; only files whose own title says CC0 or CC-BY are used. "
        "Two CC-BY-SA files of Endless Sky are left out.",
        "",
        "| openttd-opensfx | license | title and author |",
        "|---|---|---|",
    ]
    return lines + [f"| {r.name} | {r.license} | {r.credit} |" for r in by_source["openttd-opensfx"]]
