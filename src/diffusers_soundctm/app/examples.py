"""Prompts that the app offers: in nine of ten seeds, the embedded model's draft is recognized as their kind."""

# Prompt to kind. `tests/app/test_examples.py` counts.
EXAMPLES = {
    "rain on a tin roof": "rain",
    "footsteps on gravel": "footsteps",
    "wind howls around a house": "wind",
    "a police siren": "siren",
    "wind chimes in the breeze": "wind chimes",
    "thunder rumbles": "thunder",
    "a dog barks": "dog",
    "sea waves": "sea waves",
}
