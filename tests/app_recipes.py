"""Recipes that several tests use: one of each kind of sound."""

from diffusers_soundctm.app import edits
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.sketches import Sketch

PLAIN = Recipe("rain on a tin roof", Noise(3), 1.0, steps=2)
OTHER = Recipe("a dog barks", Noise(4), 1.0)
FILLED = edits.filled(PLAIN, 1.0, "wind", [(0.3, 0.6)], 2)
SKETCH = Sketch((-50, -20, -50), (500, 2000), (200, 0, 300))
KINDS = ("plain", "settings", "variation", "morph", "morph of the noise", "drawn", "loop")
KINDS += ("sketched", "filled", "filled upload", "continued upload")


def kinds(studio, sound_file):
    """One recipe of each kind."""
    upload = studio.add_upload(sound_file)
    return {
        "plain": PLAIN,
        "settings": PLAIN.change(nu=1.5, negative_prompt="wind", gamma=0.4, omega=2.5),
        "variation": edits.variation_recipes(PLAIN, 0.3, seed=9)[1],
        "morph": edits.morphed(PLAIN, OTHER, 2),
        "morph of the noise": edits.morphed(PLAIN, PLAIN.change(noise=Noise(8, ((0.5, 1),))), 2),
        "drawn": edits.drawn(PLAIN, [-50, -20, -50], 0.5, 2),
        "sketched": edits.sketched("wind", 1.0, SKETCH, 0.2, 2, 3),
        "loop": edits.looped(PLAIN, 3),
        "filled": edits.filled(PLAIN, 1.0, "wind", [(0.3, 0.6)], 2),
        "filled upload": edits.filled(upload, 1.0, "wind", [(0.3, 0.6)], 2, seed=5),
        "continued upload": edits.continued(upload, 1.0, "wind", 0.5, 2),
    }
