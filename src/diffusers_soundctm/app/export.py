"""Audio files for a game engine or an editor: format, level, loop points, names, and a list of what they hold."""

import csv
import io
import json
import re
import string
import struct
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from .. import audio
from .cards import kind_of
from .sound_files import comment_of, without_clicks
from .studio import Studio, Take
from .validators import number

HEADROOM_DB = 1.0
FIELDS = ("prompt", "seed", "n", "kind", "steps", "id")
LONGEST_NAME = 120  # characters
MAX_SOUNDS = 200
MAX_ARCHIVE_BYTES = 200 * 2**20
CHOICES = {
    "extension": (".wav", ".flac"),
    "bits": (16, 24),
    "sampling_rate": (0, 16000, 44100, 48000),
    "channels": (0, 1, 2),
    "level": ("as made", "loudness", "peak"),
}


@dataclass(frozen=True)
class ExportSettings:
    """How sounds are written to files.

    Args:
        extension: ".wav" or ".flac".
        bits: 16 or 24 bits per sample.
        sampling_rate: 16000, 44100 or 48000 Hz, or 0 for the model's.
        channels: 1 or 2, or 0 for the model's.
        level: "as made"; "loudness" for `loudness`, as far as peaks of −1 dBTP allow; or "peak" for peaks of −1 dBTP.
        loudness: Integrated loudness in LUFS, −70 to −5.
        pattern: Name of the files, with the fields {prompt}, {seed}, {n}, {kind}, {steps} and {id}.
        folders: Whether each kind of sound has a folder of its own.

    Raises:
        ValueError: A value is not among the choices; the message is meant for the person at the screen.
    """

    extension: str = ".wav"
    bits: int = 16
    sampling_rate: int = 0
    channels: int = 0
    level: str = "as made"
    loudness: float = -23.0
    pattern: str = "{prompt}_{seed}_{n}"
    folders: bool = False

    def __post_init__(self):
        for field, choices in CHOICES.items():
            value = getattr(self, field)
            if isinstance(value, bool) or value not in choices:
                raise ValueError(f"The {field} of the export is {value!r}; choose one of {choices}.")
        number("The loudness of the export", self.loudness, -70, -5)
        if not isinstance(self.pattern, str) or not 0 < len(self.pattern) <= LONGEST_NAME:
            raise ValueError(f"The name pattern must have 1 to {LONGEST_NAME} characters.")
        try:
            named = [part[1:] for part in string.Formatter().parse(self.pattern) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"The name pattern {self.pattern!r} has an unpaired brace; write {{prompt}}.") from error
        if any(name not in FIELDS or spec or conversion for name, spec, conversion in named):
            fields = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ValueError(f"The name pattern {self.pattern!r} has an unknown field; choose among {fields}.")

    def convert(self, take: Take) -> tuple[torch.Tensor, int]:
        """Return the waveform (channels, samples) as the file has it, and its sampling rate."""
        rate = self.sampling_rate or take.sampling_rate
        waveform = audio.match_channels(without_clicks(take), self.channels or len(take.waveform))
        waveform = _resample(waveform, take.sampling_rate, rate, take.recipe.loop)
        if self.level == "loudness":
            waveform = audio.normalize_loudness(waveform, rate, self.loudness, max_true_peak=-HEADROOM_DB)
        elif self.level == "peak":
            peak = audio.true_peak(waveform, rate).max().clamp(min=1e-9)
            waveform = waveform * (10 ** (-HEADROOM_DB / 20) / peak)
        return waveform, rate

    def write(self, studio: Studio, take: Take) -> tuple[bytes, dict[str, Any]]:
        """Return the bytes of a take's file, and what the manifest says about it.

        Raises:
            ValueError: The sound is silent, so it has no loudness.
        """
        waveform, rate = self.convert(take)
        tags = {"title": take.recipe.prompt, "comment": comment_of(studio, take, self.extension)}
        with tempfile.TemporaryDirectory() as folder:
            path = audio.write_audio(Path(folder) / f"sound{self.extension}", waveform, rate, tags, self.bits)
            content = path.read_bytes()
        samples = waveform.shape[-1]
        if take.recipe.loop and self.extension == ".wav":
            content = with_loop_points(content, rate, samples)
        peak_db = 20 * audio.true_peak(waveform, rate).max().clamp(min=1e-9).log10().item()
        return content, {
            "prompt": take.recipe.prompt,
            "kind": kind_of(take.recipe),
            "seed": take.recipe.noise.seed,
            "steps": take.recipe.steps,
            "seconds": round(samples / rate, 4),
            "samples": samples,
            "sampling_rate": rate,
            "channels": len(waveform),
            "bits": self.bits,
            "true_peak_db": round(peak_db, 1),
            "loop_start": 0 if take.recipe.loop else None,
            "loop_end": samples - 1 if take.recipe.loop else None,
            "id": take.id,
        }

    def name(self, take: Take, n: int) -> str:
        """Return the path of a file inside the archive, without extension: letters, digits and . _ - / alone."""
        recipe, kind = take.recipe, kind_of(take.recipe)
        values = {"prompt": recipe.prompt, "seed": recipe.noise.seed, "n": f"{n:02d}", "kind": kind}
        words = self.pattern.format(**values, steps=recipe.steps, id=take.id[:6])
        name = re.sub(r"[^a-z0-9_.]+", "-", words.lower())[:LONGEST_NAME].strip("-.")
        return f"{kind}/{name or 'sound'}" if self.folders else name or "sound"


def archive(studio: Studio, takes: Sequence[tuple[Take, datetime]], settings: ExportSettings) -> bytes:
    """Return a zip archive of sounds, the scripts that make them, `manifest.json` and `manifest.csv`.

    Args:
        studio: The studio that made the sounds.
        takes: The sounds, and when each was kept.
        settings: How to write them.

    Raises:
        ValueError: There is no sound, one is silent, or the archive would be too large.
    """
    if not takes:
        raise ValueError("There is no sound to export; keep one first.")
    buffer, rows, names = io.BytesIO(), [], set()
    newest = max(date for _, date in takes)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for n, (take, date) in enumerate(takes, 1):
            content, row = settings.write(studio, take)
            stem = settings.name(take, n)
            name = stem if stem not in names else f"{stem}-{n:02d}"
            names.add(name)
            _add(file, f"{name}{settings.extension}", content, date)
            _add(file, f"{name}.py", studio.code(take.recipe).encode(), date)
            if buffer.tell() > MAX_ARCHIVE_BYTES:
                raise ValueError(f"The archive would exceed {MAX_ARCHIVE_BYTES // 2**20} MB; export fewer sounds.")
            extra = {"model": studio.model, "recipe": take.recipe.to_json()}
            rows.append({"file": f"{name}{settings.extension}", **row, "date": date.isoformat(), **extra})
        _add(file, "manifest.json", json.dumps(rows, indent=2, ensure_ascii=False).encode(), newest)
        _add(file, "manifest.csv", _csv(rows).encode("utf-8-sig"), newest)
    return buffer.getvalue()


def settings_from(values: Any) -> ExportSettings:
    """Return the settings of an export from JSON.

    Raises:
        ValueError: A setting is unknown, or its value is not among the choices.
    """
    known = [field.name for field in fields(ExportSettings)]
    if not isinstance(values, dict) or set(values) - set(known):
        raise ValueError(f"The settings of the export must be among {', '.join(known)}.")
    return ExportSettings(**values)


def with_loop_points(wav: bytes, sampling_rate: int, samples: int) -> bytes:
    """Return a WAV file with a `smpl` chunk: one loop over all samples, played forever."""
    middle_c, first, forever = 60, 0, 0
    fields = [0, 0, round(1e9 / sampling_rate), middle_c, 0, 0, 0, 1, 0, 0, 0, first, samples - 1, 0, forever]
    chunk = b"smpl" + struct.pack("<I15I", 4 * len(fields), *fields)
    content = wav + bytes(len(wav) % 2) + chunk
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


def _resample(waveform: torch.Tensor, from_rate: int, to_rate: int, is_loop: bool) -> torch.Tensor:
    if not is_loop or from_rate == to_rate:
        return audio.resample(waveform, from_rate, to_rate)
    # The filter reads over the seam, and the period is a whole number of samples, so that the loop stays seamless.
    samples = waveform.shape[-1]
    new = round(samples * to_rate / from_rate)
    return audio.resample(waveform.tile(3), samples, new)[..., new : 2 * new]


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name in rows[0] if name != "recipe"], extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        # Spreadsheets run cells that begin with these characters as formulas.
        is_formula = row["prompt"][:1] in "=+-@"
        writer.writerow(row | {"prompt": f"'{row['prompt']}" if is_formula else row["prompt"]})
    return text.getvalue()


def _add(file: zipfile.ZipFile, name: str, content: bytes, date: datetime) -> None:
    file.writestr(zipfile.ZipInfo(name, date.timetuple()[:6]), content)
