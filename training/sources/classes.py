"""The classes: their names, and the recordings or presets that they are made from. `classes.yaml` lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Preset:
    """A soundfont preset. Effects are played at `key`, instruments at the keys of their class."""

    font: str
    bank: int
    preset: int
    key: int = 60


@dataclass(frozen=True)
class File:
    """A recorded file, by its name in `recordings.read`."""

    source: str
    name: str


Voice = Preset | File


@dataclass(frozen=True)
class SoundClass:
    """One class.

    Attributes:
        label: Value of the `label` column.
        kind: "instrument", "effect" or "recorded".
        nouns: Noun phrases with article ("a barking dog"); each names the sound plainly.
        clauses: Short sentences ("a dog barks"). Those of instruments follow from what is played.
        voices: What the class is made from.
        heldout: Voices that only the test split uses; if empty, a class holds out sample zones or pitches.
        keys: Lowest and highest MIDI key (instruments).
        styles: What an instrument plays.
        plural: Whether the nouns take a plural verb.
        interval: Smallest and largest time between events in seconds; None for continuous sounds.
        mixed: Whether every event draws its own voice.
    """

    label: str
    kind: str
    nouns: tuple[str, ...]
    voices: tuple[Voice, ...]
    clauses: tuple[str, ...] = ()
    heldout: tuple[Voice, ...] = ()
    keys: tuple[int, int] = (0, 127)
    styles: tuple[str, ...] = ()
    plural: bool = False
    interval: tuple[float, float] | None = None
    mixed: bool = False


def _voice(entry: list) -> Voice:
    return File(*entry) if len(entry) == 2 else Preset(*entry)


def _class(entry: Mapping[str, Any]) -> SoundClass:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    voices = {name: tuple(map(_voice, values.get(name, ()))) for name in ("voices", "heldout")}
    return SoundClass(**values | voices)


CLASSES = tuple(map(_class, yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))))
