"""The panel that takes a sketch from a voice, without a browser."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio")

import gradio as gr
import soundfile

from diffusers_soundctm.app.disk import DiskBudget
from diffusers_soundctm.app.handlers import Handlers
from diffusers_soundctm.app.humming import HumIt

PERSON = SimpleNamespace(session_hash="tab", client=SimpleNamespace(host="127.0.0.1"))
ALL = ["Loudness", "Brightness", "Pitch"]
ADVANCED = ("", 3.5, 1, 0)  # negative prompt, omega, nu, gamma


@pytest.fixture(scope="module")
def hum_it(studio):
    with gr.Blocks():
        return HumIt(Handlers(studio, DiskBudget()))


@pytest.fixture(scope="module")
def taken(hum_it, tmp_path_factory):
    """What the panel takes from 0.6 s of a steady hum at 220 Hz, then 0.2 s of silence."""
    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    hum = sum(np.sin(2 * np.pi * 220 * k * np.arange(9600) / 16000) / k for k in range(1, 9))
    soundfile.write(path, np.concatenate([0.1 * hum, np.zeros(3200)]), 16000)
    ((message, taken, picture, button),) = hum_it.take(str(path), ALL, PERSON)
    assert message == "" and button["interactive"] and picture == hum_it.show(taken, ALL)
    return taken


def test_the_curves_are_shown_and_can_be_switched_off(hum_it, taken):
    assert taken["seconds"] == pytest.approx(0.8)
    assert np.median(taken["curves"]["pitch"][:15]) == pytest.approx(220, rel=0.02)
    for wanted in (ALL, ["Pitch"], []):
        picture = hum_it.show(taken, wanted)
        for name in ALL:
            assert (f'data-curve="{name.lower()}"' in picture) == (name in wanted)
    silent_part = hum_it.show(taken, ["Pitch"]).split('points="')[-1].split('"')[0]
    assert max(float(point.split(",")[0]) for point in silent_part.split()) < 90
    assert hum_it.show(None, ALL) == ""


def test_drafts_follow_the_sketch_and_survive_a_reload(hum_it, taken):
    *_, (message, grid, saved) = hum_it.draft("rain", taken, ["Loudness"], 0.2, 1, *ADVANCED, PERSON)
    assert message == "" and len(grid["cards"]) == len(saved) == 8
    assert all("sketched" in card["about"] and list(card["recipe"]["sketch"]) == ["loudness"] for card in grid["cards"])
    *_, (_, restored, _) = hum_it.handlers.restore(saved, PERSON)
    assert restored == grid


@pytest.mark.parametrize(
    ("voice", "wanted", "expected"),
    [(None, ALL, "There is no recording"), ("taken", [], "Nothing of the sketch is followed")],
    ids=["no voice", "nothing followed"],
)
def test_what_is_missing_is_said(hum_it, taken, voice, wanted, expected):
    ((message, *_),) = hum_it.draft("rain", voice and taken, wanted, 0.2, 1, *ADVANCED, PERSON)
    assert 'role="alert"' in message and expected in message


def test_an_unreadable_or_removed_recording(hum_it, tmp_path):
    (tmp_path / "voice.wav").write_bytes(b"no sound")
    ((message, *_),) = hum_it.take(str(tmp_path / "voice.wav"), ALL, PERSON)
    assert "not a readable sound file" in message
    ((message, taken, picture, button),) = hum_it.take(None, ALL, PERSON)
    assert (message, taken, picture, button["interactive"]) == ("", None, "", False)
