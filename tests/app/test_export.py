"""Files for an engine or an editor: format, level, loop points, names, dates and the manifest."""

import csv
import io
import json
import zipfile
from datetime import datetime

import numpy as np
import pytest
import soundfile
import torch

from app_recipes import PLAIN, kinds
from diffusers_soundctm import audio
from diffusers_soundctm.app import edits
from diffusers_soundctm.app.export import ExportSettings, archive, settings_from
from diffusers_soundctm.app.recipe import Recipe
from diffusers_soundctm.app.studio import Take

KEPT = datetime(2026, 3, 4, 5, 6, 8)


def opened(content):
    return soundfile.SoundFile(io.BytesIO(content))


@pytest.mark.parametrize("extension", [".wav", ".flac"])
@pytest.mark.parametrize(("bits", "rate", "channels"), [(16, 0, 0), (24, 48000, 2), (16, 44100, 1)])
def test_formats(extension, bits, rate, channels, studio):
    take = studio.make(PLAIN)
    content, row = ExportSettings(extension, bits, rate, channels).write(studio, take)
    with opened(content) as file:
        assert file.subtype == f"PCM_{bits}" and file.samplerate == (rate or 16000) and file.channels == (channels or 1)
        assert file.frames == row["samples"] == pytest.approx(file.samplerate, abs=1)
        assert json.loads(file.copy_metadata()["comment"])["prompt"] == PLAIN.prompt
    assert (row["bits"], row["sampling_rate"], row["channels"]) == (bits, rate or 16000, channels or 1)


def test_levels(studio):
    noise = Take(PLAIN, 0.02 * torch.randn(1, 32000, generator=torch.Generator().manual_seed(0)), 16000)
    plain, _ = ExportSettings().convert(noise)
    peak, _ = ExportSettings(level="peak").convert(noise)
    assert audio.true_peak(peak, 16000).item() == pytest.approx(10 ** (-1 / 20), rel=1e-3)
    for loudness in (-30.0, -23.0):
        leveled, _ = ExportSettings(level="loudness", loudness=loudness).convert(noise)
        again = audio.normalize_loudness(leveled, 16000, loudness)
        assert torch.allclose(leveled, again, rtol=1e-3)
    assert plain.abs().max() < peak.abs().max()


def test_edges_are_faded_and_loops_are_not(studio):
    level = torch.ones(1, 16000) / 2
    faded, _ = ExportSettings().convert(Take(PLAIN, level, 16000))
    assert faded[0, 0] == 0 and faded[0, -1].abs() < 1e-2 and torch.equal(faded[:, 80:-80], level[:, 80:-80])
    looped, _ = ExportSettings().convert(Take(edits.looped(PLAIN, 1), level, 16000))
    assert torch.equal(looped, level)


def test_a_loop_stays_seamless_and_has_loop_points(studio):
    """A tone of whole periods stays a tone over the seam at another sampling rate."""
    tone = torch.sin(2 * torch.pi * 40 * torch.arange(4000) / 4000)[None] / 2  # 160 Hz
    take = Take(edits.looped(PLAIN, 1), tone, 16000)
    content, row = ExportSettings(bits=24, sampling_rate=44100).write(studio, take)
    with opened(content) as file:
        samples, log = file.read(), file.extra_info
    twice = np.tile(samples, 2)
    curvature = np.abs(np.diff(twice, 2))
    assert curvature.max() < 1.05 * np.abs(np.diff(samples[100:-100], 2)).max()
    assert "Loop Count   : 1" in log and f"End : {len(samples) - 1}" in log
    assert (row["loop_start"], row["loop_end"]) == (0, len(samples) - 1)
    with opened(ExportSettings().write(studio, studio.make(PLAIN))[0]) as file:
        assert "smpl" not in file.extra_info


def test_archive_with_manifest_names_and_dates(studio, sound_file):
    recipes = [PLAIN, kinds(studio, sound_file)["drawn"], PLAIN.change(prompt="=cmd() ../../etc")]
    takes = [(studio.make(recipe), KEPT) for recipe in recipes]
    with zipfile.ZipFile(io.BytesIO(archive(studio, takes, ExportSettings(folders=True)))) as file:
        assert file.testzip() is None
        assert {entry.date_time for entry in file.infolist()} == {(2026, 3, 4, 5, 6, 8)}
        manifest = json.loads(file.read("manifest.json"))
        table = list(csv.DictReader(io.StringIO(file.read("manifest.csv").decode("utf-8-sig"))))
        names = ["plain/rain-on-a-tin-roof_3_01", "drawn/rain-on-a-tin-roof_3_02", "plain/cmd-..-..-etc_3_03"]
        files = {f"{name}{end}" for name in names for end in (".wav", ".py")} | {"manifest.json", "manifest.csv"}
        assert set(file.namelist()) == files
        for row, recipe in zip(manifest, recipes, strict=True):
            assert Recipe.from_json(row["recipe"]) == recipe and row["date"] == "2026-03-04T05:06:08"
            assert opened(file.read(row["file"])).frames == row["samples"]
    assert [row["file"] for row in table] == [row["file"] for row in manifest]
    assert table[2]["prompt"].startswith("'=")  # no formula for spreadsheets


def test_equal_names_are_numbered(studio):
    takes = [(studio.make(PLAIN), KEPT)] * 2
    with zipfile.ZipFile(io.BytesIO(archive(studio, takes, ExportSettings(pattern="{prompt}")))) as file:
        names = [name for name in file.namelist() if name.endswith(".wav")]
    assert names == ["rain-on-a-tin-roof.wav", "rain-on-a-tin-roof-02.wav"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"extension": ".exe"}, "extension"),
        ({"bits": 32}, "bits"),
        ({"sampling_rate": True}, "sampling_rate"),
        ({"level": "loudness", "loudness": 3}, "loudness"),
        ({"pattern": ""}, "1 to 120 characters"),
        ({"pattern": "{prompt"}, "unpaired brace"),
        ({"pattern": "{prompt.__class__}"}, "unknown field"),
        ({"pattern": "{seed:99999999}"}, "unknown field"),
        ({"path": "/etc"}, "must be among"),
        ([], "must be among"),
    ],
)
def test_wrong_settings_are_named(values, named):
    with pytest.raises(ValueError, match=named):
        settings_from(values)


def test_an_empty_archive_is_refused(studio):
    with pytest.raises(ValueError, match="keep one first"):
        archive(studio, [], ExportSettings())
