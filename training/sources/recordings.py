"""Recordings under permissive licenses, read from Debian packages."""

import io
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

SONIC_PI = Path("/usr/share/sonic-pi/samples")
OPENSFX = Path("/usr/share/games/openttd/baseset/opensfx/opensfx.cat")
ENDLESS_SKY = Path("/usr/share/games/endless-sky/sounds")
FREEDOOM = Path("/usr/share/games/doom/freedoom2.wad")
# CC-BY-SA by the package's copyright file. All its other recordings are public domain.
_ENDLESS_SKY_COPYLEFT = {"heavy rocket hit", "explosion huge"}
_OPENSFX_LICENSES = {
    "Creative Commons Zero 1.0": "CC0-1.0",
    "Creative Commons Attribution 3.0": "CC-BY-3.0",
    "Creative Commons Attribution 3.0 Unported": "CC-BY-3.0",
}
_DMX_HEADER, _DMX_PADDING = 8, 16


@dataclass(frozen=True)
class Recording:
    """One recorded file: mono float32 `waveform` at `rate` Hz, with the credit that its license requires."""

    waveform: np.ndarray
    rate: int
    source: str
    name: str
    license: str
    credit: str


@lru_cache(maxsize=256)
def read(source: str, name: str) -> Recording:
    """Read a file of "sonic-pi", "openttd-opensfx" (by its number), "endless-sky" or "freedoom" (by its lump).

    Raises:
        ValueError: The file has a copyleft license, or does not state its license.
    """
    reader = {
        "sonic-pi": _sonic_pi,
        "openttd-opensfx": _opensfx,
        "endless-sky": _endless_sky,
        "freedoom": _freedoom,
    }[source]
    waveform, rate, license, credit = reader(name)
    return Recording(waveform, rate, source, name, license, credit)


def _sonic_pi(name: str) -> tuple[np.ndarray, int, str, str]:
    return *_decode(SONIC_PI / f"{name}.flac"), "CC0-1.0", "from freesound.org, via Sonic Pi"


def _endless_sky(name: str) -> tuple[np.ndarray, int, str, str]:
    if name in _ENDLESS_SKY_COPYLEFT:
        raise ValueError(f"The endless-sky recording {name!r} is CC-BY-SA; choose another.")
    return *_decode(ENDLESS_SKY / f"{name}.wav"), "public domain", "from freesound.org, via Endless Sky"


def _opensfx(name: str) -> tuple[np.ndarray, int, str, str]:
    data = OPENSFX.read_bytes()
    offset, size = struct.unpack_from("<II", data, 8 * int(name))
    offset &= 0x7FFFFFFF  # the top bit marks the file's version
    title_length = data[offset]
    title = data[offset + 1 : offset + 1 + title_length].rstrip(b"\0").decode()
    stated = re.search(r"License: (.*?)\.( Original is Public Domain\.)?$", title)
    if stated is None or stated[1] not in _OPENSFX_LICENSES:
        raise ValueError(
            f"The OpenSFX recording {name} does not state CC0 or CC-BY in its title {title!r}; choose another."
        )
    start = offset + 1 + title_length
    credit = title[: stated.start()].strip()
    return *_decode(io.BytesIO(data[start : start + size])), _OPENSFX_LICENSES[stated[1]], credit


def _freedoom(name: str) -> tuple[np.ndarray, int, str, str]:
    data = FREEDOOM.read_bytes()
    count, directory = struct.unpack_from("<II", data, 4)
    for index in range(count):
        offset, _, lump = struct.unpack_from("<II8s", data, directory + 16 * index)
        if lump.rstrip(b"\0").decode("latin-1") == name:
            _, rate, length = struct.unpack_from("<HHI", data, offset)
            start = offset + _DMX_HEADER + _DMX_PADDING
            samples = np.frombuffer(data, np.uint8, length - 2 * _DMX_PADDING, start)
            return (
                (samples.astype(np.float32) - 128) / 128,
                rate,
                "BSD-3-Clause",
                "Contributors to the Freedoom project",
            )
    raise ValueError(f"{FREEDOOM} has no lump {name!r}; install the Debian package freedoom.")


def _decode(file: Path | io.BytesIO) -> tuple[np.ndarray, int]:
    waveform, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return waveform.mean(axis=1), rate
