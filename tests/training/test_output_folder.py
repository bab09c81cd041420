"""The folder of a run: what is refused, and that one run at a time writes to it."""

import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator

from diffusers_soundctm.training.identity import data_fingerprint, run_identity
from diffusers_soundctm.training.loop import check_finite
from diffusers_soundctm.training.output_folder import LOCK_FILE, check_output_dir, locked
from runs import SOURCES, load

HOLD = "import sys\nfrom diffusers_soundctm.training.output_folder import locked\n" \
       "with locked(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()"  # fmt: skip


def test_two_runs_do_not_share_a_folder_and_death_releases_it(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], env={"PYTHONPATH": str(SOURCES)},
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"in use by another run.*another folder"), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert (tmp_path / LOCK_FILE).exists()  # left by the dead, held by nobody
    with locked(tmp_path):
        pass
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    with locked(tmp_path / "new" / "run"):
        pass
    assert not (tmp_path / "new" / "run").exists()


@pytest.mark.parametrize("model", ["unet", "transformer", "vae", "vocoder", "pytorch_lora_weights.safetensors"])
@pytest.mark.parametrize("checkpoint", [None, "latest"])
def test_a_finished_model_without_checkpoints_is_not_overwritten(tmp_path, model, checkpoint):
    (tmp_path / "training.json").write_text("{}")
    (tmp_path / model).mkdir()
    with pytest.raises(ValueError, match=rf"holds a model \(.*{model}.*another folder"):
        check_output_dir(tmp_path, checkpoint)
    (tmp_path / "checkpoint-3").mkdir()
    check_output_dir(tmp_path, "latest")


def test_weights_that_are_not_finite_are_not_saved():
    net = torch.nn.Linear(2, 2)
    check_finite(Accelerator(cpu=True), [net])
    net.weight.data[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match="smaller --learning_rate"):
        check_finite(Accelerator(cpu=True), [net])


def test_identity_holds_all_that_changes_an_update(tmp_path):
    needed = ["--dataset_name=d", "--teacher_model=t", f"--output_dir={tmp_path}"]
    parse = load("train_ctm").parse_args

    def differs(argument, **fingerprints):
        before = run_identity(parse(needed), data="a")
        after = run_identity(parse([*needed, argument]), **{"data": "a", **fingerprints})
        return before != after

    for argument in ("--feature_distance=l2", "--match_point=z0 --feature_distance=full", "--denoising_weight=0.5",
                     "--denoising_levels=uniform", "--adaptive_weight", "--seed=1", "--num_samples=7",
                     "--adam_beta2=0.9", "--ema_decay=0.5", "--branch_init=reference", "--lora_rank=2"):  # fmt: skip
        assert run_identity(parse(needed)) != run_identity(parse([*needed, *argument.split()])), argument
    for argument in ("--max_train_steps=7", "--learning_rate=1e-5", "--cache_dir=c", "--hub_token=secret",
                     "--gradient_accumulation_steps=2", "--validation_steps=2"):  # fmt: skip
        assert not differs(argument), argument
    assert differs("--seed=0", data="b")


def test_fingerprint_of_clips_holds_waveforms_lengths_and_captions():
    import dataclasses

    import numpy as np

    from diffusers_soundctm.data import Clips

    clips = Clips(np.ones((2, 8), np.int16), [["rain"], ["wind"]], None, [])
    others = [
        dataclasses.replace(clips, captions=[["rain"], ["a dog"]]),
        dataclasses.replace(clips, waveforms=np.ones((2, 9), np.int16)),
        dataclasses.replace(clips, waveforms=np.eye(2, 8, dtype=np.int16)),
    ]
    prints = [data_fingerprint(data) for data in (clips, *others)]
    assert len(set(prints)) == 4 and data_fingerprint(dataclasses.replace(clips)) == prints[0]
