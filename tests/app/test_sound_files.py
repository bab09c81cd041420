"""Audio files with their settings, and the cards and pictures that the page shows."""

import io
import json

import numpy as np
import pytest
import soundfile
import torch

from app_recipes import PLAIN, kinds
from diffusers_soundctm.app import cards, edits, sound_files, spectrograms
from diffusers_soundctm.app.recipe import Recipe
from diffusers_soundctm.app.studio import Take
from diffusers_soundctm.cli import main


@pytest.mark.parametrize("extension", [".wav", ".flac"])
def test_files_carry_their_settings(extension, studio, tmp_path, sound_file, capsys):
    path = tmp_path / f"rain{extension}"
    path.write_bytes(sound_files.encode(studio, studio.make(PLAIN), extension))
    # The command line reads them, checks the noise and makes the same sound.
    assert main(["refine", str(path), "--steps", "2", "--model", studio.model]) == 0
    assert float(capsys.readouterr().out.split("drift ")[1].split()[0]) < 0.001
    drawn = studio.make(kinds(studio, sound_file)["drawn"])
    path.write_bytes(sound_files.encode(studio, drawn, extension))
    with soundfile.SoundFile(path) as file:
        tags = file.copy_metadata()
    assert Recipe.from_json(json.loads(tags["comment"])["recipe"]) == drawn.recipe
    assert tags["title"] == PLAIN.prompt


def test_files_and_cards_say_by_how_much_a_sound_was_turned_down(studio):
    for level in (0.0, 6.5):
        take = Take(PLAIN, torch.rand(16000), 16000, level)
        assert sound_files.settings(studio, take).get("turned_down_db", 0.0) == level
        assert ("turned down by 6.5 dB" in cards.about(take)) == bool(level)
    made = studio.make(PLAIN)  # the tiny model, whose random vocoder is loud
    assert made.turned_down_db > 0 and made.waveform.abs().max() <= 1


def test_wav_header_that_would_overflow_refers_to_the_flac(studio, tmp_path):
    recipe = edits.drawn(PLAIN.change(prompt="rain " * 59), [-99.9] * 128, 0.5, 1)
    for prompt in ("wind ", "dogs "):
        recipe = edits.filled(recipe, 1.0, prompt * 59, [(0.2, 0.4)], 1)
    take = Take(recipe, torch.rand(16000), 16000)
    for extension in (".wav", ".flac"):
        path = tmp_path / f"long{extension}"
        path.write_bytes(sound_files.encode(studio, take, extension))
        with soundfile.SoundFile(path) as file:
            comment = json.loads(file.copy_metadata()["comment"])
        assert ("recipe" in comment) == (extension == ".flac")


def test_names_of_files_are_harmless(studio):
    nasty = PLAIN.change(prompt="../../etc/passwd; rm -rf / ☃")
    assert sound_files.file_name(Take(nasty, torch.zeros(1), 16000)).startswith("etc-passwd-rm-rf-")
    assert sound_files.file_name(Take(nasty.change(prompt="☃"), torch.zeros(1), 16000)).startswith("sound-")


def test_card_has_axes_and_a_playable_file(studio):
    shown = cards.card(studio, studio.make(PLAIN), with_files=True)
    json.dumps(shown)
    assert [tick["label"] for tick in shown["ticks"]] == ["250", "1k", "2k", "4k", "8k"]
    assert shown["ticks"][-1]["at"] == 1
    assert shown["seed"] == 3 and shown["about"].startswith("seed 3, 2 steps")
    assert shown["image"].startswith("data:image/png;base64,") and shown["audio"].startswith("data:audio/flac;base64,")
    assert "manual_seed(3)" in shown["code"] and Recipe.from_json(shown["recipe"]) == PLAIN


def test_spectrogram_shows_low_below_high_and_early_left(studio):

    from PIL import Image

    seconds = torch.arange(16000) / 16000
    chirp = torch.sin(2 * torch.pi * (100 * seconds + 3500 * seconds**2))
    picture = np.asarray(
        Image.open(io.BytesIO(spectrograms.spectrogram_png(chirp[None], 16000))).convert("L"), dtype=float
    )
    brightest = picture[:, 40:-40].argmax(axis=0)
    assert brightest[:50].mean() > 80 and brightest[-50:].mean() < 30
