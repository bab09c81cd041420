"""train_control_heads.py: heads from clips and from the model's own sounds, resumed runs, and clear errors."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from diffusers_soundctm.control import LatentHeads
from diffusers_soundctm.data import sampling
from runs import signalled

SCRIPT = Path(__file__).parents[2] / "training" / "train_control_heads.py"
STEPS = {"max_train_steps": 4, "checkpointing_steps": 2, "train_batch_size": 2, "hidden_size": 8, "num_layers": 1}


def train(inputs, pipeline, output_dir, **arguments):
    spec = importlib.util.spec_from_file_location("train_control_heads", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shared = {"num_samples": inputs["num_samples"], "pipeline": pipeline, "output_dir": output_dir}
    argv = [text for name, value in {**STEPS, **shared, **arguments}.items() for text in (f"--{name}", str(value))]
    module.main(argv)
    return LatentHeads.from_pretrained(output_dir / "control_heads")


def test_clips_and_resumed_runs_give_the_same_heads(training_inputs, embedded_folder, tmp_path, monkeypatch):
    data = {name: training_inputs[name] for name in ("dataset_name", "cache_dir")}
    heads = train(training_inputs, embedded_folder, tmp_path / "run", **data)
    assert heads.config.in_channels == 128 and heads.config.frames_per_position == 4
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["loudness_error_db"]["0.002"] > 0 and set(record["losses"]) >= {"loudness", "pitch"}
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "step_generator", signalled(sampling.step_generator, step=2))
        train(training_inputs, embedded_folder, tmp_path / "stopped", **data, checkpointing_steps=100)
    assert not (tmp_path / "stopped" / "training.json").exists()
    resumed = train(training_inputs, embedded_folder, tmp_path / "stopped", **data, resume_from_checkpoint="latest")
    for name, tensor in heads.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_captions_suffice(training_inputs, embedded_folder, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog barks\nrain on a tin roof\n")
    heads = train(training_inputs, embedded_folder, tmp_path / "run", captions=tmp_path / "captions.txt")
    readings = heads(torch.randn(1, 8, 8, 16), torch.tensor(1.0))
    assert readings["loudness"].shape == (1, 32) and readings["loudness"].isfinite().all()


def test_one_source_of_sounds_is_needed(tmp_path, capsys):
    for arguments in ({}, {"dataset_name": "d", "captions": "c.txt"}):
        with pytest.raises(SystemExit):
            train({"num_samples": "5120"}, "p", tmp_path, **arguments)
        assert "give one of --dataset_name and --captions" in capsys.readouterr().err
