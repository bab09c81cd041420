"""The FluidR3 soundfonts, played through tinysoundfont."""

import struct
from collections import defaultdict
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import soxr

FOLDER = Path("/usr/share/sounds/sf2")
# Samples are recorded at 44.1 kHz and the synthesizer interpolates linearly: rendering at the target rate would alias.
RENDER_RATE = 44100
_KEY_RANGE, _INSTRUMENT, _SAMPLE_ID = 43, 41, 53
DRUM_BANK = 128

# A note is (start in seconds, MIDI key, velocity 1-127, duration in seconds).
Note = tuple[float, int, int, float]


class SoundFonts:
    """Both FluidR3 fonts ("GM", "GS"), loaded once per process (about 150 MB)."""

    def __init__(self) -> None:
        import tinysoundfont

        self._synth = tinysoundfont.Synth(gain=-6, samplerate=RENDER_RATE)
        self._fonts = {name: self._synth.sfload(str(FOLDER / f"FluidR3_{name}.sf2")) for name in ("GM", "GS")}

    def render(
        self, font: str, bank: int, preset: int, notes: list[Note], seconds: float, sampling_rate: int
    ) -> np.ndarray:
        """Play `notes` on one preset. Returns mono float32 of round(seconds * sampling_rate) samples."""
        drums = bank == DRUM_BANK
        channel = 9 if drums else 0
        self._synth.sounds_off(channel)
        # The synthesizer fades out cut notes during the next block, which is discarded.
        self._synth.generate(RENDER_RATE // 20)
        self._synth.program_select(channel, self._fonts[font], bank, preset, drums)
        events = [(start, 1, key, velocity) for start, key, velocity, _ in notes]
        events += [(start + duration, 0, key, 0) for start, key, _, duration in notes]
        pieces, position, end = [], 0, int(seconds * RENDER_RATE)
        for time, starts, key, velocity in sorted(events):
            frame = min(int(time * RENDER_RATE), end)
            if frame > position:
                pieces.append(np.frombuffer(self._synth.generate(frame - position), np.float32))
                position = frame
            if starts:
                self._synth.noteon(channel, key, velocity)
            else:
                self._synth.noteoff(channel, key)
        if end > position:
            pieces.append(np.frombuffer(self._synth.generate(end - position), np.float32))
        stereo = np.concatenate(pieces).reshape(-1, 2)
        mono = soxr.resample(stereo.mean(axis=1), RENDER_RATE, sampling_rate)
        return np.pad(mono, (0, 1))[: round(seconds * sampling_rate)]


@lru_cache
def key_samples(font: str, bank: int, preset: int) -> dict[int, frozenset[str]]:
    """The recordings that each MIDI key of a preset plays, by sample name, without the channel.

    Read from the file's `pdta` chunk: presets point to instruments, instruments to samples, each zone with a key range.
    """
    data = (FOLDER / f"FluidR3_{font}.sf2").read_bytes()
    pdta = data[data.rindex(b"pdtaphdr") + 4 :]

    def records(name: bytes, size: int) -> list[bytes]:
        at = pdta.index(name)
        length = struct.unpack_from("<I", pdta, at + 4)[0]
        return [pdta[i : i + size] for i in range(at + 8, at + 8 + length, size)]

    presets, instruments, samples = records(b"phdr", 38), records(b"inst", 22), records(b"shdr", 46)

    def zones(bags: list[bytes], generators: list[bytes], first: int, last: int) -> list[dict[int, int]]:
        bounds = [struct.unpack_from("<H", bag)[0] for bag in bags[first : last + 1]]
        return [dict(struct.unpack("<HH", generator) for generator in generators[a:b]) for a, b in pairwise(bounds)]

    def keys(zone: dict[int, int]) -> range:
        value = zone.get(_KEY_RANGE, 127 << 8)
        return range(value & 255, (value >> 8) + 1)

    index = next(i for i, p in enumerate(presets) if struct.unpack_from("<HH", p, 20) == (preset, bank))
    preset_bags, preset_generators = records(b"pbag", 4), records(b"pgen", 4)
    instrument_bags, instrument_generators = records(b"ibag", 4), records(b"igen", 4)
    bounds = [struct.unpack_from("<H", presets[i], 24)[0] for i in (index, index + 1)]
    found: dict[int, set[str]] = defaultdict(set)
    for preset_zone in zones(preset_bags, preset_generators, *bounds):
        if _INSTRUMENT not in preset_zone:
            continue
        number = preset_zone[_INSTRUMENT]
        inner = [struct.unpack_from("<H", instruments[i], 20)[0] for i in (number, number + 1)]
        for zone in zones(instrument_bags, instrument_generators, *inner):
            if _SAMPLE_ID not in zone:
                continue
            name = samples[zone[_SAMPLE_ID]][:20].split(b"\0")[0].decode("latin-1").strip()
            stem = name.removesuffix("(L)").removesuffix("(R)").removesuffix("-L").removesuffix("-R")
            for key in set(keys(zone)) & set(keys(preset_zone)):
                found[key].add(stem.removesuffix(" L").removesuffix(" R").strip())
    return {key: frozenset(names) for key, names in found.items()}
