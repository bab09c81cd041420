"""The exported Python script makes the same file as the app, sample for sample."""

import pytest
import soundfile
import torch

from app_recipes import KINDS, PLAIN, kinds
from diffusers_soundctm.app import sound_files
from diffusers_soundctm.app.code_export import python_code

FLOW_KINDS = ("plain", "settings", "variation")  # Stable Audio 3's takes seconds


@pytest.mark.parametrize(
    ("kind", "studio_name", "channels"),
    [
        *[(kind, "studio", 1) for kind in KINDS],
        *[(kind, "stereo_studio", 2) for kind in KINDS],
        *[pytest.param(kind, "flow_studio", 2, marks=pytest.mark.slow) for kind in FLOW_KINDS],
    ],
)
def test_code_makes_the_same_file(kind, studio_name, channels, sound_file, tmp_path, monkeypatch, request):
    studio = request.getfixturevalue(studio_name)
    take = studio.make(kinds(studio, sound_file)[kind])
    assert len(take.waveform) == channels and take.waveform.isfinite().all() and take.waveform.abs().max() > 0
    expected = 1.5 if kind == "continued upload" else 1.0
    if kind == "loop" and channels == 2:  # of Stable Audio a loop is the model's whole window
        expected = studio.pipe.default_audio_length_in_s
    assert take.seconds == pytest.approx(expected, abs=0.041 if kind == "loop" else 1e-4)
    monkeypatch.chdir(tmp_path)
    exec(python_code(take.recipe, studio.model, "again.wav"), {})
    (tmp_path / "made.wav").write_bytes(sound_files.encode(studio, take))
    made, again = (soundfile.read(tmp_path / name, always_2d=True)[0] for name in ("made.wav", "again.wav"))
    assert made.shape[1] == channels and made.tolist() == again.tolist()


def test_code_of_the_embedded_model_names_no_folder():
    assert "SoundCTMPipeline.from_embedded()" in python_code(PLAIN)


def test_code_has_the_dtype_and_device_of_the_app():
    code = python_code(PLAIN, "folder", dtype=torch.bfloat16, device="cuda:0")
    assert "from_pretrained('folder', torch_dtype=torch.bfloat16)" in code and "pipe.to('cuda')" in code
    assert "torch_dtype" not in python_code(PLAIN) and "pipe.to" not in python_code(PLAIN)


def test_prompts_are_text_in_code_not_code():
    nasty = PLAIN.change(prompt='"); import os; os.abort() #')
    tree = compile(python_code(nasty), "sound.py", "exec")
    assert "abort" not in tree.co_names
