"""What the app says about a prompt that the model does not know."""

import torch

from diffusers_soundctm.app import Studio
from diffusers_soundctm.pipelines.known_sounds import KnownSounds


def test_a_note_names_the_nearest_kinds(tiny_pipeline):
    pipe = tiny_pipeline("embedded")
    studio = Studio(pipe)
    assert studio.note("a dog barks") == ""
    embeddings = torch.nn.functional.normalize(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    pipe.known_sounds = KnownSounds({"dog": ["a dog"], "rain": ["rain"]}, embeddings, threshold=2.0)
    assert (
        "'a dog barks'" in studio.note("a dog barks") and "dog" in studio.note("wind") and "rain" in studio.note("wind")
    )
    pipe.known_sounds.threshold = -2.0
    assert studio.note("a dog barks") == ""
    assert Studio(pipe, on_gpu=lambda function: function).note("a dog barks") == ""
