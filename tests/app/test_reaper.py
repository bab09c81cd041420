"""The ReaScript against the running app, with a stand-in for Reaper's functions."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.sound_files import encode, read_settings

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "examples" / "reaper" / "soundctm.lua"

pytestmark = pytest.mark.skipif(
    not (shutil.which("lua5.4") and shutil.which("curl")), reason="needs apt-get install lua5.4 curl"
)


@pytest.fixture
def files(tmp_path, studio):
    """A recording, and a file that the app wrote."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(12800)
    soundfile.write(tmp_path / "walk.wav", noise, 16000)
    (tmp_path / "rain.wav").write_bytes(encode(studio, studio.make(Recipe("rain", Noise(3), 0.6))))
    return tmp_path


def reaper(address, file, answers, time_range=(10.2, 10.4)):
    """Run the script with an item of `file`, and return what it does to the project, as lists of words."""
    command = ["lua5.4", HERE / "reaper_stand_in.lua", SCRIPT, address.rstrip("/"), Path(file).parent, file, answers]
    done = subprocess.run(
        [str(one) for one in (*command, *time_range)], capture_output=True, text=True, timeout=500, check=True
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


def placed(calls):
    """The file of the new item, and the item's values."""
    assert [call[0] for call in calls].count("AddMediaItemToTrack") == 1, calls
    (path,) = [call[1] for call in calls if call[0] == "PCM_Source_CreateFromFile"]
    return Path(path), {call[2]: float(call[3]) for call in calls if call[0].endswith("_Value")}


def test_fill_and_extend_a_recording(served, files):
    before = soundfile.read(files / "walk.wav")[0]
    calls = reaper(served, files / "walk.wav", 'fill,"rain", on \\a roof,0')
    path, values = placed(calls)
    after = soundfile.read(path)[0]
    # The range from 10.2 s to 10.4 s is 0.3 to 0.5 s in the file.
    rest, filled = slice(80, 4000), slice(5000, 7800)
    assert np.corrcoef(before[rest], after[rest])[0, 1] > 0.9999 > np.corrcoef(before[filled], after[filled])[0, 1]
    assert (values["D_POSITION"], values["D_STARTOFFS"], values["D_LENGTH"]) == (10, 0.1, 0.5)
    assert calls[0] == ["Undo_BeginBlock"] and calls[-1][:2] == ["Undo_EndBlock", "SoundCTM: fill"]
    assert ["InsertTrackAtIndex", "3", "true"] in calls  # below the item's track
    path, values = placed(reaper(served, files / "walk.wav", "extend,wind,0.4"))
    assert soundfile.info(path).duration == pytest.approx(1.2) and values["D_LENGTH"] == pytest.approx(0.8)


def test_vary_and_loop_a_sound_of_the_app(served, files):
    path, values = placed(reaper(served, files / "rain.wav", "vary,,0.2"))
    _, recipe = read_settings(path)
    assert (recipe.prompt, recipe.noise.seed, recipe.noise.variations[0][0]) == ("rain", 3, 0.2)
    path, values = placed(reaper(served, files / "rain.wav", "loop,,0"))
    assert read_settings(path)[1].loop and values["B_LOOPSRC"] == 1


@pytest.mark.parametrize(
    ("name", "answers", "said"),
    [
        ("walk.wav", "vary,,0.2", "names no recipe"),
        ("walk.wav", "extend,wind,much", "not a number"),
        ("walk.wav", "extend,wind,99", "more is 99"),
        ("walk.wav", "sing,wind,1", "fill, extend, vary or loop"),
        ("", "fill,wind,1", "Select an audio item"),
    ],
)
def test_what_is_wrong_is_said_in_a_box(name, answers, said, served, files):
    (call,) = reaper(served, files / name if name else "", answers)
    assert call[0] == "ShowMessageBox" and said in call[1]


def test_an_app_that_does_not_run_is_named(files):
    (call,) = reaper("http://127.0.0.1:9", files / "walk.wav", "fill,wind,1")
    assert "start it with: soundctm demo" in call[1]
