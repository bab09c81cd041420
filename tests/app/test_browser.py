"""The app with the embedded model in a real browser: what a person does, and what they hear.

Screenshots go to `outputs/screenshots`, or to the folder named by the environment variable SCREENSHOTS.
"""

import base64
import io
import json
import os
import re
import threading
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import sound_files
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.rendering import Observer
from diffusers_soundctm.app.studio import Studio

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = Path(__file__).parents[2] / os.environ.get("SCREENSHOTS", "outputs/screenshots")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
]
PROMPT = "rain on a tin roof"
TABS = {"Vary": "vary", "Morph": "morph", "Draw": "draw", "Fill": "fill", "Loop": "loop", "Refine": "refine"}
PROMPT_BOX, SEED_BOX, NEGATIVE_BOX = (f"#{name} :is(textarea, input)" for name in ("prompt", "seed", "negative"))
WAIT = 300_000  # milliseconds; enough for a busy machine


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def alone():
    """A studio without the app, with its own pipeline."""
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe)


@pytest.fixture
def open_page(browser, served_embedded):
    """Return `open_page(width=1280, dark=False)`, which opens a new visitor's page. No page may log an error."""
    complaints, contexts = [], []

    def open_one(width=1280, dark=False):
        is_phone = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            is_mobile=is_phone,
            has_touch=is_phone,
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(served_embedded)
        page.locator(".sc-shelf .sc-empty").wait_for()  # the last part that the page draws
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def steps(monkeypatch):
    """(finished steps, all steps) after each sampling step of the app during the test."""
    seen, step = [], Observer.callback_fn

    def observed(self, pipeline, index, *arguments):
        seen.append((index + 1, pipeline.num_timesteps))
        return step(self, pipeline, index, *arguments)

    monkeypatch.setattr(Observer, "callback_fn", observed)
    return seen


def open_advanced(page):
    if not page.locator(SEED_BOX).is_visible():
        page.get_by_role("button", name="Advanced").click()


def type_in(page, prompt, seed):
    open_advanced(page)
    page.locator(SEED_BOX).fill(str(seed))
    page.locator(PROMPT_BOX).fill(prompt)


def ask(page, prompt=PROMPT, seed=7):
    """Type and press Enter."""
    type_in(page, prompt, seed)
    page.locator(PROMPT_BOX).press("Enter")


def draft(page, prompt=PROMPT, seed=7):
    """Type, press Enter and wait for all eight drafts."""
    ask(page, prompt, seed)
    page.locator(f'#drafts [data-seed="{seed + 7}"]').wait_for()


def pick(page, number=1):
    page.get_by_role("button", name=f"Pick draft {number},").click()
    page.locator(".sc-player img").first.wait_for()


def open_tab(page, name):
    """Open a tab. On narrow screens the last ones are in a menu."""
    tab, menu = page.get_by_role("tab", name=name), page.get_by_role("button", name="More tabs")
    tab.or_(menu).first.wait_for()
    if tab.is_visible():
        tab.click()
    else:
        menu.click()
        page.locator(".overflow-dropdown").get_by_role("button", name=name).click()
    page.locator(f"#{TABS[name]}").wait_for()


def drag(page, selector, start, end):
    """Drag the mouse over an element from one (x, y) to another, as fractions of its width and height."""
    surface = page.locator(selector)
    surface.scroll_into_view_if_needed()
    box = surface.bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=20)
    page.mouse.up()


def draw_a_rise(page):
    open_tab(page, "Draw")
    drag(page, ".sc-draw canvas", (0.01, 0.8), (0.99, 0.25))


def sounds(page, selector):
    """The samples of the page's audio elements, in order."""
    addresses = page.locator(f"{selector} audio").evaluate_all("all => all.map((audio) => audio.src)")
    return [soundfile.read(io.BytesIO(base64.b64decode(address.split(",")[1])))[0] for address in addresses]


def truth(alone, recipe):
    """The samples that the page should have for a recipe."""
    return soundfile.read(io.BytesIO(sound_files.encode(alone, alone.make(recipe), ".flac")))[0]


def drafts_of(page):
    return page.locator("#drafts article").evaluate_all("all => all.map((one) => Number(one.dataset.seed))")


def is_sound(samples, seconds):
    """Whether the samples last `seconds` and are audible."""
    return len(samples) == round(seconds * 16000) and np.isfinite(samples).all() and 1e-3 < samples.std() < 1


def picture(page, name, full_page=True):
    """Save a screenshot in 128 colors."""
    from PIL import Image

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
    image = image.quantize(
        128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )  # keeps rare colors, such as those of lines
    image.save(SCREENSHOTS / f"{name}.png", optimize=True)


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
    final = first.change(steps=8)
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
        assert (settings["prompt"], settings["seed"], settings["steps"]) == (PROMPT, 8, 8)
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
    for i, (path, recipe) in answers.items():
        asked = Recipe(f"{PROMPT} {i}", Noise(90 + i), seconds)
        assert Recipe.from_json(recipe) == asked
        expected = sound_files.encode(alone, alone.make(asked))
        assert np.array_equal(soundfile.read(path)[0], soundfile.read(io.BytesIO(expected))[0])


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


def test_vary_and_morph(open_page):
    page = open_page()
    draft(page)
    pick(page)
    open_tab(page, "Vary")
    page.get_by_role("button", name="4 variations").click()
    page.wait_for_function("document.querySelectorAll('#variations article').length === 4")
    (picked,), varied = sounds(page, ".sc-player"), sounds(page, "#variations")
    assert all(len(sound) == len(picked) and not np.array_equal(picked, sound) for sound in varied)
    open_tab(page, "Morph")
    assert page.locator("#morph").is_disabled()
    page.get_by_role("button", name="Morph to draft 5").click()
    page.get_by_text("will turn into: rain on a tin roof, seed 11").wait_for()
    page.get_by_role("button", name="Morph", exact=True).click()
    page.locator(".sc-drift").wait_for()
    assert "morph to" in page.locator(".sc-caption").inner_text()
    assert is_sound(sounds(page, ".sc-player")[1], len(picked) / 16000)


def test_draw_a_curve(open_page):
    page = open_page()
    draft(page)
    pick(page)
    draw_a_rise(page)
    page.get_by_role("button", name="Follow the curve").click()
    page.locator(".sc-chart").wait_for()
    lines = page.locator(".sc-chart polyline").evaluate_all("all => all.map((one) => one.getAttribute('points'))")
    target, before, achieved = (
        -0.8 * np.array([[float(v) for v in p.split(",")] for p in line.split()])[:, 1] for line in lines
    )  # dB
    assert target[-1] - target[0] > 25
    assert np.abs(target - achieved).mean() < 0.5 * np.abs(target - before).mean()
    # The samples agree: the end is much louder than the start.
    plain, drawn = sounds(page, ".sc-player")
    quarter = len(drawn) // 4
    assert len(drawn) == len(plain) and drawn[-quarter:].std() > 4 * drawn[:quarter].std() > 0


def test_fill_and_continue_an_upload(open_page, tmp_path):
    page = open_page()
    noise = (0.2 * np.random.default_rng(0).standard_normal(32000)).clip(-1, 1)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    open_tab(page, "Fill")
    page.locator("input[type=file]").last.set_input_files(tmp_path / "noise.wav")
    page.get_by_text("uploaded sound is picked").wait_for()
    page.locator("#fill-prompt :is(textarea, input)").fill("wind")
    page.locator("#extend-prompt :is(textarea, input)").fill("rain")
    assert page.locator("#fill").is_disabled()  # nothing is marked
    # Mark with the keyboard, one field after the other …
    ends = [page.get_by_label(f"Marked {name}, seconds") for name in ("from", "to")]
    for end, typed in zip(ends, ("0.5", "0.9"), strict=True):
        end.fill(typed)
        end.press("Tab")
    assert [end.input_value() for end in ends] == ["0.50", "0.90"]
    # … and with the mouse.
    drag(page, ".sc-surface", (0.4, 0.2), (0.6, 0.3))
    page.get_by_role("button", name="Fill the marked part").click()
    page.get_by_role("button", name="Listen to B").wait_for()
    before, after = sounds(page, ".sc-player")
    assert is_sound(after, 2)
    # A file above full scale is attenuated as a whole. Apart from that gain, the rest is unchanged.
    rest = np.r_[0:11000, 21000:32000]
    gain = (before[rest] @ after[rest]) / (before[rest] @ before[rest])
    assert 0 < gain < 1.001
    assert np.abs(gain * before[rest] - after[rest]).max() < 1e-3 * gain + 1e-4  # 16 bits
    assert np.abs(gain * before[14000:18000] - after[14000:18000]).max() > 0.01
    page.get_by_role("button", name="Continue", exact=True).click()
    page.wait_for_function("document.querySelector('.sc-clock')?.textContent.includes('/ 4.0 s')")
    assert is_sound(sounds(page, ".sc-player")[1], 4)
    page.get_by_role("button", name="Work on B").click()
    page.wait_for_function("document.querySelectorAll('.sc-player audio').length === 1")
    open_tab(page, "Loop")
    page.wait_for_function("document.querySelector('#loop').disabled")  # it is not made from noise alone


def test_loop_a_draft(open_page):
    page = open_page()
    draft(page)
    pick(page)
    open_tab(page, "Loop")
    page.get_by_role("button", name="Make it loop").click()
    page.wait_for_function("document.querySelectorAll('.sc-player audio')[1]?.loop")
    assert sounds(page, ".sc-player")[1].std() > 1e-3


def start_something_long(page):
    """Pick a draft, ask for sixteen guided steps of it and wait for the first."""
    draft(page)
    pick(page)
    draw_a_rise(page)
    page.get_by_label("16", exact=True).locator("visible=true").check()
    page.get_by_role("button", name="Follow the curve").click()
    page.get_by_text(re.compile("Step [0-9]+ of 16")).wait_for()


@pytest.mark.parametrize("how", ["button", "key"])
def test_cancel_in_mid_run(how, open_page, steps):
    page = open_page()
    stop = page.get_by_role("button", name="Cancel")
    start_something_long(page)
    if how == "button":
        stop.click()
    else:
        page.keyboard.press("Escape")
    page.get_by_text("Cancelled.").wait_for()
    assert steps[-1][1] == 16 and steps[-1][0] < 16
    assert page.locator(".sc-player audio").count() == 1 and not stop.is_visible()
    open_tab(page, "Refine")
    page.get_by_label("2", exact=True).locator("visible=true").check()
    page.get_by_role("button", name="Refine", exact=True).click()
    page.locator(".sc-drift").wait_for()


def test_a_closed_page_frees_its_turn(open_page, steps):
    leaver, other = open_page(), open_page()
    start_something_long(leaver)
    leaver.close()
    draft(other, "a dog barks", seed=400)
    assert (16, 16) not in steps


def test_input_errors_appear_beside_the_control(open_page):
    page = open_page()
    page.locator(PROMPT_BOX).press("Enter")
    page.get_by_role("alert").get_by_text("prompt is empty").wait_for()
    for tab, button in TABS.items():
        open_tab(page, tab)
        assert page.locator(f"#{button}").is_disabled()  # nothing is picked
    open_advanced(page)
    page.locator(SEED_BOX).fill("$(reboot)")
    page.locator(PROMPT_BOX).fill("<img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Draft 8").click()
    page.get_by_role("alert").get_by_text("seed").wait_for()
    page.locator(SEED_BOX).fill("")
    page.locator(NEGATIVE_BOX).fill("wind")
    page.locator(NEGATIVE_BOX).press("Enter")
    page.get_by_role("alert").get_by_text("choose another strength").wait_for()


def test_upload_errors_appear_beside_the_control(open_page, tmp_path):
    page = open_page()
    open_tab(page, "Fill")
    noise = np.random.default_rng(0).standard_normal(31 * 8000).clip(-1, 1) * 0.1
    soundfile.write(tmp_path / "long.wav", noise, 8000)
    soundfile.write(tmp_path / "silent.wav", 0 * noise[:8000], 8000)
    (tmp_path / "fake.wav").write_bytes(b"no sound at all")
    (tmp_path / "large.wav").write_bytes(bytes(21 * 2**20))
    chosen = page.locator("input[type=file]").last
    remove = page.get_by_role("button", name="Clear").or_(page.get_by_label("Remove this file")).first
    for name, said in {"fake.wav": "not a readable sound file", "long.wav": "31.00 s", "silent.wav": "silent"}.items():
        chosen.set_input_files(tmp_path / name)
        page.get_by_role("alert").get_by_text(said).wait_for()
        remove.click()
        remove.wait_for(state="hidden")
    chosen.set_input_files(tmp_path / "large.wav")
    page.get_by_text("exceed the maximum allowed size of 20.0").first.wait_for()
    assert page.locator(".sc-player audio").count() == 0


NAMELESS = """all => all.filter((node) => !(node.innerText?.trim() || node.ariaLabel || node.title || node.alt
    || Array.from(node.labels ?? []).some((label) => label.innerText.trim()))).map((node) => node.outerHTML)"""


LOW_CONTRAST = Path(__file__).with_name("contrast.js").read_text()  # lists text with too little contrast


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_layout(width, dark, open_page):
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
    page = open_page(width, dark)
    draft(page)
    pick(page)
    for tab in TABS:
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
        picture(page, f"{TABS[tab]}-{width}-{'dark' if dark else 'light'}")
        assert page.locator(":is(button, input, textarea, canvas, meter):visible").evaluate_all(NAMELESS) == []
        assert page.evaluate(LOW_CONTRAST) == []
        checked = Axe().run(page).response
        assert checked["passes"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in checked["violations"]] == []
    words = page.locator("#drafts .sc-play").first.inner_text()
    assert ("Play" in words) == (width < 500)  # touch screens have no tooltips


def test_keyboard_alone_from_prompt_to_export(open_page):
    page, keys = open_page(), 0

    def press(key):
        nonlocal keys
        keys += 1
        page.keyboard.press(key)

    page.keyboard.type(PROMPT)  # the prompt has the focus
    press("Enter")
    page.wait_for_function("document.querySelectorAll('#drafts article').length === 8")
    press("3")
    press("Shift+Digit2")
    page.locator(".sc-player img").first.wait_for()
    player = page.locator(".sc-player")
    assert player.evaluate("node => document.activeElement === node")
    assert 0 <= player.evaluate("node => node.getBoundingClientRect().top") < 500
    assert page.locator("#drafts .sc-wide").nth(1).get_attribute("aria-pressed") == "true"
    page.wait_for_function("!document.querySelector('#refine').disabled")
    press("r")
    page.locator(".sc-drift").wait_for()
    press("a")
    press("k")
    page.locator(".sc-item").wait_for()
    with page.expect_download():
        press("e")
    assert keys < 15


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


def test_focus_follows_the_layout(open_page):
    page = open_page()
    draft(page)
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel"))
    kinds = ["Play draft 1", "Pick draft 1", "Morph to draft 1", "Keep draft 1", "Play draft 2"]
    assert [name.split(",")[0] for name in names] == kinds


def test_the_picked_tile_is_marked(open_page):
    page = open_page()
    draft(page)
    pressed = "all => all.map((one) => one.getAttribute('aria-pressed') === 'true')"
    for number in (2, 5):
        pick(page, number)
        page.locator(f'#drafts article:nth-of-type({number}) .sc-wide[aria-pressed="true"]').wait_for()
        marked = page.locator("#drafts .sc-wide").evaluate_all(pressed)
        assert marked == [i == number - 1 for i in range(8)]


def test_keep_names_a_and_b_only_where_there_are_two(open_page):
    page = open_page()
    draft(page)
    pick(page)
    keeps = page.locator(".sc-player [data-keep]")
    assert keeps.all_inner_texts() == ["★ Keep"]
    page.get_by_role("button", name="Refine", exact=True).click()
    page.locator(".sc-drift").wait_for()
    assert keeps.all_inner_texts() == ["★ Keep A", "★ Keep B"]


def test_errors_disappear_with_their_cause(open_page):
    page = open_page()
    alerts = page.get_by_role("alert")
    for _ in range(2):  # the same error appears again
        page.locator(PROMPT_BOX).fill("")
        page.locator(PROMPT_BOX).press("Enter")
        alerts.get_by_text("prompt is empty").wait_for()
        page.locator(PROMPT_BOX).fill("rain")
        page.wait_for_function("!document.querySelector('[role=alert]')")


def test_shortcuts_are_shown(open_page):
    page = open_page()
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    page.locator(PROMPT_BOX).press("?")
    assert not dialog.is_visible() and page.locator(PROMPT_BOX).input_value() == "?"
    page.locator(PROMPT_BOX).blur()
    page.keyboard.press("?")
    dialog.wait_for()
    assert "play a draft" in dialog.inner_text()
    picture(page, "shortcuts", full_page=False)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.get_by_role("button", name="Show the keyboard shortcuts").click()
    dialog.wait_for()
    page.get_by_role("button", name="Close the keyboard shortcuts").click()
    dialog.wait_for(state="hidden")


@pytest.mark.parametrize("name", ["app", "app-dark", "app-phone"])
def test_readme_pictures(name, open_page):
    """`SCREENSHOTS=docs/images pytest -m slow tests/app/test_browser.py -k readme` takes the pictures of the README."""
    page = open_page(390 if name == "app-phone" else 1280, name == "app-dark")
    draft(page, seed=232871)
    page.get_by_role("button", name="Advanced").click()
    pick(page)
    if name == "app":
        draw_a_rise(page)
        page.get_by_role("button", name="Follow the curve").click()
        page.locator(".sc-chart").wait_for()
    else:
        page.get_by_role("button", name="Refine", exact=True).click()
        page.locator(".sc-drift").wait_for()
        page.get_by_role("button", name="Keep B on the shelf").click()
        page.locator(".sc-item").wait_for()
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0)")
    picture(page, name, full_page=name != "app-phone")
    assert (SCREENSHOTS / f"{name}.png").stat().st_size < 200_000
