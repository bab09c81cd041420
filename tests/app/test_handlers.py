"""The handlers of the page's controls, without a browser."""

from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app.disk import DiskBudget
from diffusers_soundctm.app.handlers import Handlers
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.studio import Studio

PERSON = SimpleNamespace(session_hash="tab", client=SimpleNamespace(host="127.0.0.1"))
PLAIN = Recipe("rain", Noise(3), 0.6)
CURRENT = {"recipe": PLAIN.to_json()}
ADVANCED = ("", 3.5, 1, 0)  # negative prompt, omega, nu, gamma


@pytest.fixture(scope="module")
def handlers(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.set_progress_bar_config(disable=True)
    return Handlers(Studio(pipe, str(embedded_folder)), DiskBudget())


def test_drafts_appear_one_by_one(handlers):
    updates = list(handlers.draft("rain", "", 3.5, 1, 0, 0.6, "5", PERSON))
    assert [len(grid["cards"]) for _, grid in updates] == list(range(9))
    assert all(grid["total"] == 8 for _, grid in updates)
    assert [card["seed"] for card in updates[-1][1]["cards"]] == list(range(5, 13))
    assert "Draft 2 of 8" in updates[1][0] and updates[-1][0] == ""


def test_finished_drafts_stay_after_a_cancel(handlers):
    drafts = handlers.draft("wind", None, 3.5, 1, 0, 0.6, "", PERSON)
    next(drafts)
    next(drafts)
    handlers.cancel(PERSON)
    (_, grid), (message, _) = drafts
    assert len(grid["cards"]) == grid["total"] == 1 and "Cancelled" in message


def test_newer_requests_supersede_unfinished_ones(handlers):
    earlier = handlers.draft("rain", *ADVANCED, 0.6, "20", PERSON)
    assert [len(next(earlier)[1]["cards"]) for _ in range(3)] == [0, 1, 2]
    later = handlers.draft("wind", *ADVANCED, 0.6, "40", PERSON)
    assert next(later)[1] == {"cards": [], "total": 8, "keys": True}
    assert list(earlier) == []
    assert [card["seed"] for card in list(later)[-1][1]["cards"]] == list(range(40, 48))


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        ("refine", (CURRENT, 2)),
        ("morph", (CURRENT, {"prompt": "wind", "noise": {"seed": 9}, "duration": 0.6}, 2)),
        ("draw", (CURRENT, [-50, -20, -50], 0.5, 2)),
        ("fill", (CURRENT, "wind", [0.2, 0.5], 2, 0)),
        ("extend", (CURRENT, "wind", 0.5, 2, 0)),
        ("loop", (CURRENT, 2)),
    ],
)
def test_settings_under_advanced_apply_to_every_sound(answer, arguments, handlers):
    value = list(getattr(handlers, answer)(*arguments, "dog", 2.5, 1.5, 0.2, PERSON))[-1][1]
    recipe = value["b"]["recipe"]
    assert [recipe[name] for name in ("negative_prompt", "omega", "nu", "gamma")] == ["dog", 2.5, 1.5, 0.2]
    assert value["a"]["recipe"] == PLAIN.to_json()


def test_refine_shows_steps_then_both_sounds(handlers):
    updates = list(handlers.refine(CURRENT, 4, *ADVANCED, PERSON))
    assert [f"Step {i} of 4" in updates[i][0] for i in (1, 2, 3, 4)] == [True] * 4
    message, value = updates[-1]
    assert message == "" and value["a"]["recipe"] == PLAIN.to_json() and value["b"]["steps"] == 4
    assert 0 < value["drift"] < 2


def test_a_drawn_sound_comes_with_its_curves(handlers):
    value = list(handlers.draw(CURRENT, [-50, -20, -50], 0.5, 2, *ADVANCED, PERSON))[-1][1]
    assert value["target"] == [-50, -20, -50] and len(value["before"]) == len(value["achieved"]) == 64


def test_picking_sets_the_settings_to_those_of_the_sound(handlers):
    recipe = PLAIN.change(nu=1.5, negative_prompt="wind")
    ((_, current, player, omega, nu, gamma, negative, prompt),) = handlers.pick(
        SimpleNamespace(recipe=recipe.to_json()), PERSON
    )
    assert (omega, nu, gamma, negative, prompt) == (3.5, 1.5, 0, "wind", "rain")
    assert current == {"recipe": recipe.to_json()} and player["a"]["id"] == recipe.id


@pytest.mark.parametrize(
    ("answer", "arguments", "named"),
    [
        ("draft", ("", *ADVANCED, 0.6, ""), "prompt is empty"),
        ("draft", ("rain", *ADVANCED, 0.6, "$(reboot)"), "seed"),
        ("draft", ("rain", "", 1e9, 1, 0, 0.6, ""), "omega"),
        ("draft", ("rain", "wind", 3.5, 1, 0, 0.6, ""), "choose another strength"),
        ("refine", (None, 4, *ADVANCED), "Pick a sound"),
        ("refine", ({"recipe": {"prompt": "rain"}}, 4, *ADVANCED), "seed"),
        ("vary", ({"digest": "0" * 16, "seconds": 1}, 0.3, *ADVANCED), "no noise"),
        ("morph", (CURRENT, None, 2, *ADVANCED), "Choose the sound to end with"),
        ("draw", (CURRENT, [], 0.5, 2, *ADVANCED), "curve is empty"),
        ("fill", (CURRENT, "wind", [], 2, 0, *ADVANCED), "Nothing is marked"),
        ("fill", (CURRENT, "wind", [0.2, 0.5], 2, -3, *ADVANCED), "seed is -3"),
        ("fill", ({"digest": "0" * 16, "seconds": 1}, "wind", [0.2, 0.5], 2, 0, *ADVANCED), "upload it again"),
        ("extend", (CURRENT, "wind", 60, 2, 0, *ADVANCED), "cannot be extended by 60 s"),
    ],
)
def test_errors_appear_beside_the_control(answer, arguments, named, handlers, caplog):
    message, *others = list(getattr(handlers, answer)(*arguments, PERSON))[-1]
    assert named in message and 'role="alert"' in message and len(others) == 1
    (line,) = caplog.messages
    assert line.startswith(f"Refused {answer} for 127.0.0.1: ") and named in line and "\n" not in line


def test_messages_are_escaped(handlers):
    message = next(handlers.draft("rain", "", 3.5, 1, 0, 0.6, "<img src=x>", PERSON))[0]
    assert "<img" not in message and "&lt;img" in message
