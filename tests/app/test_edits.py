"""Recipes made from other recipes."""

import pytest

from app_recipes import FILLED, PLAIN
from diffusers_soundctm.app import edits


def test_drafts_are_eight_seeds():
    recipes = edits.draft_recipes("rain", 1.0, seed=5)
    assert [recipe.noise.seed for recipe in recipes] == list(range(5, 13))
    assert edits.draft_recipes("rain", 1.0) != edits.draft_recipes("rain", 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: edits.filled(PLAIN, 1.0, "wind", [], 2),
        lambda: edits.continued(PLAIN, 29.0, "wind", 2, 2),
        lambda: edits.extended(PLAIN, 2.0, "wind", 1.5, 2),
        lambda: edits.drawn(PLAIN, [], 0.5, 2),
        lambda: edits.drawn(PLAIN, 5, 0.5, 2),
        lambda: edits.filled(PLAIN, 1.0, "wind", 5, 2),
        lambda: edits.variation_recipes(PLAIN, 1.5),
        # A filled sound is not made from noise alone, so nothing else can be made from its noise.
        lambda: edits.looped(FILLED, 2),
        lambda: edits.drawn(FILLED, [-50, -20], 0.5, 2),
        lambda: edits.morphed(FILLED, PLAIN, 2),
        lambda: edits.morphed(PLAIN, FILLED, 2),
    ],
)
def test_impossible_requests_are_refused(make):
    with pytest.raises(ValueError):
        make()
