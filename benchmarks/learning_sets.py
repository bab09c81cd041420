"""Recordings of three kinds that the embedded model does not know, for `learn.py`.

- words: spoken words of KTuberling (GPL-2+, Debian package ktuberling-data), in all its languages
- desktop: notification sounds of the freedesktop theme (CC-BY-SA and others, Debian package sound-theme-freedesktop)
- morse: random Morse code, synthesized here
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

SAMPLING_RATE = 16000
LEARNED = 20
CAPTIONS = {"words": "a child's word game", "desktop": "a desktop notification", "morse": "Morse code"}
_MORSE = [".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", "..", ".---", "-.-", ".-..", "--", "-.", "---",
          ".--.", "--.-", ".-.", "...", "-", "..-", "...-", ".--", "-..-", "-.--", "--.."]  # fmt: skip


def waveforms(name: str, held_out: int) -> list[np.ndarray]:
    """Mono recordings of a kind at 16 kHz in random order: 20 to learn, then up to `held_out` others.

    Args:
        name: A key of `CAPTIONS`.
        held_out: Number of further recordings.

    Raises:
        SystemExit: The Debian package is not installed.
    """
    rng = np.random.default_rng(0)
    makers: dict[str, Callable[[np.random.Generator, int], list[np.ndarray]]] = {
        "words": lambda rng, count: _files("/usr/share/ktuberling/sounds", "ktuberling-data", rng, count),
        "desktop": lambda rng, count: _files("/usr/share/sounds/freedesktop", "sound-theme-freedesktop", rng, count),
        "morse": lambda rng, count: [_morse(rng) for _ in range(count)],
    }
    return makers[name](rng, LEARNED + held_out)


def _files(folder: str, package: str, rng: np.random.Generator, count: int) -> list[np.ndarray]:
    from diffusers_soundctm.data import decode_audio

    files = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".wav", ".ogg", ".oga"))
    if not files:
        raise SystemExit(f"{folder} is missing; run `apt-get install {package}`")
    found, seen = [], set()
    for index in rng.permutation(len(files)):
        waveform = decode_audio(files[index], SAMPLING_RATE)
        if waveform.tobytes() not in seen and np.abs(waveform).max() > 0.01 and len(waveform) > 0.15 * SAMPLING_RATE:
            seen.add(waveform.tobytes())
            found.append(waveform)
        if len(found) == count:
            break
    return found


def _morse(rng: np.random.Generator) -> np.ndarray:
    """A few random letters of one operator: pitch, speed, loudness and a little noise vary."""
    unit, pitch = rng.uniform(0.05, 0.11), rng.uniform(450, 950)
    gate: list[np.ndarray] = []

    def key(units: int, on: bool) -> None:
        gate.append(np.full(round(units * unit * SAMPLING_RATE), float(on)))

    while sum(map(len, gate)) < rng.uniform(2, 4.5) * SAMPLING_RATE:
        for symbol in _MORSE[rng.integers(26)]:
            key(3 if symbol == "-" else 1, True)
            key(1, False)
        key(2, False)
    keyed = np.convolve(np.concatenate(gate), np.hanning(80) / np.hanning(80).sum(), "same")
    tone = np.sin(2 * np.pi * pitch * np.arange(len(keyed)) / SAMPLING_RATE)
    noise = rng.standard_normal(len(keyed)) * rng.uniform(0.001, 0.01)
    return (rng.uniform(0.3, 0.8) * keyed * tone + noise).astype(np.float32)
