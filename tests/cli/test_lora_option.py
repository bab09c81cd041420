"""`--lora`: adapters change the sound, files name them, and the edits of a file ask for them."""

import pytest
import torch

from diffusers_soundctm.app import Recipe, Studio, python_code
from diffusers_soundctm.app.recipe import Noise
from diffusers_soundctm.audio import read_audio
from diffusers_soundctm.cli.rendering import load_pipeline
from diffusers_soundctm.lora import add_lora, block_layers, parse_lora, save_lora

pytest.importorskip("peft")
SOUND = ["--duration", "0.6", "--seed", "1"]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, tiny_pipeline):
    """Folder of an adapter of the tiny embedded model, with random weights."""
    student = tiny_pipeline("embedded").denoiser
    parameters = add_lora(student, 2, targets=block_layers(student), new_parameters=False)
    for number, parameter in enumerate(parameters):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
    folder = tmp_path_factory.mktemp("adapters") / "creature"
    save_lora(student, folder, new_parameters=False)
    return folder


@pytest.fixture
def draft(adapter, soundctm, tmp_path):
    path = tmp_path / "draft.wav"
    soundctm("generate", "a dog", "-o", path, *SOUND, "--lora", f"{adapter}:0.8")
    return path


def test_weights_follow_the_last_colon():
    assert parse_lora("my-creature:0.8") == ("my-creature", 0.8)
    assert parse_lora("C:/sounds/creature") == ("C:/sounds/creature", 1.0)
    assert parse_lora("creature") == ("creature", 1.0)


def test_an_adapter_changes_the_sound_and_is_recorded(adapter, draft, soundctm, comment_of, tmp_path):
    assert comment_of(draft)["lora"] == [f"{adapter}:0.8"]
    plain, off = tmp_path / "plain.wav", tmp_path / "off.wav"
    soundctm("generate", "a dog", "-o", plain, *SOUND)
    soundctm("generate", "a dog", "-o", off, *SOUND, "--lora", f"{adapter}:0")
    learned, without, zero = (read_audio(path)[0] for path in (draft, plain, off))
    assert not torch.allclose(learned, without, atol=1e-3)
    torch.testing.assert_close(zero, without, rtol=0, atol=1e-3)
    assert any(f"--lora {adapter}:0.8" in line for line in soundctm("info", draft))


def test_edits_ask_for_the_adapter_of_their_draft(adapter, draft, soundctm, refused, comment_of, tmp_path):
    for command in ("refine", "loop", "vary"):
        assert f"pass --lora {adapter}:0.8" in refused(command, draft, "--steps", 2, "-o", tmp_path / "no.wav")
    again, loop = tmp_path / "again.wav", tmp_path / "loop.wav"
    soundctm("refine", draft, "--steps", 1, "-o", again, "--lora", f"{adapter}:0.8")
    torch.testing.assert_close(read_audio(again)[0], read_audio(draft)[0], rtol=0, atol=1e-4)
    soundctm("loop", draft, "--steps", 2, "-o", loop, "--lora", f"{adapter}:0.5")
    assert comment_of(loop)["recipe"]["lora"] == [f"{adapter}:0.5"]
    assert any(f"--lora {adapter}:0.5" in line for line in soundctm("info", loop))


def test_wrong_adapters_are_refused(adapter, refused, tmp_path):
    path = tmp_path / "a.wav"
    assert "does not exist" in refused("generate", "a dog", "-o", path, "--lora", tmp_path)
    assert "is given twice" in refused("generate", "a dog", "-o", path, "--lora", adapter, "--lora", f"{adapter}:2")
    assert "write a folder or Hub id and a weight" in refused("generate", "a dog", "-o", path, "--lora", ":1")
    assert not path.exists()


def test_recipes_choose_among_the_adapters_of_the_studio(adapter):
    studio = Studio(load_pipeline(None, "float32", "cpu", [str(adapter)]), lora=[str(adapter)])
    plain = Recipe("a dog", Noise(1), 0.6)
    learned = plain.change(lora=(str(adapter),))
    without, with_adapter = (studio.make(recipe).waveform for recipe in (plain, learned))
    assert not torch.allclose(without, with_adapter, atol=1e-3)
    torch.testing.assert_close(Studio(studio.pipe).make(plain).waveform, without)  # made anew, after the adapter
    with pytest.raises(ValueError, match="needs the adapter other; pass --lora other"):
        studio.make(plain.change(lora=("other",)))
    code = python_code(learned)
    assert f"pipe.load_lora_weights({str(adapter)!r}, adapter_name='adapter_0')" in code
    compile(code, "code", "exec")
