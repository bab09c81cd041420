"""What a person does on the app's page and what they hear, for tests with a real browser.

Screenshots go to `outputs/screenshots`, or to the folder named by the environment variable SCREENSHOTS.
"""

import base64
import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.app import sound_files

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = Path(__file__).parents[1] / os.environ.get("SCREENSHOTS", "outputs/screenshots")
PROMPT = "rain on a tin roof"
TABS = {"Vary": "vary", "Morph": "morph", "Draw": "draw", "Fill": "fill", "Loop": "loop", "Refine": "refine"}
PROMPT_BOX, SEED_BOX, NEGATIVE_BOX = (f"#{name} :is(textarea, input)" for name in ("prompt", "seed", "negative"))
WAIT = 300_000  # milliseconds; enough for a busy machine

browser_test = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
]


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
