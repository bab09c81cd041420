"""Render one clip of one class: what is played, and how."""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import soxr

from sources import recordings
from sources.classes import File, Preset, SoundClass, Voice
from sources.soundfont import Note, SoundFonts, key_samples

SAMPLING_RATE = 16000
# In semitones. A class with too few recordings to hold one out holds out these shifts instead.
MAX_SHIFT = 4.0
HELDOUT_SHIFTS = ((-3.0, -2.0), (1.0, 2.0))
# Every fourth sample zone of an instrument is held out, or every fourth key where it has fewer zones.
HELDOUT_STRIDE = 4
_TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}
_PENTATONIC = {0, 2, 4, 7, 9}
_CROSSFADE = 0.1
_TRIM = 0.01
_KICK, _SNARE, _CLOSED_HAT, _OPEN_HAT, _CRASH, _TOMS = 36, 38, 42, 46, 49, (45, 47, 50)


@dataclass(frozen=True)
class Part:
    """A rendered waveform, and what a truthful caption may say about it.

    `style` is what an instrument plays, "events" or "texture". `times` counts events or repeated notes.
    """

    sound: SoundClass
    waveform: np.ndarray
    recording: str
    sources: tuple[str, ...]
    licenses: tuple[str, ...]
    style: str
    times: int = 1
    register: str = ""
    speed: str = ""
    dynamics: str = ""
    quality: str = ""


class Renderer:
    """Renders parts. Each process has one, because it holds the soundfonts."""

    def __init__(self) -> None:
        self._fonts = SoundFonts()
        self._base = lru_cache(maxsize=256)(self._load_base)

    def render(self, sound: SoundClass, split: str, seconds: float, rng: np.random.Generator) -> Part:
        """Render `seconds` of a class with the voices, zones and pitches of `split`, at peak 1."""
        part = (self._instrument if sound.kind == "instrument" else self._effect)(sound, split, seconds, rng)
        peak = np.abs(part.waveform).max()
        if not np.isfinite(peak) or peak < 1e-4:
            raise RuntimeError(f"{sound.label} ({part.recording}) renders to silence; remove it from the classes.")
        part.waveform[:] /= peak
        return part

    def _effect(self, sound: SoundClass, split: str, seconds: float, rng: np.random.Generator) -> Part:
        voices = split_voices(sound, split)
        shift = _draw_shift(None if sound.heldout else split, rng)
        length = round(seconds * SAMPLING_RATE)
        voice = voices[rng.integers(len(voices))]
        used = [voice]
        times = 1
        if sound.interval is None:
            waveform = _fill(self._shifted(voice, shift, texture=True), length, rng)
        else:
            waveform = np.zeros(length, np.float32)
            events = [self._shifted(voice, shift, texture=False)]
            if sound.mixed:
                used = [voices[i] for i in rng.integers(len(voices), size=4)]
                events = [self._shifted(each, shift, texture=False) for each in used]
            longest = max(len(event) for event in events) / SAMPLING_RATE
            interval = max(rng.uniform(*sound.interval), 0.9 * longest)
            start = rng.uniform(0, 0.15)
            most = 1 + max(0, int((seconds - start - longest) / (interval * 1.05)))
            times = int(rng.integers((most + 1) // 2, most + 1))
            # What does not fill the clip is spread over it.
            interval = min(interval * most / times, interval * 1.5)
            for number in range(times):
                at = round((start + number * interval * rng.uniform(0.97, 1.03)) * SAMPLING_RATE)
                event = events[rng.integers(len(events))] * rng.uniform(0.8, 1.0)
                event = event[: max(0, length - at)]
                waveform[at : at + len(event)] += event
        credits = [self._credit(each) for each in used]
        return Part(
            sound,
            waveform,
            ", ".join(sorted({_name(each) for each in used})),
            tuple(sorted({source for source, _ in credits})),
            tuple(sorted({license for _, license in credits})),
            "texture" if sound.interval is None else "events",
            times=times,
            register="high" if shift > 2.5 else "low" if shift < -2.5 else "",
        )

    def _credit(self, voice: Voice) -> tuple[str, str]:
        if isinstance(voice, Preset):
            return f"fluid-soundfont-{voice.font.lower()}", "MIT"
        return voice.source, recordings.read(voice.source, voice.name).license

    def _shifted(self, voice: Voice, shift: float, texture: bool) -> np.ndarray:
        base = self._base(voice, texture)
        return soxr.resample(base, SAMPLING_RATE * 2 ** (shift / 12), SAMPLING_RATE)

    def _load_base(self, voice: Voice, texture: bool) -> np.ndarray:
        if isinstance(voice, File):
            recording = recordings.read(voice.source, voice.name)
            base = soxr.resample(recording.waveform, recording.rate, SAMPLING_RATE)
        else:
            seconds = 12.0 if texture else 5.0
            note = (0.0, voice.key, 110, seconds if texture else seconds - 1)
            base = self._fonts.render(voice.font, voice.bank, voice.preset, [note], seconds, SAMPLING_RATE)
        base = base - base.mean()
        loud = np.nonzero(np.abs(base) > _TRIM * np.abs(base).max())[0]
        base = base[loud[0] : loud[-1] + 1]
        return base / np.abs(base).max()

    def _instrument(self, sound: SoundClass, split: str, seconds: float, rng: np.random.Generator) -> Part:
        voices = split_voices(sound, split)
        voice = voices[rng.integers(len(voices))]
        style = sound.styles[rng.integers(len(sound.styles))]
        low, high = {0: (40, 65), 1: (70, 105), 2: (112, 127)}[int(rng.choice(3, p=[0.2, 0.55, 0.25]))]
        velocity = int(rng.integers(low, high + 1))
        speed = ("slow", "", "fast")[rng.integers(3)]
        quality = ""
        if style == "rhythm":
            notes = _rhythm(seconds, speed, velocity, rng)
            register = ""
        else:
            keys = split_keys(sound, voice, split)
            style, quality, notes = _notes(style, keys, seconds, speed, velocity, rng)
            register = _register(sound, [note[1] for note in notes])
        waveform = self._fonts.render(voice.font, voice.bank, voice.preset, notes, seconds, SAMPLING_RATE)
        fade = round(0.02 * SAMPLING_RATE)
        waveform[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        return Part(
            sound,
            waveform,
            _name(voice),
            (f"fluid-soundfont-{voice.font.lower()}",),
            ("MIT",),
            style,
            times=len(notes),
            register=register,
            speed=speed if style in ("rise", "fall", "melody", "beat", "rhythm") else "",
            dynamics="soft" if velocity <= 65 else "loud" if velocity >= 112 else "",
            quality=quality,
        )


def split_voices(sound: SoundClass, split: str) -> tuple[Voice, ...]:
    """The voices that a split may use."""
    if not sound.heldout:
        return sound.voices
    return sound.heldout if split == "test" else tuple(v for v in sound.voices if v not in sound.heldout)


def split_keys(sound: SoundClass, voice: Preset, split: str) -> tuple[int, ...]:
    """The MIDI keys of an instrument that a split may use."""
    return _split_keys(sound, voice)[split]


def holds_out_zones(sound: SoundClass) -> bool:
    """Whether the splits share no recording of an instrument. Otherwise they play different keys of shared ones."""
    for voice in sound.voices:
        samples = key_samples(voice.font, voice.bank, voice.preset)
        train, test = (
            frozenset().union(*(samples[key] for key in split_keys(sound, voice, split))) for split in ("train", "test")
        )
        if train & test:
            return False
    return True


@cache
def _split_keys(sound: SoundClass, voice: Preset) -> dict[str, tuple[int, ...]]:
    samples = key_samples(voice.font, voice.bank, voice.preset)
    keys = [key for key in range(sound.keys[0], sound.keys[1] + 1) if key in samples]
    zones = list(dict.fromkeys(samples[key] for key in keys))
    heldout = frozenset().union(*zones[HELDOUT_STRIDE // 2 :: HELDOUT_STRIDE])
    test = [key for key in keys if samples[key] <= heldout]
    train = [key for key in keys if not samples[key] & heldout]
    if len(test) < 4 or len(train) < 8:
        test, train = keys[1::HELDOUT_STRIDE], [key for i, key in enumerate(keys) if i % HELDOUT_STRIDE != 1]
    return {"train": tuple(train), "test": tuple(test)}


def _name(voice: Voice) -> str:
    if isinstance(voice, File):
        return f"{voice.source}/{voice.name}"
    return f"FluidR3_{voice.font}.sf2/{voice.bank}:{voice.preset}"


def _draw_shift(split: str | None, rng: np.random.Generator) -> float:
    """Draw a shift in semitones: from the held-out bands for test, from the rest for train, from all for None."""
    while True:
        shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT)
        heldout = any(low <= shift <= high for low, high in HELDOUT_SHIFTS)
        if split is None or heldout == (split == "test"):
            return shift


def _fill(base: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """Repeat a continuous sound with crossfades, and take `length` samples from a random position."""
    fade = min(round(_CROSSFADE * SAMPLING_RATE), len(base) // 3)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    looped = base
    while len(looped) < length + len(base) // 2:
        looped = np.concatenate([looped[:-fade], looped[-fade:] * (1 - ramp) + base[:fade] * ramp, base[fade:]])
    start = rng.integers(0, max(1, min(len(looped) - length, len(base)) + 1))
    waveform = looped[start : start + length].copy()
    edge = round(0.05 * SAMPLING_RATE)
    waveform[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    waveform[-edge:] *= np.linspace(1, 0, edge, dtype=np.float32)
    return waveform


def _step(speed: str, rng: np.random.Generator) -> float:
    low, high = {"fast": (0.14, 0.24), "": (0.3, 0.48), "slow": (0.6, 0.95)}[speed]
    return rng.uniform(low, high)


def _register(sound: SoundClass, keys: list[int]) -> str:
    low, high = sound.keys
    place = (np.mean(keys) - low) / (high - low)
    return "low" if place < 0.28 else "high" if place > 0.72 else ""


def _window(keys: tuple[int, ...], rng: np.random.Generator, span: int = 14) -> list[int]:
    center = keys[rng.integers(len(keys))]
    return [key for key in keys if abs(key - center) <= span // 2]


def _notes(
    style: str, keys: tuple[int, ...], seconds: float, speed: str, velocity: int, rng: np.random.Generator
) -> tuple[str, str, list[Note]]:
    """Compose what is played: (style, chord quality, notes). A style that the keys do not permit becomes "repeat"."""
    start = rng.uniform(0, 0.12)
    room = seconds - start - 0.25
    window = _window(keys, rng)

    def loudness() -> int:
        return int(np.clip(velocity + rng.integers(-6, 7), 1, 127))

    if style in ("rise", "fall", "melody") and len(window) < 3:
        style = "repeat"
    if style == "chord":
        quality = str(rng.choice(list(_TRIADS)))
        roots = [key for key in keys if all(key + step in keys for step in _TRIADS[quality])]
        if not roots:
            style = "repeat"
    if style == "note":
        key = keys[rng.integers(len(keys))]
        return "note", "", [(start, key, velocity, min(room, seconds * rng.uniform(0.65, 0.95)))]
    if style == "repeat":
        key = keys[rng.integers(len(keys))]
        times = int(rng.integers(2, 9))
        step = room / times if times > 3 else min(room / times, 1.3)
        return "repeat", "", [(start + i * step, key, loudness(), 0.9 * step) for i in range(times)]
    if style == "beat":
        chosen = [window[i] for i in rng.integers(len(window), size=2)]
        step = _step(speed, rng)
        pattern = rng.random(8) < 0.7
        pattern[0] = True
        hits = [i for i in range(int(room / step) + 1) if pattern[i % 8]]
        return "beat", "", [(start + i * step, chosen[i % 8 > 5], loudness(), 0.9 * step) for i in hits]
    if style == "chord":
        count = int(rng.integers(1, 5))
        step = room / count
        center = roots[rng.integers(len(roots))]
        near = [root for root in roots if abs(root - center) <= 6]
        notes = []
        for i in range(count):
            root = near[rng.integers(len(near))]
            notes += [(start + i * step, root + k, velocity, 0.92 * step) for k in _TRIADS[quality]]
        return "chord", quality, notes
    if style in ("rise", "fall"):
        step = min(_step(speed, rng), room / 3)
        run = sorted(window, reverse=style == "fall")
        stride = int(rng.integers(1, 3)) if len(run) > 7 else 1
        run = run[::stride][: int(room / step)]
        notes = [(start + i * step, key, loudness(), 0.92 * step) for i, key in enumerate(run)]
        # The last note rings on, so that a quick run still fills the clip.
        last = notes[-1]
        return style, "", [*notes[:-1], (last[0], last[1], last[2], max(last[3], start + room - last[0]))]
    tonic = window[rng.integers(len(window))]
    scale = [key for key in window if (key - tonic) % 12 in _PENTATONIC]
    scale = scale if len(scale) >= 3 else window
    step, time, position, notes = _step(speed, rng), start, int(rng.integers(len(scale))), []
    while time < start + room - step / 2:
        duration = step * float(rng.choice([1, 1, 1, 2]))
        notes.append((time, scale[position], loudness(), min(0.93 * duration, start + room - time)))
        position = int(np.clip(position + rng.choice([-2, -1, -1, 1, 1, 2]), 0, len(scale) - 1))
        time += duration
    return "melody", "", notes


def _rhythm(seconds: float, speed: str, velocity: int, rng: np.random.Generator) -> list[Note]:
    """A rock-like beat: kick on the strong beats, snare on the back beats, hats between, now and then a fill."""
    step = {"fast": rng.uniform(0.11, 0.15), "": rng.uniform(0.17, 0.22), "slow": rng.uniform(0.26, 0.34)}[speed]
    kicks = {0, 8} | {int(i) for i in rng.choice([3, 6, 7, 10, 11, 14], size=rng.integers(0, 3), replace=False)}
    hat_every = int(rng.choice([1, 2, 2, 4]))
    notes: list[Note] = [(0.02, _CRASH, velocity, 1.0)] if rng.random() < 0.3 else []
    steps = int((seconds - 0.1) / step)
    fill = rng.random() < 0.4
    for i in range(steps):
        time, beat = 0.02 + i * step, i % 16
        if fill and i >= steps - 5:
            notes.append((time, _TOMS[rng.integers(3)], velocity, step))
            continue
        if beat in kicks:
            notes.append((time, _KICK, velocity, step))
        if beat in (4, 12):
            notes.append((time, _SNARE, velocity, step))
        if beat % hat_every == 0:
            notes.append((time, _OPEN_HAT if beat == 14 else _CLOSED_HAT, max(1, velocity - 20), step))
    return notes
