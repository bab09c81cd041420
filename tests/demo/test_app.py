"""What the page's controls are answered, without a browser."""

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.demo.app import Desk
from diffusers_soundctm.demo.recipe import Noise, Recipe
from diffusers_soundctm.demo.studio import Studio

PERSON = SimpleNamespace(session_hash="tab")
PLAIN = Recipe("rain", Noise(3), 0.6)
CURRENT = {"recipe": PLAIN.to_json()}


@pytest.fixture(scope="module")
def desk(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.set_progress_bar_config(disable=True)
    return Desk(Studio(pipe, str(embedded_folder)))


def test_drafts_appear_one_by_one(desk):
    updates = list(desk.draft("rain", "", 3.5, 1, 0, 0.6, "5", PERSON))
    assert [len(grid["cards"]) for _, grid in updates] == list(range(9))
    assert all(grid["total"] == 8 for _, grid in updates)
    assert [card["seed"] for card in updates[-1][1]["cards"]] == list(range(5, 13))
    assert "Draft 2 of 8" in updates[1][0] and updates[-1][0] == ""


def test_cancelled_drafts_leave_those_that_are_there(desk):
    drafts = desk.draft("wind", None, 3.5, 1, 0, 0.6, "", PERSON)
    next(drafts)
    next(drafts)
    desk.cancel(PERSON)
    (_, grid), (message, _) = drafts
    assert len(grid["cards"]) == grid["total"] == 1 and "Cancelled" in message


def test_refine_shows_steps_then_both_sounds(desk):
    updates = list(desk.refine(CURRENT, 4, "", 3.5, 1, 0, PERSON))
    assert [f"Step {i} of 4" in updates[i][0] for i in (1, 2, 3, 4)] == [True] * 4
    message, value = updates[-1]
    assert message == "" and value["a"]["recipe"] == PLAIN.to_json() and value["b"]["steps"] == 4
    assert 0 < value["drift"] < 2


def test_a_drawn_sound_comes_with_its_curves(desk):
    value = list(desk.draw(CURRENT, [-50, -20, -50], 0.5, 2, PERSON))[-1][1]
    assert value["target"] == [-50, -20, -50] and len(value["before"]) == len(value["achieved"]) == 64


def test_picking_sets_the_settings_to_those_of_the_sound(desk):
    recipe = PLAIN.change(nu=1.5, negative_prompt="wind")
    ((_, current, player, omega, nu, gamma, negative, prompt),) = desk.pick(
        SimpleNamespace(recipe=recipe.to_json()), PERSON
    )
    assert (omega, nu, gamma, negative, prompt) == (3.5, 1.5, 0, "wind", "rain")
    assert current == {"recipe": recipe.to_json()} and player["a"]["id"] == recipe.id


@pytest.mark.parametrize(
    ("answer", "arguments", "named"),
    [
        ("draft", ("", "", 3.5, 1, 0, 0.6, ""), "prompt is empty"),
        ("draft", ("rain", "", 3.5, 1, 0, 0.6, "$(reboot)"), "seed"),
        ("draft", ("rain", "", 1e9, 1, 0, 0.6, ""), "omega"),
        ("refine", (None, 4, "", 3.5, 1, 0), "Pick a sound"),
        ("refine", ({"recipe": {"prompt": "rain"}}, 4, "", 3.5, 1, 0), "seed"),
        ("vary", ({"digest": "0" * 16, "seconds": 1}, 0.3), "no noise"),
        ("morph", (CURRENT, None, 2), "Choose where to go"),
        ("draw", (CURRENT, [], 0.5, 2), "curve is empty"),
        ("fill", (CURRENT, "wind", [], 2, 0), "Nothing is marked"),
        ("fill", ({"digest": "0" * 16, "seconds": 1}, "wind", [0.2, 0.5], 2, 0), "upload it again"),
        ("go_on", (CURRENT, "wind", 60, 2, 0), "at most"),
    ],
)
def test_what_goes_wrong_is_said_next_to_the_control(answer, arguments, named, desk):
    message, *others = list(getattr(desk, answer)(*arguments, PERSON))[-1]
    assert named in message and 'role="alert"' in message and len(others) == 1


def test_messages_are_text(desk):
    message = next(desk.draft("rain", "", 3.5, 1, 0, 0.6, "<img src=x>", PERSON))[0]
    assert "<img" not in message and "&lt;img" in message
