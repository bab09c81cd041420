"""Drafts in a real browser: what a person hears, keeps and exports, alone and beside others."""

import io
import json
import threading
import zipfile
from datetime import datetime

import numpy as np
import pytest
import soundfile

from app_page import (
    PROMPT,
    PROMPT_BOX,
    WAIT,
    ask,
    browser_test,
    draft,
    drafts_of,
    is_sound,
    pick,
    sounds,
    truth,
    type_in,
)
from diffusers_soundctm.app import sound_files
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.rendering import Observer

pytestmark = browser_test


def test_draft_pick_refine_keep(open_page, alone, tmp_path, monkeypatch):
    page = open_page()
    draft(page)
    drafts, seconds = sounds(page, "#drafts"), alone.default_duration
    assert len(drafts) == 8 and all(is_sound(sound, seconds) for sound in drafts)
    assert all(not np.array_equal(drafts[0], other) for other in drafts[1:])
    assert drafts_of(page) == list(range(7, 15))
    assert "Hz" in page.locator("#drafts .sc-hertz").first.inner_text()

    # Digits play drafts, but not while somebody types.
    playing = "Array.from(document.querySelectorAll('#drafts audio')).findIndex((audio) => !audio.paused)"
    page.keyboard.press("3")
    page.wait_for_function(f"{playing} === 2")
    page.keyboard.press("5")
    page.wait_for_function(f"{playing} === 4")
    # Stopping a sound that is still loading is not an error.
    page.locator("#drafts article").evaluate_all(
        "all => { all[0].querySelector('audio').load();"
        " for (const one of all.slice(0, 2)) one.querySelector('.sc-play').click(); }"
    )
    page.wait_for_function(f"{playing} === 1")
    page.locator(PROMPT_BOX).press("8")
    assert "8" in page.locator(PROMPT_BOX).input_value() and page.evaluate(playing) != 7

    pick(page, 2)
    page.get_by_role("button", name="Refine", exact=True).click()
    drift = page.locator(".sc-drift output")
    drift.wait_for()
    before, after = sounds(page, ".sc-player")
    assert np.array_equal(before, drafts[1]) and is_sound(after, seconds) and not np.array_equal(before, after)
    first = Recipe(PROMPT, Noise(8), seconds)
    final = first.change(steps=4)
    assert np.array_equal(after, truth(alone, final))
    assert float(drift.inner_text()) == pytest.approx(alone.drift(alone.make(first), alone.make(final)), abs=1e-3)

    # A/B keeps the position.
    page.get_by_label("Position").evaluate("node => { node.value = 0.5; node.dispatchEvent(new Event('input')); }")
    page.get_by_role("button", name="Listen to A").click()
    position = page.locator(".sc-player audio").first.evaluate("audio => audio.currentTime")
    assert position == pytest.approx(seconds / 2, abs=0.1)

    # ★ shows whether the sound is on the shelf, and removes it again.
    star = page.get_by_role("button", name="Keep B on the shelf")
    for is_kept in (True, False, True):
        star.click()
        page.locator(f'.sc-player [data-keep][aria-pressed="{str(is_kept).lower()}"]').last.wait_for()
        page.wait_for_function(f"document.querySelectorAll('.sc-item').length === {int(is_kept)}")
    page.reload()
    page.locator(".sc-item").wait_for()
    kept = {}
    for kind in ("WAV", "FLAC"):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"as {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        kept[kind] = soundfile.read(path)[0]
        assert np.abs(kept[kind] - after).max() < 1e-4  # the two formats round differently
        with soundfile.SoundFile(path) as file:
            settings = json.loads(file.copy_metadata()["comment"])
        assert (settings["prompt"], settings["seed"], settings["steps"]) == (PROMPT, 8, 4)
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all kept sounds").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        names = ["rain-on-a-tin-roof_8_01.wav", "rain-on-a-tin-roof_8_01.py", "manifest.json", "manifest.csv"]
        assert archive.testzip() is None and archive.namelist() == names
        kept_at = datetime(*archive.infolist()[0].date_time)
        assert abs((datetime.now() - kept_at).total_seconds()) < 3600
        exported, _ = soundfile.read(io.BytesIO(archive.read(names[0])))
        assert np.array_equal(exported, kept["WAV"])

    page.get_by_role("button", name="Copy the Python code").click()
    page.get_by_text("copied to the clipboard").wait_for()
    code = page.evaluate("navigator.clipboard.readText()")
    assert "manual_seed(8)" in code and "from_embedded()" in code
    monkeypatch.chdir(tmp_path)
    for path in tmp_path.glob("rain*.wav"):
        path.unlink()
    exec(code, {})
    (made,) = tmp_path.glob("rain*.wav")
    assert np.array_equal(soundfile.read(made)[0], kept["WAV"])
    page.get_by_role("button", name="Remove").click()
    page.get_by_text("Nothing kept yet").wait_for()


def test_the_same_seed_is_the_same_sound_made_once(open_page, alone, steps):
    first, second = open_page(), open_page()
    draft(first, seed=20)
    steps.clear()
    draft(second, seed=20)
    assert steps == []
    expected = [truth(alone, Recipe(PROMPT, Noise(20 + i), alone.default_duration)) for i in range(8)]
    for page in (first, second):
        assert all(np.array_equal(*pair) for pair in zip(sounds(page, "#drafts"), expected, strict=True))


def test_ten_at_once_get_their_own_sounds(open_page, alone, served_embedded, tmp_path):
    """Two people and eight programs make sounds at the same time."""
    from gradio_client import Client

    pages = {30: open_page(), 60: open_page()}
    prompts = {30: "a dog barks", 60: "wind"}
    clients = [Client(served_embedded, verbose=False, download_files=tmp_path / str(i)) for i in range(8)]
    answers = {}

    def request(i):
        answers[i] = clients[i].predict(prompt=f"{PROMPT} {i}", seed=90 + i, api_name="/draft")

    threads = [threading.Thread(target=request, args=(i,)) for i in range(8)]
    for seed, page in pages.items():
        type_in(page, prompts[seed], seed)
    for thread in threads:
        thread.start()
    for page in pages.values():
        page.locator(PROMPT_BOX).press("Enter")
    for seed, page in pages.items():
        page.locator(f'#drafts [data-seed="{seed + 7}"]').wait_for()
    for thread in threads:
        thread.join()
    seconds = alone.default_duration
    for seed, page in pages.items():
        assert drafts_of(page) == list(range(seed, seed + 8))
        for i, sound in enumerate(sounds(page, "#drafts")):
            assert np.array_equal(sound, truth(alone, Recipe(prompts[seed], Noise(seed + i), seconds)))
    assert len(answers) == 8
    for i, (path, recipe, _) in answers.items():
        asked = Recipe(f"{PROMPT} {i}", Noise(90 + i), seconds)
        assert Recipe.from_json(recipe) == asked
        expected = sound_files.encode(alone, alone.make(asked))
        assert np.array_equal(soundfile.read(path)[0], soundfile.read(io.BytesIO(expected))[0])


def test_what_it_knows(open_page, served_embedded, tmp_path):
    from gradio_client import Client

    page = open_page()
    page.get_by_role("button", name="What it knows").click()
    known = page.get_by_role("region", name="What the model knows")
    known.get_by_text("ship horn", exact=True).wait_for()
    assert known.locator("dt").count() == 80
    known.get_by_role("button", name="Draft: a ferry blows its horn").click()
    page.wait_for_function("document.querySelectorAll('#drafts article').length === 8")
    assert page.locator(PROMPT_BOX).input_value() == "a ferry blows its horn"
    warning = page.get_by_text("The model does not know")
    assert warning.count() == 0
    ask(page, "a lightsaber duel", 700)
    warning.wait_for()
    shown = warning.inner_text()
    page.locator('#drafts [data-seed="707"]').wait_for()
    assert warning.is_visible()  # it stays when the drafts are finished
    page.reload()
    warning.wait_for()
    client = Client(served_embedded, verbose=False, download_files=tmp_path)
    assert client.predict(prompt="a lightsaber duel", seed=700, api_name="/draft")[2] == shown
    assert "ship horn" in client.predict(api_name="/known_kinds")
    draft(page, PROMPT, 710)
    warning.wait_for(state="detached")


def test_a_new_request_supersedes_the_unfinished_one(open_page, monkeypatch):
    started, go_on, step = [], threading.Event(), Observer.callback_fn

    def held_at_the_second(*arguments):
        started.append(1)
        assert len(started) != 2 or go_on.wait(WAIT / 1000)
        return step(*arguments)

    monkeypatch.setattr(Observer, "callback_fn", held_at_the_second)
    page = open_page()
    ask(page, seed=200)
    page.locator('#drafts [data-seed="200"]').wait_for()
    ask(page, "a dog barks", seed=300)
    page.locator('#drafts [data-seed="200"]').wait_for(state="detached")
    go_on.set()
    page.locator('#drafts [data-seed="307"]').wait_for()
    assert drafts_of(page) == list(range(300, 308)) and len(started) == 2 + 8


def test_drafts_survive_a_reload_and_tabs_share_the_shelf(open_page):
    page = open_page()
    draft(page, seed=600)
    page.get_by_role("button", name="Keep draft 1,").click()
    page.locator(".sc-item").wait_for()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".sc-item").wait_for()
    for one in (other, page):
        one.reload()
        one.wait_for_function("document.querySelectorAll('#drafts article').length === 8")
        assert drafts_of(one) == list(range(600, 608))
    other.get_by_role("button", name="Remove").click()
    page.get_by_text("Nothing kept yet").wait_for()


def test_an_adapter_is_chosen_in_the_drop_down(open_page, adapter):
    page = open_page()
    draft(page)
    without = sounds(page, "#drafts article:first-of-type")[0]
    page.locator("#adapter input").click()
    page.get_by_role("option", name="creature (0.5)").click()
    page.locator(PROMPT_BOX).press("Enter")
    page.wait_for_function("document.querySelectorAll('#drafts article').length < 8")
    page.wait_for_function("document.querySelectorAll('#drafts article').length === 8")
    (learned,) = sounds(page, "#drafts article:first-of-type")
    assert learned.shape == without.shape and not np.allclose(learned, without, atol=1e-3)
    page.get_by_role("button", name="Keep draft 1,").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="as WAV").click()
    with soundfile.SoundFile(download.value.path()) as file:
        settings = json.loads(file.copy_metadata()["comment"])
    assert settings["lora"] == [f"{adapter}:0.5"] and settings["seed"] == 7
