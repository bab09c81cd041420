"""Hum it: a voice is recorded with the browser's microphone, and drafts follow it. Chromium's microphone is a file."""

import numpy as np
import pytest
import soundfile

from app_page import CHROMIUM, PROMPT_BOX, WAIT, browser_test, pick, picture, sounds

pytestmark = browser_test


@pytest.fixture
def voice(tmp_path):
    """A hum of 2 s from 220 to 440 Hz that is loud in the middle; Chromium repeats it."""
    seconds = np.arange(2 * 48000) / 48000
    phase = 2 * np.pi * np.cumsum(220 * 2 ** (seconds / 2)) / 48000
    hum = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
    soundfile.write(tmp_path / "voice.wav", 0.2 * hum * (0.05 + np.sin(np.pi * seconds / 2)), 48000)
    return tmp_path / "voice.wav"


@pytest.mark.parametrize("width", [1280, 390])
def test_a_hummed_sketch_becomes_drafts(served_embedded, voice, width):
    api = pytest.importorskip("playwright.sync_api")
    options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream"]
    options += ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={voice}"]
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        context = chromium.new_context(viewport={"width": width, "height": 844}, permissions=["microphone"])
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(served_embedded)
        page.locator(".sc-shelf .sc-empty").wait_for()
        page.get_by_role("button", name="Hum it").click()
        assert page.locator("#hum").is_disabled()
        page.locator("#voice").get_by_role("button", name="Record").click()
        page.wait_for_timeout(1500)
        page.locator("#voice").get_by_role("button", name="Stop").first.click()
        page.locator("#sketch polyline[data-curve=pitch]").first.wait_for()
        assert page.locator("#sketch polyline[data-curve=loudness]").count() == 1
        page.get_by_label("Brightness").uncheck()
        page.wait_for_function("!document.querySelector('#sketch polyline[data-curve=brightness]')")
        page.locator("#follow ~ * [type=radio], input[type=radio][value='1']").first.check()
        page.locator(PROMPT_BOX).fill("a siren wails")
        page.locator("#hum").click()
        page.wait_for_function("document.querySelectorAll('#drafts article audio').length === 8")
        drafts = sounds(page, "#drafts")
        assert len({len(sound) for sound in drafts}) == 1 and 8000 < len(drafts[0]) < 60 * 16000
        assert all(sound.std() > 1e-3 for sound in drafts)
        pick(page)
        assert "sketched" in page.locator(".sc-caption").inner_text()
        if width == 1280:
            picture(page, "hum-it")
        page.locator("#refine").click()
        page.locator(".sc-drift").wait_for()
        chromium.close()
