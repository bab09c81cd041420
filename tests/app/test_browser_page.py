"""The page in a real browser: layout, accessibility, keyboard, focus and messages."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from app_page import (
    NEGATIVE_BOX,
    PROMPT,
    PROMPT_BOX,
    SEED_BOX,
    TABS,
    browser_test,
    draft,
    open_advanced,
    open_tab,
    pick,
    picture,
)

pytestmark = browser_test


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
