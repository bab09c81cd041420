"""Arguments of all training scripts: ranges, choices and presets are checked before any work and any slow import."""

import argparse
import json
import subprocess
import sys

import pytest

from diffusers_soundctm.distillation.objective import FEATURE_DISTANCES
from diffusers_soundctm.distillation.trajectories import DENOISING_LEVELS, DENOISING_TARGETS
from diffusers_soundctm.training import config
from diffusers_soundctm.training.optimizers import OPTIMIZERS
from diffusers_soundctm.training.ranges import CHOICES, RANGES, range_problems
from runs import SCRIPTS, SOURCES, load

REQUIRED = {
    "train_ctm": {"dataset_name": "d", "teacher_model": "t"},
    "train_teacher": {"dataset_name": "d", "vae": "v", "text_encoder": "t", "unet_config": "u"},
    "train_autoencoder": {"dataset_name": "d"},
    "train_vocoder": {"dataset_name": "d"},
    "train_control_heads": {"dataset_name": "d"},
    "precompute": {"dataset_name": "d", "teacher_model": "t"},
    "learn_sounds": {"recordings": "d"},
}
TRAINING = [script for script in REQUIRED if script.startswith("train_")]  # with the arguments of optimization


def argv(script, output_dir, **given):
    return [f"--{name}={value}" for name, value in {**REQUIRED[script], "output_dir": output_dir, **given}.items()]


WRONG = [
    *((script, name, value) for script in TRAINING for name, value in {
        "learning_rate": "inf", "ema_decay": "-3", "seed": "-1", "num_samples": "0",
        "lr_scheduler": "piecewise_constant", "max_grad_norm": "nan", "train_batch_size": "0",
        "checkpoints_total_limit": "0", "max_train_steps": "-1", "lr_warmup_steps": "-1", "sampling_rate": "0",
        "max_train_samples": "0",
    }.items()),
    *(("train_ctm", name, value) for name, value in {
        "mix_rate": "7", "target_sigma_min_rate": "5", "lora_rank": "0", "lora_alpha": "nan", "omega_max": "inf",
        "num_scales": "1", "sampler_rate": "-0.5", "caption_dropout": "1", "step_count_power": "nan",
        "validation_num_inference_steps": "0",
        "report_to": "papyrus", "adam_beta2": "1", "denoising_weight": "-1", "feature_distance": "lpips",
    }.items()),
    *(("train_teacher", name, value) for name, value in {
        "p_std": "nan", "sigma_data": "0", "sigma_max": "0.001", "caption_dropout": "-0.1",
    }.items()),
    *(("train_autoencoder", name, value) for name, value in {"kl_weight": "-1", "block_out_channels": "0"}.items()),
    *(("train_vocoder", name, value) for name, value in {
        "autoencoder_share": "2", "candidates": "0", "adversarial_start": "-1", "stft_weight": "inf",
    }.items()),
    *(("precompute", name, value) for name, value in {
        "shard_size": "0", "batch_size": "-1", "num_samples": "0",
    }.items()),
    *(("learn_sounds", name, value) for name, value in {
        "speed_semitones": "13", "prior_rate": "1", "prior_sounds": "-1", "consistency_weight": "nan",
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("script", "name", "value"), WRONG, ids=lambda value: str(value))
def test_values_without_meaning_are_refused_before_work(script, name, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        load(script).parse_args(argv(script, tmp_path / "run", **{name: value}))
    assert stopped.value.code == 2
    *_, message = capsys.readouterr().err.strip().splitlines()
    assert name in message and value in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("script", REQUIRED)
def test_every_number_has_a_range(script, tmp_path, monkeypatch):
    parsers = []
    parse = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(
        argparse.ArgumentParser, "parse_args", lambda self, given: (parsers.append(self), parse(self, given))[1]
    )
    args = load(script).parse_args(argv(script, tmp_path))
    numbers = {action.dest for action in parsers[0]._actions if action.type in (int, float)}
    assert numbers <= RANGES.keys()
    assert not list(range_problems(args))


def test_the_table_is_the_librarys():
    library = {"feature_distance": FEATURE_DISTANCES, "denoising_target": DENOISING_TARGETS,
               "denoising_levels": DENOISING_LEVELS, "optimizer": OPTIMIZERS}  # fmt: skip
    assert {name: set(CHOICES[name]) for name in library} == {name: set(values) for name, values in library.items()}


@pytest.mark.parametrize("scheduler", CHOICES["lr_scheduler"])
def test_every_schedule_can_be_built(scheduler):
    import torch
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 1e-4)
    assert get_scheduler(scheduler, optimizer, num_warmup_steps=2, num_training_steps=10).get_last_lr()[0] >= 0


@pytest.mark.parametrize("script", REQUIRED)
def test_wrong_arguments_need_no_torch(script, tmp_path):
    code = (
        "import runpy, sys\n"
        "class Refuse:\n    def find_spec(self, name, *more):\n"
        "        assert name.split('.')[0] not in ('torch', 'diffusers', 'transformers', 'accelerate'), name\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"sys.argv = ['{script}.py', *sys.argv[1:]]\n"
        f"runpy.run_path({str(SCRIPTS / f'{script}.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code, *argv(script, tmp_path / "run", num_samples="0")]
    ended = subprocess.run(command, env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.strip().splitlines()[-1].endswith("--num_samples is 0; give a finite number of at least 1")


def ours():
    raise ValueError("--output_dir run is a file; give a folder.")


def test_scripts_end_with_one_line_for_bad_input_and_a_traceback_for_bugs(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [__file__])
    with pytest.raises(SystemExit) as stopped:
        config.run_script(ours)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("error: --output_dir run is a file; give a folder.\n")
    with pytest.raises(ValueError, match="Expecting"):
        config.run_script(lambda: json.loads("[1"))


# Each value of the published recipes, and the kind of source that its comment names.
PUBLISHED = {
    "num_scales": (40, 40, "paper"),
    "trajectory_reuse": (1, 1, "release"),
    "solve_to_target": (False, False, "release"),
    "sampler_rate": (0.0, 0.0, "release"),
    "step_count_power": (1.0, 1.0, "release"),
    "target_sigma_min_rate": (0.0, 0.0, "release"),
    "omega_min": (2.0, 1.0, "release"),
    "omega_max": (5.0, 10.0, "release"),
    "caption_dropout": (0.1, 0.1, "release"),
    "feature_distance": ("full", "full", "release"),
    "match_point": ("zs", "zs", "release"),
    "denoising_weight": (1.0, 0.2, "release"),
    "denoising_target": ("data", "data", "release"),
    "adaptive_weight": (True, True, "release"),
    "branch_init": ("reference", "reference", "release"),
    "sample_posterior": (True, True, "release"),
    "mix_rate": (0.25, 3 / (21 + 3), "release"),
    "train_batch_size": (8 * (6 + 2), 8 * (21 + 3), "release"),
    "max_train_steps": (30000, 30000, "release"),
    "optimizer": ("radam", "radam", "release"),
    "learning_rate": (8e-5, 8e-5, "release"),
    "lr_scheduler": ("constant", "constant", "release"),
    "max_grad_norm": (1000.0, 1000.0, "release"),
    "ema_decay": (0.999, 0.999, "release"),
    "mixed_precision": ("bf16", "no", "release"),
    "teacher_precision": ("no", "no", "release"),
}


@pytest.mark.parametrize(("column", "name"), enumerate(["soundctm-16khz", "soundctm-44khz"]))
def test_presets_are_the_published_recipes_and_name_each_source(column, name):
    assert name in config.preset_names()
    assert config.load_preset(name) == {key: values[column] for key, values in PUBLISHED.items()}
    for line in (config.PRESETS_FOLDER / f"{name}.yaml").read_text().splitlines():
        if line and not line.startswith("#"):
            key, comment = line.split(":", 1)[0], line.split("#", 1)[1].strip()
            assert comment.startswith(f"{PUBLISHED[key][2]}: "), line
