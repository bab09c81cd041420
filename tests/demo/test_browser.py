"""The app in a real browser: what a person does, and what they hear."""

import base64
import io
import json
import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = os.environ.get("SCREENSHOTS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
]
PROMPT = "rain on a tin roof"
SAMPLES = 20480  # of the tiny model's usual sound
TABS = {"Vary": "vary", "Morph": "morph", "Draw": "draw", "Fill": "fill", "Loop": "loop", "Refine": "refine"}
PROMPT_BOX, SEED_BOX = "#prompt :is(textarea, input)", "#seed :is(textarea, input)"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, served):
    """`open_page(width=1280, dark=False)` → a page of a new person; at the end, no page may have logged an error."""
    complaints, contexts = [], []

    def open_one(width=1280, dark=False):
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(served)
        page.locator(PROMPT_BOX).wait_for()
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


def draft(page, prompt=PROMPT, seed=7):
    """Type, press Enter, wait for all eight."""
    if not page.locator(SEED_BOX).is_visible():
        page.get_by_role("button", name="Advanced").click()
    page.locator(SEED_BOX).fill(str(seed))
    box = page.locator(PROMPT_BOX)
    box.fill(prompt)
    box.press("Enter")
    page.locator(f'#drafts [data-seed="{seed + 7}"]').wait_for()


def pick(page, number=1):
    page.get_by_role("button", name=f"Pick draft {number},").click()
    page.locator(".sc-player img").first.wait_for()


def open_tab(page, name):
    """Where there is no room for all tabs, the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name)
    if tab.is_visible():
        tab.click()
    else:
        page.get_by_role("button", name="More tabs").click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name).click()
    page.locator(f"#{TABS[name]}").wait_for()


def sounds(page, selector):
    """What the page's audio elements hold, in order."""
    addresses = page.locator(f"{selector} audio").evaluate_all("all => all.map((audio) => audio.src)")
    return [soundfile.read(io.BytesIO(base64.b64decode(address.split(",")[1])))[0] for address in addresses]


def overflow(page):
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def picture(page, name):
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png", full_page=True)


def test_draft_pick_refine_keep(open_page, tmp_path, monkeypatch):
    page = open_page()
    draft(page)
    drafts = sounds(page, "#drafts")
    assert len(drafts) == 8 and all(len(sound) == SAMPLES and np.abs(sound).max() > 1e-3 for sound in drafts)
    assert not np.array_equal(drafts[0], drafts[1])
    seeds = page.locator("#drafts article").evaluate_all("all => all.map((one) => one.dataset.seed)")
    assert seeds == [str(seed) for seed in range(7, 15)]
    assert "Hz" in page.locator("#drafts .sc-hertz").first.inner_text()

    # Digits play, but not while somebody types.
    playing = "Array.from(document.querySelectorAll('#drafts audio')).findIndex((audio) => !audio.paused)"
    page.keyboard.press("3")
    assert page.evaluate(playing) == -1
    page.get_by_role("heading", name="SoundCTM").click()
    page.keyboard.press("3")
    page.wait_for_function(f"{playing} === 2")

    pick(page, 2)
    page.get_by_role("button", name="Refine", exact=True).click()
    drift = page.locator(".sc-drift output")
    drift.wait_for()
    assert 0 < float(drift.inner_text()) < 2
    before, after = sounds(page, ".sc-player")
    assert np.array_equal(before, drafts[1]) and len(after) == len(before) and not np.array_equal(before, after)

    # A/B keeps the position.
    page.get_by_label("Position").evaluate("node => { node.value = 0.5; node.dispatchEvent(new Event('input')); }")
    page.get_by_role("button", name="Listen to A").click()
    assert page.locator(".sc-player audio").first.evaluate("audio => audio.currentTime") == pytest.approx(0.64, abs=0.1)
    picture(page, "refine-1280")

    page.get_by_role("button", name="Keep B on the shelf").click()
    page.locator(".sc-item").wait_for()
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
        assert (settings["prompt"], settings["seed"], settings["steps"]) == (PROMPT, 8, 8)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all kept sounds").click()
    download.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert sorted(Path(name).suffix for name in archive.namelist()) == [".flac", ".json", ".py", ".wav"]

    page.get_by_role("button", name="Copy the Python code").click()
    page.get_by_text("in the clipboard").wait_for()
    code = page.evaluate("navigator.clipboard.readText()")
    assert "manual_seed(8)" in code
    monkeypatch.chdir(tmp_path)
    for path in tmp_path.glob("rain*.wav"):
        path.unlink()
    exec(code, {})
    (made,) = tmp_path.glob("rain*.wav")
    assert np.array_equal(soundfile.read(made)[0], kept["WAV"])


def test_the_same_seed_is_the_same_sound_for_everybody(open_page):
    first, second = open_page(), open_page()
    draft(first, seed=20)
    draft(second, seed=20)
    for one, other in zip(sounds(first, "#drafts"), sounds(second, "#drafts"), strict=True):
        assert np.array_equal(one, other)


def test_two_people_at_once_are_not_mixed_up(open_page):
    pages = [open_page(), open_page()]
    for page, prompt, seed in zip(pages, ("a dog barks", "wind"), (30, 60), strict=True):
        page.get_by_role("button", name="Advanced").click()
        page.locator(SEED_BOX).fill(str(seed))
        page.locator(PROMPT_BOX).fill(prompt)
        page.locator(PROMPT_BOX).press("Enter")
    for page, seed in zip(pages, (30, 60), strict=True):
        page.locator(f'#drafts [data-seed="{seed + 7}"]').wait_for()
        seeds = page.locator("#drafts article").evaluate_all("all => all.map((one) => one.dataset.seed)")
        assert seeds == [str(seed + i) for i in range(8)]


def test_vary_and_morph(open_page):
    page = open_page()
    draft(page)
    pick(page)
    open_tab(page, "Vary")
    page.get_by_role("button", name="4 variations").click()
    page.wait_for_function("document.querySelectorAll('#variations article').length === 4")
    (picked,), varied = sounds(page, ".sc-player"), sounds(page, "#variations")
    assert all(not np.array_equal(picked, sound) for sound in varied)
    open_tab(page, "Morph")
    page.get_by_role("button", name="Morph", exact=True).click()
    page.get_by_role("alert").get_by_text("Choose where to go").wait_for()
    page.get_by_role("button", name="Morph to draft 5").click()
    page.get_by_text("will turn into: rain on a tin roof, seed 11").wait_for()
    page.get_by_role("button", name="Morph", exact=True).click()
    page.locator(".sc-drift").wait_for()
    assert "morph to" in page.locator(".sc-caption").inner_text()


def test_draw_a_curve(open_page):
    page = open_page()
    draft(page)
    pick(page)
    open_tab(page, "Draw")
    canvas = page.locator(".sc-draw canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] * 0.2, steps=20)
    page.mouse.up()
    page.get_by_role("button", name="Follow the curve").click()
    page.locator(".sc-chart").wait_for()
    lines = page.locator(".sc-chart polyline").evaluate_all("all => all.map((one) => one.getAttribute('points'))")
    target, before, achieved = (
        np.array([[float(v) for v in p.split(",")] for p in line.split()])[:, 1] for line in lines
    )
    assert target[0] - target[-1] > 40  # drawn from low to high; the chart counts downwards
    # Even an untrained model is nearer to the curve than it was.
    assert np.abs(target - achieved).mean() < np.abs(target - before).mean()
    picture(page, "draw-1280")


def test_fill_continue_and_loop_an_upload(open_page, tmp_path):
    page = open_page()
    noise = (0.2 * np.random.default_rng(0).standard_normal(32000)).clip(-1, 1)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    (tmp_path / "fake.wav").write_bytes(b"no sound at all")
    open_tab(page, "Fill")
    files = page.locator("input[type=file]:visible, input[type=file]")
    files.last.set_input_files(tmp_path / "fake.wav")
    page.get_by_role("alert").get_by_text("no sound file").wait_for()
    page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove this file")).first.click()
    files.last.set_input_files(tmp_path / "noise.wav")
    page.get_by_text("uploaded sound is picked").wait_for()
    page.locator("#fill-prompt :is(textarea, input)").fill("wind")
    page.get_by_role("button", name="Fill the marked part").click()
    page.get_by_role("alert").get_by_text("Nothing is marked").wait_for()
    # Marked with the keyboard, one end after the other …
    ends = [page.get_by_label(f"Marked {name}, seconds") for name in ("from", "to")]
    for end, typed in zip(ends, ("0.5", "0.9"), strict=True):
        end.fill(typed)
        end.press("Tab")
    assert [end.input_value() for end in ends] == ["0.50", "0.90"]
    # … and with the mouse.
    surface = page.locator(".sc-surface")
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 30, steps=5)
    page.mouse.up()
    page.get_by_role("button", name="Fill the marked part").click()
    page.get_by_role("button", name="Listen to B").wait_for()
    before, after = sounds(page, ".sc-player")
    assert len(after) == 32000
    # The untrained model fills in more than full scale, so the file is turned down as a whole; the rest is the same.
    rest = np.r_[0:11000, 21000:32000]
    gain = (before[rest] @ after[rest]) / (before[rest] @ before[rest])
    assert 0 < gain < 1.001
    assert np.abs(gain * before[rest] - after[rest]).max() < 1e-3 * gain + 1e-4  # 16 bits
    assert np.abs(gain * before[14000:18000] - after[14000:18000]).max() > 0.01
    page.get_by_role("button", name="Continue", exact=True).click()
    page.wait_for_function("document.querySelector('.sc-clock')?.textContent.includes('/ 4.0 s')")
    page.get_by_role("button", name="Go on with B").click()
    page.wait_for_function("document.querySelectorAll('.sc-player audio').length === 1")
    open_tab(page, "Loop")
    page.get_by_role("button", name="Make it loop").click()
    page.wait_for_function("document.querySelectorAll('.sc-player audio')[1]?.loop")


def test_cancel_in_mid_run(open_page, monkeypatch):
    from diffusers_soundctm.demo.rendering import Observer

    step = Observer.callback_fn
    monkeypatch.setattr(Observer, "callback_fn", lambda *arguments: time.sleep(0.6) or step(*arguments))
    page = open_page()
    draft(page)
    pick(page)
    page.get_by_label("16", exact=True).first.check()
    page.get_by_role("button", name="Refine", exact=True).click()
    page.get_by_text(re.compile("Step [0-9]+ of 16")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    assert page.locator(".sc-player audio").count() == 1
    page.get_by_label("2", exact=True).first.check()
    page.get_by_role("button", name="Refine", exact=True).click()
    page.locator(".sc-drift").wait_for()


def test_bad_input_is_answered_next_to_the_control(open_page):
    page = open_page()
    page.get_by_role("button", name="Draft 8").click()
    page.get_by_role("alert").get_by_text("prompt is empty").wait_for()
    page.get_by_role("button", name="Refine", exact=True).click()
    page.get_by_role("alert").get_by_text("Pick a sound first").wait_for()
    page.get_by_role("button", name="Advanced").click()
    page.locator(SEED_BOX).fill("$(reboot)")
    page.locator(PROMPT_BOX).fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Draft 8").click()
    page.get_by_role("alert").get_by_text("seed").wait_for()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_layout(width, dark, open_page):
    page = open_page(width, dark)
    draft(page)
    pick(page)
    for tab in TABS:
        open_tab(page, tab)
        assert overflow(page) <= 0
        picture(page, f"{TABS[tab]}-{width}-{'dark' if dark else 'light'}")
    assert (
        page.locator("button:visible").evaluate_all(
            "all => all.filter((b) => !b.innerText.trim() && !b.ariaLabel && !b.title).length"
        )
        == 0
    )
