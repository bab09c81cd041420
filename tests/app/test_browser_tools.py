"""The tools that work on one sound, in a real browser."""

import re

import numpy as np
import pytest
import soundfile

from app_page import browser_test, draft, drag, draw_a_rise, is_sound, open_tab, pick, sounds

pytestmark = browser_test


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
