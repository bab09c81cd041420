"""The pictures of the README, taken by the steps that they show."""

import pytest

from app_page import SCREENSHOTS, browser_test, draft, draw_a_rise, pick, picture

pytestmark = browser_test


@pytest.mark.parametrize("name", ["app", "app-dark", "app-phone"])
def test_readme_pictures(name, open_page):
    """`SCREENSHOTS=docs/images pytest -m slow tests/app/test_browser_pictures.py` takes the pictures of the README."""
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
