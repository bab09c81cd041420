"""The model that ships inside the package, as a newcomer meets it."""

import numpy as np
import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline, hub
from diffusers_soundctm.control import drift

PROMPTS = ["a music box plays a melody", "a dog barks", "a police siren", "rain on a tin roof"]


@pytest.fixture(scope="module")
def pipe():
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(first, count=4):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


@pytest.fixture(scope="module")
def drafts(pipe):
    return pipe(PROMPTS, generator=generators(0), output_type="pt").audios


def test_package_stays_small_and_brings_its_card():
    folder = hub.embedded_folder()
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 95e6
    card = (folder / "README.md").read_text(encoding="utf-8")
    for credit in ("FluidR3", "CC0", "MiniLM", "license:"):
        assert credit in card
    assert not list(folder.rglob("*.py")) + list(folder.rglob("*.bin"))


def test_sounds_are_whole_audible_and_different(pipe, drafts):
    assert drafts.shape == (4, 1, round(pipe.default_audio_length_in_s * pipe.sampling_rate))
    assert pipe.default_audio_length_in_s >= 5 and pipe.sampling_rate == 16000
    assert drafts.isfinite().all() and drafts.abs().max() <= 2
    assert (drafts.square().mean(dim=(1, 2)).sqrt() > 0.003).all()
    for i in range(4):
        assert drift(drafts[i, 0], drafts[i - 1, 0], 16000) > 0.2


def test_seed_decides_the_sound(pipe, drafts):
    again = pipe(PROMPTS[1], generator=generators(1, 1)).audios
    np.testing.assert_allclose(again[0], drafts[1].numpy(), atol=2e-3)


def test_more_steps_refine_the_same_sound(pipe, drafts):
    """Over prompts: a draft's own refinement is nearer to it than another seed's sound of the same prompt."""
    refined = pipe(PROMPTS, generator=generators(0), num_inference_steps=8, output_type="pt").audios
    other = pipe(PROMPTS, generator=generators(10), output_type="pt").audios
    same = drift(drafts[:, 0], refined[:, 0], 16000).mean()
    different = drift(drafts[:, 0], other[:, 0], 16000).mean()
    assert same < 0.7 * different


@pytest.mark.slow
def test_half_precision_makes_the_same_sound(pipe, drafts):
    half = SoundCTMPipeline.from_embedded(torch_dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    audio = half(PROMPTS[0], generator=generators(0, 1), output_type="pt").audios
    assert drift(audio[0, 0].float(), drafts[0, 0], 16000) < 0.1
