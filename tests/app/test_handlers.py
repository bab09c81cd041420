"""The handlers of the page's controls, without a browser."""

import zipfile
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio")

import gradio as gr
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app.disk import DiskBudget
from diffusers_soundctm.app.handlers import Handlers
from diffusers_soundctm.app.recipe import Noise, Recipe, Upload
from diffusers_soundctm.app.sound_files import encode
from diffusers_soundctm.app.studio import Studio, Take
from diffusers_soundctm.pipelines.known_sounds import KnownSounds, embed_prompts

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
    updates = list(handlers.draft("rain", "", 3.5, 1, 0, 0.6, "5", "", PERSON))
    assert [len(grid["cards"]) for _, grid, *_ in updates] == list(range(9))
    assert all(grid["total"] == 8 for _, grid, *_ in updates)
    assert [card["seed"] for card in updates[-1][1]["cards"]] == list(range(5, 13))
    assert "Draft 2 of 8" in updates[1][0] and updates[-1][0] == ""
    # After a reload the browser asks for them again.
    *_, (_, restored, _) = handlers.restore(updates[0][3], PERSON)
    assert restored == updates[-1][1]
    assert len(list(handlers.restore(None, PERSON))) == 1


def test_finished_drafts_stay_after_a_cancel(handlers):
    drafts = handlers.draft("wind", None, 3.5, 1, 0, 0.6, "", "", PERSON)
    next(drafts)
    next(drafts)
    handlers.cancel(PERSON)
    (_, grid, *_), (message, *_) = drafts
    assert len(grid["cards"]) == grid["total"] == 1 and "Cancelled" in message


def test_unknown_prompts_name_the_nearest_kinds(handlers, monkeypatch):
    studio = handlers.studio
    assert studio.known_kinds == {} and studio.warning("a roof on a train") == ""  # the folder does not say
    embeds, mask, _, _ = studio.pipe.encode_prompt(["rain on a tin roof", "a dog barks"], do_nu_sampling=False)
    kinds = {"rain": ["rain on a tin roof"], "dog": ["a dog barks"]}
    monkeypatch.setattr(studio.pipe, "known_sounds", KnownSounds(kinds, embed_prompts(embeds, mask), 0.9999))
    for prompt, is_known in (("a dog barks", True), ("a piano plays", False)):
        drafted = list(handlers.draft(prompt, *ADVANCED, 0.6, "60", "", PERSON))
        restored = list(handlers.restore(drafted[0][3], PERSON))
        filled = list(handlers.fill(CURRENT, prompt, [0.2, 0.5], 1, 0, *ADVANCED, PERSON))
        for shown in (drafted[0][2], drafted[-1][2], restored[-1][2], filled[-1][0]):
            assert ("does not know" in shown and "dog" in shown) != is_known


def test_newer_requests_supersede_unfinished_ones(handlers):
    earlier = handlers.draft("rain", *ADVANCED, 0.6, "20", "", PERSON)
    assert [len(next(earlier)[1]["cards"]) for _ in range(3)] == [0, 1, 2]
    later = handlers.draft("wind", *ADVANCED, 0.6, "40", "", PERSON)
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
        ("extend", (CURRENT, "wind", 1.1, 2, 0)),
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
    event = SimpleNamespace(recipe=recipe.to_json())
    ((_, current, player, *settings, fill, extend, to),) = handlers.pick(None, "", "", event, PERSON)
    assert settings == [3.5, 1.5, 0, "wind"] and (fill, extend) == ("rain", "rain")
    assert current == {"recipe": recipe.to_json()} and player["a"]["id"] == recipe.id
    assert (to["minimum"], to["value"], to["maximum"]) == (0.6, 2.6, 30)


def test_prompts_of_fill_and_continue_follow_the_picked_sound_until_they_are_written(handlers):
    event = SimpleNamespace(recipe=PLAIN.change(prompt="wind").to_json())
    ((*_, fill, extend, _),) = handlers.pick(CURRENT, "rain", "thunder far away", event, PERSON)
    assert fill == "wind" and extend == gr.skip()


@pytest.mark.parametrize("extension", [".wav", ".flac"])
def test_an_uploaded_file_of_the_app_goes_on_from_its_recipe(extension, handlers, tmp_path):
    studio, path = handlers.studio, tmp_path / f"rain{extension}"
    path.write_bytes(encode(studio, studio.make(PLAIN), extension))
    message, current, player, _ = next(handlers.upload(str(path), PERSON))
    assert current == CURRENT and "made here" in message and player["a"]["id"] == PLAIN.id


def test_files_that_are_no_longer_that_sound_are_recordings(handlers, tmp_path):
    studio, path = handlers.studio, tmp_path / "other.wav"
    other = Take(PLAIN, 0.1 * torch.randn(1, 9600, generator=torch.Generator().manual_seed(0)), 16000)
    path.write_bytes(encode(studio, other, ".wav"))
    message, current, _, _ = next(handlers.upload(str(path), PERSON))
    assert set(current) == {"digest", "seconds"} and "was changed" in message
    path.write_bytes(encode(Studio(studio.pipe, "somebody/model"), studio.make(PLAIN), ".wav"))
    message, current, _, _ = next(handlers.upload(str(path), PERSON))
    assert set(current) == {"digest", "seconds"} and "somebody/model" in message and "not loaded" in message


def test_export_gives_an_archive_and_names_what_is_missing(handlers, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    gone = PLAIN.change(source=Upload("0" * 16), spans=((0.1, 0.4),))
    sounds = [{"recipe": one.to_json(), "kept": "2026-03-04T05:06:08"} for one in (PLAIN, gone)]
    settings = (".wav", 16, 0, 0, "as made", -23, "{prompt}_{seed}_{n}", False)
    *_, (message, shelf) = handlers.export(*settings, SimpleNamespace(sounds=sounds), PERSON)
    assert "1 of 2 sounds are missing" in message and "upload it again" in message
    with zipfile.ZipFile(shelf["download"].removeprefix("gradio_api/file=")) as file:
        assert "rain_3_01.wav" in file.namelist()


@pytest.mark.parametrize(
    ("answer", "arguments", "named"),
    [
        ("draft", ("", *ADVANCED, 0.6, "", ""), "prompt is empty"),
        ("draft", ("rain", *ADVANCED, 0.6, "$(reboot)", ""), "seed"),
        ("draft", ("rain", "", 1e9, 1, 0, 0.6, "", ""), "omega"),
        ("draft", ("rain", "wind", 3.5, 1, 0, 0.6, "", ""), "choose another strength"),
        ("refine", (None, 4, *ADVANCED), "Pick a sound"),
        ("refine", ({"recipe": {"prompt": "rain"}}, 4, *ADVANCED), "seed"),
        ("vary", ({"digest": "0" * 16, "seconds": 1}, 0.3, *ADVANCED), "no noise"),
        ("morph", (CURRENT, None, 2, *ADVANCED), "Choose the sound to end with"),
        ("draw", (CURRENT, [], 0.5, 2, *ADVANCED), "curve is empty"),
        ("fill", (CURRENT, "wind", [], 2, 0, *ADVANCED), "Nothing is marked"),
        ("fill", (CURRENT, "wind", [0.2, 0.5], 2, -3, *ADVANCED), "seed is -3"),
        ("fill", ({"digest": "0" * 16, "seconds": 1}, "wind", [0.2, 0.5], 2, 0, *ADVANCED), "upload it again"),
        ("extend", (CURRENT, "wind", 60, 2, 0, *ADVANCED), "cannot be extended to 60 s"),
    ],
)
def test_errors_appear_beside_the_control(answer, arguments, named, handlers, caplog):
    message, *others = list(getattr(handlers, answer)(*arguments, PERSON))[-1]
    assert named in message and 'role="alert"' in message and len(others) == (3 if answer == "draft" else 1)
    (line,) = caplog.messages
    assert line.startswith(f"Refused {answer} for 127.0.0.1: ") and named in line and "\n" not in line


def test_messages_are_escaped(handlers):
    message = next(handlers.draft("rain", "", 3.5, 1, 0, 0.6, "<img src=x>", "", PERSON))[0]
    assert "<img" not in message and "&lt;img" in message
