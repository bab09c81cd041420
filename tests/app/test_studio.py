"""Making sounds for several people at once: each sound once, in turns, with cancelling."""

import copy
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from app_recipes import OTHER, PLAIN, kinds
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import edits
from diffusers_soundctm.app.fair_queue import Owner
from diffusers_soundctm.app.progress import events
from diffusers_soundctm.app.recipe import Noise, Recipe, Upload
from diffusers_soundctm.app.rendering import Cancelled, render
from diffusers_soundctm.app.studio import Studio


def test_the_embedded_model_follows_a_steep_curve_in_few_steps():
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    studio = Studio(pipe)
    plain = Recipe("rain on a tin roof", Noise(7), 5.12, steps=8)
    rise = np.linspace(-48, -15, 64)
    before, drawn = (
        studio.loudness(studio.make(recipe).waveform) for recipe in (plain, edits.drawn(plain, list(rise), 0.2, 8))
    )
    assert np.abs(rise - drawn).mean() < 0.15 * np.abs(rise - before).mean()


def test_kinds_differ_from_the_plain_sound_and_drift_says_so(studio, sound_file):
    plain = studio.make(PLAIN)
    assert studio.drift(plain, plain) == pytest.approx(0, abs=1e-4)
    for kind in ("variation", "morph", "drawn"):
        take = studio.make(kinds(studio, sound_file)[kind])
        assert not torch.equal(take.waveform, plain.waveform)
        assert studio.drift(plain, take) > 1e-4


def test_filling_leaves_the_rest_alone(studio):
    filled = studio.make(edits.filled(PLAIN, 1.0, "wind", [(0.4, 0.6)], 2))
    before = studio.make(PLAIN).waveform
    outside = [slice(4800), slice(-4800, None)]
    assert all(torch.equal(filled.waveform[:, part], before[:, part]) for part in outside)
    assert not torch.equal(filled.waveform[:, 6400:9600], before[:, 6400:9600])


def test_equal_requests_are_made_once(studio, monkeypatch):
    calls = []

    def counted(pipe, recipe, *rest):
        calls.append(recipe.id)
        return render(pipe, recipe, *rest)

    monkeypatch.setattr("diffusers_soundctm.app.studio.render", counted)
    fresh = Studio(studio.pipe)
    threads = [threading.Thread(target=fresh.make, args=(PLAIN, Owner(f"somebody {i}"))) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [PLAIN.id]


def test_ten_at_once_get_what_they_asked_for(studio):
    fresh, results = Studio(studio.pipe), {}
    recipes = [PLAIN.change(noise=Noise(100 + i), duration=0.5, steps=1) for i in range(10)]
    alone = [Studio(studio.pipe).make(recipe).waveform for recipe in recipes]

    def ask(i):
        results[i] = fresh.make(recipes[i], Owner(f"somebody {i}")).waveform

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[i], alone[i]) for i in range(10))


def test_cancel_stops_the_sampler_and_only_ones_own(studio):
    fresh = Studio(studio.pipe)
    steps = []

    def on_step(done, of):
        steps.append(done)
        fresh.cancel("somebody else")
        if done == 2:
            fresh.cancel("me")

    with pytest.raises(Cancelled):
        fresh.make(PLAIN.change(steps=16), Owner("me"), on_step)
    assert steps == [1, 2]
    assert fresh.make(PLAIN, Owner("me")).seconds == 1  # what was cancelled does not stay so


def test_cancel_reaches_those_who_wait(studio):
    fresh = Studio(studio.pipe)
    outcome, is_running, go_on = [], threading.Event(), threading.Event()

    def work(done, total):
        is_running.set()
        assert go_on.wait(60)

    def wait():
        try:
            fresh.make(OTHER, Owner("waiting"))
        except Cancelled:
            outcome.append("cancelled")

    busy, waiting = (
        threading.Thread(target=fresh.make, args=(PLAIN, Owner("busy"), work)),
        threading.Thread(target=wait),
    )
    busy.start()
    assert is_running.wait(60)
    waiting.start()
    while waiting.is_alive():
        fresh.cancel("waiting")
        waiting.join(0.05)
    assert outcome == ["cancelled"] and busy.is_alive()
    go_on.set()
    busy.join()


def test_a_failure_frees_the_turn(studio):
    with pytest.raises(ValueError, match="upload it again"):
        studio.make(PLAIN.change(source=Upload("0" * 16), spans=((0.1, 0.5),)))
    assert studio.make(PLAIN).seconds == 1


def test_on_another_machine_the_sound_is_the_same(studio, sound_file):

    def elsewhere(function):
        return lambda *arguments: function(*copy.deepcopy(arguments))

    remote = Studio(studio.pipe, on_gpu=elsewhere)
    remote.add_upload(sound_file)
    for recipe in (PLAIN, kinds(studio, sound_file)["filled upload"], kinds(studio, sound_file)["filled"]):
        assert torch.equal(remote.make(recipe).waveform, studio.make(recipe).waveform)


def test_loudness_of_a_rising_sound_rises(studio):
    rising = torch.randn(80000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, -1, 80000)
    curve = studio.loudness(rising)
    assert len(curve) == 64 and curve[-5] - curve[5] > 30


def test_events_are_reported_then_returned_or_raised():
    assert list(events(lambda report: report(1) or report(2) or 3)) == [1, 2, 3]
    with pytest.raises(KeyError):
        list(events(lambda report: {}["missing"]))


def test_the_work_needs_no_gradio():
    modules = "diffusers_soundctm.app.cards, diffusers_soundctm.app.progress"
    code = f"import sys; import {modules}; print('gradio' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "False", result.stderr
