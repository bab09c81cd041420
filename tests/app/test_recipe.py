"""Recipes survive a round trip through JSON, and invalid ones are refused."""

import json

import pytest

from diffusers_soundctm.app.recipe import MAX_DEPTH, MAX_SEED, Morph, Noise, Recipe, Upload

PLAIN = Recipe("rain", Noise(3), 1.0)
RECIPES = [
    PLAIN,
    PLAIN.change(noise=Noise(3, ((0.3, 5), (0.1, 6))), negative_prompt="wind", steps=4, nu=1.5, omega=2.0, gamma=0.5),
    PLAIN.change(morph=Morph("wind", Noise(4, ((0.2, 1),)))),
    PLAIN.change(curve=(-40.0, -20.0, -40.0), strength=1.0),
    PLAIN.change(loop=True),
    PLAIN.change(source=PLAIN, spans=((0.2, 0.5),)),
    PLAIN.change(source=Upload("0123456789abcdef"), duration=2.0),
    PLAIN.change(lora=("my-creature:0.8",)),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_json_and_back(recipe):
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert again == recipe and again.id == recipe.id


def test_ids_tell_recipes_apart():
    assert len({recipe.id for recipe in RECIPES}) == len(RECIPES)
    assert Recipe("  rain\n ", Noise(3), 1).id == PLAIN.id


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "x" * 301}, "301 characters"),
        ({"prompt": ["rain"]}, "prompt"),
        ({"lora": "my-creature"}, "adapters must be a list"),
        ({"lora": [3]}, "adapter"),
        ({"negative_prompt": 3}, "negative prompt"),
        ({"negative_prompt": "wind"}, "no effect while its strength"),
        ({"noise": {"seed": -1}}, "seed is -1"),
        ({"noise": {"seed": MAX_SEED + 1}}, "seed"),
        ({"noise": {"seed": 1.5}}, "seed"),
        ({"noise": {"seed": 0, "variations": [[2, 0]]}}, "amount"),
        ({"noise": {"seed": 0, "variations": [[0.1, 0]] * 17}}, "16 times"),
        ({"noise": []}, "noise"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps"),
        ({"omega": float("nan")}, "omega"),
        ({"nu": "1; import os"}, "nu"),
        ({"gamma": 2}, "gamma"),
        ({"duration": 31}, "duration"),
        ({"duration": 0.1}, "duration"),
        ({"curve": [-10]}, "2 to 128"),
        ({"curve": [-10, 3]}, "curve"),
        ({"curve": "../../etc/passwd"}, "curve"),
        ({"spans": [[0, 1]]}, "no sound to fill"),
        ({"source": {"digest": "../../etc/passwd"}}, "not known"),
        ({"source": PLAIN.to_json(), "spans": [[0.5, 0.5]]}, "shorter"),
        ({"loop": True, "curve": [-10, -20]}, "one of"),
        ({"path": "/etc/passwd"}, "not valid"),
    ],
)
def test_bad_values_are_named(change, named):
    with pytest.raises(ValueError, match=named):
        Recipe.from_json(PLAIN.to_json() | change)


@pytest.mark.parametrize("values", [None, 3, "rain", [], {"prompt": "rain"}])
def test_other_values_are_refused(values):
    with pytest.raises(ValueError):
        Recipe.from_json(values)


def test_the_depth_of_sources_is_limited():
    values = PLAIN.to_json()
    for _ in range(MAX_DEPTH + 1):
        values = PLAIN.to_json() | {"source": values, "spans": [[0.1, 0.5]]}
    with pytest.raises(ValueError, match="deep"):
        Recipe.from_json(values)
