"""`soundctm learn` and learn_sounds.py: every family learns, and stopping changes nothing."""

import json

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.cli import main as soundctm
from diffusers_soundctm.lora import WEIGHTS
from runs import load, signalled
from tiny_teachers import FAMILIES, make_teacher

pytest.importorskip("peft")
LENGTHS = {"stable_audio": 40 * 32, "stable_audio_3": 50 * 32, "longcat": 50 * 32, "ace_step": 3 * 1920}
TINY = {"max_train_steps": 2, "train_batch_size": 4, "lora_rank": 2, "prior_sounds": 2, "lr_warmup_steps": 0}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material") / "sounds"
    folder.mkdir()
    for number in range(5):
        rng = np.random.default_rng(number)
        soundfile.write(folder / f"{number}.wav", 0.1 * rng.standard_normal(1000 * (number + 3)), 16000)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_pipeline):
    """`models(family)` → folders of a tiny teacher and of a student of it."""
    root = tmp_path_factory.mktemp("models")

    def folders(family):
        if not (root / family).exists():
            make_teacher(family, root / family / "teacher", tiny_pipeline)
            SoundCTMPipeline.from_teacher(root / family / "teacher").save_pretrained(root / family / "student")
        return root / family / "teacher", root / family / "student"

    return folders


def learn(output_dir, **given):
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = {**TINY, "output_dir": output_dir, "name": "a dog", "method": "student", **given}
    load("learn_sounds").main([f"--{name}={value}" for name, value in arguments.items()])
    return output_dir


def latents(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("a dog", num_inference_steps=2, generator=generator, output_type="latent").audios


FAST = {("audioldm", "student"), ("stable_audio", "teacher")}


@pytest.mark.parametrize(
    ("family", "method"),
    [
        pytest.param(family, method, marks=() if (family, method) in FAST else pytest.mark.slow)
        for family in FAMILIES
        for method in ("student", "teacher")
    ],
)
def test_every_family_learns(family, method, recordings, models, tmp_path):
    teacher, student = models(family)
    given = {"model": student, "method": method, "num_samples": LENGTHS.get(family, 5120), "learning_rate": 0.01}
    folder = learn(tmp_path / "run", recordings=recordings, teacher=teacher, **given)
    record = json.loads((folder / "training.json").read_text())
    assert record["skipped_steps"] == 0 and set(record["losses"]) >= {"new", "prior"}
    assert record["recordings"] == 5 and record["captions"] == ["a dog"]
    assert {path.name for path in folder.iterdir()} == {
        "README.md", WEIGHTS, "samples", "settings.json", "training.json"}  # fmt: skip
    assert {file.name for file in (folder / "samples" / "step-2").iterdir()} == {"0-1steps.wav", "0-4steps.wav"}

    pipe = SoundCTMPipeline.from_pretrained(student)
    before = latents(pipe)
    pipe.load_lora_weights(folder, adapter_name="dog")
    learned = latents(pipe)
    assert not torch.allclose(learned, before)
    pipe.set_adapters(["dog"], [0.0])
    torch.testing.assert_close(latents(pipe), before, rtol=1e-4, atol=1e-4)
    pipe.set_adapters(["dog"], [1.0])
    pipe.fuse_lora()
    torch.testing.assert_close(latents(pipe), learned, rtol=1e-3, atol=1e-3)


def test_a_stopped_run_goes_on_to_the_same_adapter(recordings, models, tmp_path, monkeypatch):
    given = {"recordings": recordings, "model": models("audioldm")[1], "num_samples": 5120, "max_train_steps": 4}
    whole = learn(tmp_path / "whole", **given)
    name = "diffusers_soundctm.training.learning.step_generator"
    with monkeypatch.context() as patch:
        from diffusers_soundctm.data.sampling import step_generator

        patch.setattr(name, signalled(step_generator, 2))
        learn(tmp_path / "stopped", **given)
    assert not (tmp_path / "stopped" / "training.json").exists()
    stopped = learn(tmp_path / "stopped", **given, resume_from_checkpoint="latest")
    ours, theirs = (load_file(folder / WEIGHTS) for folder in (stopped, whole))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=0)


@pytest.mark.slow
def test_prior_preservation_keeps_other_sounds(recordings, models, tmp_path):
    """When all but one row preserve the prior, their loss pulls the adapter toward zero."""
    given = {"recordings": recordings, "model": models("audioldm")[1], "num_samples": 5120, "learning_rate": 0.01,
             "max_train_steps": 6, "consistency_weight": 0}  # fmt: skip
    losses = {}
    for rate in (0.25, 0.75):
        folder = learn(tmp_path / str(rate), **given, prior_rate=rate)
        losses[rate] = json.loads((folder / "training.json").read_text())["losses"]["prior"]
    assert 0 < losses[0.75] < losses[0.25]


def test_the_command_learns_and_refuses_in_one_line(recordings, models, tmp_path, capsys, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr("diffusers_soundctm.training.learning.Teacher.default_num_samples", 5120)
    command = ["learn", str(recordings), "--name", "a dog", "-o", str(tmp_path / "dog"), "--updates", "1",
               "--method", "student", "--model", str(models("audioldm")[1]), "--license", "cc0-1.0"]  # fmt: skip
    assert soundctm(command) == 0
    output = capsys.readouterr().out
    assert "5 recordings of 2 s in all make 7 windows. 1 update will take about" in output
    card = (tmp_path / "dog" / "README.md").read_text()
    assert "license: cc0-1.0" in card and 'adapter_name="a_dog"' in card

    def refused(*more, recordings=str(recordings)):
        assert soundctm(["learn", recordings, "-o", str(tmp_path / "new"), *more]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and not (tmp_path / "new").exists()
        (line,) = captured.err.strip().splitlines()
        return line

    assert "needs the license" in refused("--name", "a dog", "--push-to-hub")
    assert "says nothing" in refused()
    assert "is empty" in refused("--name", " ")
    assert "is not a folder" in refused(recordings=str(tmp_path / "missing"))
    assert "pass it as --teacher" in refused("--name", "a dog", "--model", "other")
    monkeypatch.setattr("diffusers_soundctm.training.learning_arguments.EMBEDDED_TEACHER", tmp_path / "missing")
    assert "pass the folder training/embedded_teacher" in refused("--name", "a dog")


def test_a_teacher_of_another_model_is_refused(recordings, models, tmp_path):
    with pytest.raises(ValueError, match="is not the teacher of this model"):
        learn(tmp_path / "run", recordings=recordings, model=models("audioldm")[1], teacher=models("tango")[0],
              method="teacher", num_samples=5120)  # fmt: skip
