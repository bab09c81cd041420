"""train_teacher.py and train_ctm.py on a tiny model: what they write, and that stopping changes nothing."""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffusers_soundctm import CTMUNet2DConditionModel, SoundCTMPipeline
from diffusers_soundctm.data import sampling
from diffusers_soundctm.distillation import losses
from diffusers_soundctm.training import loop
from diffusers_soundctm.training.output_folder import locked
from diffusers_soundctm.training.sharding import process_rows
from runs import SCRIPTS, SOURCES, distil, load, signalled
from training_inputs import write_dataset

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
STEPS = {"max_train_steps": 6, "train_batch_size": 4, "checkpointing_steps": 3, "mixed_precision": "no"}
# The checkpoint after step 3 lies in the middle of a trajectory that serves steps 2 and 3.
STUDENT = {**STEPS, "num_scales": 4, "trajectory_reuse": 2, "ema_decay": 0.9, "learning_rate": 1e-3}


def command(inputs, output_dir, **arguments):
    script = "train_ctm" if "teacher_model" in arguments else "train_teacher"
    unused = {"train_ctm": {"unet_config"}, "train_teacher": {"vocoder"}}[script]
    arguments = {**{k: v for k, v in inputs.items() if k not in unused}, **arguments, "output_dir": output_dir}
    return script, [f"--{name}={value}" for name, value in arguments.items()]


def train(inputs, output_dir, **arguments):
    script, argv = command(inputs, output_dir, **arguments)
    spec = importlib.util.spec_from_file_location(script, SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # accelerate keeps the first run's precision for the whole process.
    AcceleratorState._reset_state(reset_partial_state=True)
    module.main(argv)
    return Path(output_dir)


@pytest.fixture(scope="module")
def teacher(training_inputs, tmp_path_factory):
    return train(training_inputs, tmp_path_factory.mktemp("runs") / "teacher", **STEPS)


@pytest.fixture(scope="module")
def student(training_inputs, teacher, tmp_path_factory):
    return train(training_inputs, tmp_path_factory.mktemp("runs") / "student", teacher_model=teacher, **STUDENT)


def test_training_goes_on_from_a_students_weights(training_inputs, teacher, student, tmp_path):
    settings = {**STUDENT, "max_train_steps": 1, "learning_rate": 0.0, "lr_scheduler": "constant"}
    still = train(training_inputs, tmp_path, teacher_model=teacher, initial_unet=student / "unet", **settings)
    assert_same_weights(still, student)


@pytest.mark.parametrize("of", ["teacher", "nobody"])
def test_what_is_no_students_weights_is_refused(of, training_inputs, teacher, tmp_path):
    settings = {**STUDENT, "initial_unet": teacher / "unet" if of == "teacher" else tmp_path / "nobody"}
    with pytest.raises(ValueError, match=r"`initial_unet`.*CTMUNet2DConditionModel"):
        train(training_inputs, tmp_path / "run", teacher_model=teacher, **settings)
    assert not (tmp_path / "run").exists()


def resume_from_the_middle(inputs, finished, output_dir, **arguments):
    shutil.copytree(finished / "checkpoint-3", output_dir / "checkpoint-3")
    return train(inputs, output_dir, resume_from_checkpoint="latest", **arguments)


def assert_same_weights(folder, other, **tolerance):
    weights, others = load_file(folder / WEIGHTS), load_file(other / WEIGHTS)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        if tolerance:
            torch.testing.assert_close(tensor, others[name], **tolerance)
        else:
            assert torch.equal(tensor, others[name]), name


def test_teacher_folder(teacher):
    unet = UNet2DConditionModel.from_pretrained(teacher / "unet")
    assert all(parameter.isfinite().all() for parameter in unet.parameters())
    record = json.loads((teacher / "training.json").read_text())
    assert record["clips"] == 7
    assert record["skipped_steps"] == 0
    assert sorted(p.name for p in teacher.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]


@pytest.mark.parametrize("argument", ["push_to_hub", "validation_prompts"])
def test_what_makes_sounds_without_a_vocoder_is_refused_before_training(training_inputs, teacher, tmp_path, argument):
    makes_sounds = {
        "push_to_hub": {"push_to_hub": True, "hub_token": "hf_none", "hub_license": "mit", "hub_model_id": "me/ctm"},
        "validation_prompts": {"validation_prompts": ["rain"]},
    }
    silent = {name: value for name, value in training_inputs.items() if name not in ("vocoder", "unet_config")}
    with pytest.raises(ValueError, match=f"--{argument} needs a vocoder"):
        distil(tmp_path / "run", **{**silent, "teacher_model": teacher, **STUDENT, **makes_sounds[argument]})


def test_teacher_ends_after_too_many_steps_without_finite_gradient(training_inputs, tmp_path, monkeypatch):
    healthy, seen = losses.denoising_loss, []

    def poisoned(*given):
        seen.append(healthy(*given) * (math.nan if len(seen) in (0, 2, 3) else 1.0))
        return seen[-1]

    monkeypatch.setattr(losses, "denoising_loss", poisoned)
    with pytest.raises(FloatingPointError, match=r"2 steps in a row.*--learning_rate"):
        train(training_inputs, tmp_path, **STEPS, max_skipped_steps=2)
    state = torch.load(tmp_path / "checkpoint-3" / "state.pt", weights_only=True)
    assert all(tensor.isfinite().all() for name in ("unet", "ema") for tensor in state[name].values())


def test_student_folder_is_a_pipeline(student, teacher):
    pipe = SoundCTMPipeline.from_pretrained(student)
    pipe.set_progress_bar_config(disable=True)
    sound = pipe("rain on a tin roof", audio_length_in_s=0.32, guidance_scale=3.0).audios
    assert sound.shape[-1] == 5120
    assert list(pipe.config.guidance_scale_range) == [2.0, 5.0]
    before = load_file(teacher / WEIGHTS)
    after = load_file(student / WEIGHTS)
    assert not torch.equal(before["conv_in.weight"], after["conv_in.weight"])


def test_a_flow_teacher_is_trained_and_distilled(training_inputs, tmp_path):
    few = {"max_train_steps": 2}
    teacher = train(training_inputs, tmp_path / "teacher", **STEPS | few, prediction_type="flow")
    student = train(training_inputs, tmp_path / "student", teacher_model=teacher, **STUDENT | few)
    pipe = SoundCTMPipeline.from_pretrained(student)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.prediction_type == pipe.unet.config.prediction_type == "flow"
    assert pipe.scheduler.config.sigma_max == 80
    assert pipe("rain on a tin roof", audio_length_in_s=0.32, guidance_scale=3.0).audios.std() > 0


def test_resumed_teacher_equals_one_never_stopped(training_inputs, teacher, tmp_path):
    assert_same_weights(resume_from_the_middle(training_inputs, teacher, tmp_path, **STEPS), teacher)


def test_runs_of_teachers_do_not_mix(training_inputs, teacher, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    with pytest.raises(ValueError, match="has checkpoints of an earlier run"):
        train(training_inputs, folder, **STEPS)
    with pytest.raises(ValueError, match=r"another run.*p_mean -1\.2, now 0\.6"):
        train(training_inputs, folder, **STEPS, p_mean=0.6, resume_from_checkpoint="latest")
    before = json.loads((folder / "training.json").read_text())
    longer = train(training_inputs, folder, **{**STEPS, "max_train_steps": 7}, resume_from_checkpoint="latest")
    assert json.loads((longer / "training.json").read_text())["losses"] == pytest.approx(before["losses"], rel=0.1)


def test_a_run_is_not_resumed_with_other_captions(training_inputs, teacher, tmp_path):
    write_dataset(tmp_path / "other", caption="a drum")
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"another run \(data [0-9a-f]+, now [0-9a-f]+\).*the data"):
        other = {**training_inputs, "dataset_name": str(tmp_path / "other")}
        train(other, folder, **STEPS, resume_from_checkpoint="latest")


def test_a_folder_in_use_is_refused(training_inputs, tmp_path):
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="in use by another run"):
        train(training_inputs, tmp_path / "run", **STEPS)


@pytest.mark.parametrize("steps", [2, 3])  # at the end, and before a checkpoint
def test_weights_that_are_not_finite_are_never_saved(training_inputs, tmp_path, monkeypatch, steps):
    monkeypatch.setattr(loop, "ema_update", lambda average, model, decay: next(average.parameters()).fill_(math.inf))
    with pytest.raises(FloatingPointError, match=r"no longer finite.*smaller --learning_rate"):
        train(training_inputs, tmp_path, **{**STEPS, "max_train_steps": steps})
    assert {path.name for path in tmp_path.iterdir()} == {"settings.json", "scheduler"}


def test_a_script_ends_with_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "run").write_text("a file")
    command = [sys.executable, SCRIPTS / "train_autoencoder.py", "--dataset_name=d", f"--output_dir={tmp_path / 'run'}"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)})
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1] == (
        f"train_autoencoder.py: error: --output_dir {tmp_path / 'run'} is a file; give a folder."
    )
    assert "Traceback" not in ended.stderr


def test_a_folder_without_a_checkpoint_yet_is_begun_again(training_inputs, tmp_path):
    (tmp_path / "scheduler").mkdir()
    train(training_inputs, tmp_path, **{**STEPS, "max_train_steps": 1})
    assert (tmp_path / WEIGHTS).is_file()


def test_a_teacher_stopped_by_a_signal_and_resumed_equals_one_never_stopped(
    training_inputs, teacher, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "step_generator", signalled(sampling.step_generator, step=3))
        train(training_inputs, tmp_path, **STEPS)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}
    assert not (tmp_path / "training.json").exists()
    resumed = train(training_inputs, tmp_path, resume_from_checkpoint="latest", **STEPS)
    assert_same_weights(resumed, teacher)


def test_resumed_student_equals_one_never_stopped(training_inputs, teacher, student, tmp_path):
    resumed = resume_from_the_middle(training_inputs, student, tmp_path, teacher_model=teacher, **STUDENT)
    assert_same_weights(resumed, student)


def test_a_student_of_the_papers_objective_resumes_too(training_inputs, teacher, student, tmp_path):
    config = tmp_path / "paper.yaml"
    lines = ["solve_to_target: false", "sampler_rate: 0", "denoising_target: data", "adaptive_weight: true",
             "feature_distance: full"]  # fmt: skip
    config.write_text("\n".join(lines))
    settings = {**STUDENT, "teacher_model": teacher, "config": config}
    whole = train(training_inputs, tmp_path / "whole", **settings)
    resumed = resume_from_the_middle(training_inputs, whole, tmp_path / "resumed", **settings)
    assert_same_weights(resumed, whole)
    assert not torch.equal(load_file(whole / WEIGHTS)["conv_in.weight"], load_file(student / WEIGHTS)["conv_in.weight"])


def test_zero_branch_starts_at_the_teacher(training_inputs, teacher, tmp_path):
    arguments = {
        **STUDENT,
        "max_train_steps": 1,
        "learning_rate": 0.0,
        "branch_init": "zero",
        "mixed_precision": "bf16",
    }
    folder = train(training_inputs, tmp_path, teacher_model=teacher, feature_distance="half", **arguments)
    unet = CTMUNet2DConditionModel.from_pretrained(folder / "unet")
    before = load_file(teacher / WEIGHTS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items() if name in before)
    assert unet.time_embedding.guidance_proj.weight.abs().max() == 0


def test_checkpoint_of_another_script_is_refused(training_inputs, teacher, tmp_path):
    shutil.copytree(teacher / "checkpoint-3", tmp_path / "checkpoint-3")
    state = torch.load(tmp_path / "checkpoint-3" / "state.pt", weights_only=True)
    torch.save({"step": 3, "vae": state["unet"]}, tmp_path / "checkpoint-3" / "state.pt")
    with pytest.raises(ValueError, match="another training script"):
        train(training_inputs, tmp_path, resume_from_checkpoint="latest", **STEPS)


@pytest.mark.parametrize(
    "arguments, complaint",
    [({"num_scales": 1}, "--num_scales"), ({"omega_min": 6}, "--omega_min"), ({"feature_distance": "lpips"}, "lpips")],
)
def test_bad_arguments_end_before_work(training_inputs, tmp_path, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as exit_info:
        train(training_inputs, tmp_path, teacher_model=tmp_path, **arguments)
    assert exit_info.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_teacher_of_another_rate_is_refused(training_inputs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train(training_inputs, tmp_path, **STEPS, sampling_rate=22050)
    assert "--sampling_rate is 22050" in capsys.readouterr().err


def parse_file(tmp_path, text, script="train_ctm"):
    (tmp_path / "run.yaml").write_text(text)
    needed = [f"--{name}=given" for name in ("dataset_name", "output_dir")]
    needed += {"train_ctm": ["--teacher_model=given"], "train_teacher": ["--vae=given", "--text_encoder=given"]}[script]
    return load(script).parse_args([*needed, f"--config={tmp_path / 'run.yaml'}"])


@pytest.mark.parametrize(
    "line, remedy",
    [
        ("match_point: z_0", "match_point is 'z_0'; give one of 'zs', 'z0'"),
        ("mixed_precision: no", "mixed_precision is False; give one of 'no', 'bf16', 'fp16', in quotes"),
        ("validation_prompts: rain", "validation_prompts is 'rain'; give a list"),
        ("validation_num_inference_steps: [1, two]", "give a whole number"),
        ("train_batch_size: 16.0", "train_batch_size is 16.0; give a whole number"),
        ("train_batch_size: true", "train_batch_size is True; give a whole number"),
        ("seed: null", "seed is None; give a whole number"),
        ("learning_rate: fast", "learning_rate is 'fast'; give a number"),
        ("gradient_checkpointing: 1", "gradient_checkpointing is 1; give true or false"),
        ("hub_model_id: [a]", "hub_model_id is ['a']; give text"),
        ("preset: soundctm-8khz", "preset is 'soundctm-8khz'; give one of 'soundctm-16khz', 'soundctm-44khz'"),
        ("4: 5", "unknown keys: 4"),
    ],
)
def test_values_of_the_file_are_checked_as_those_of_the_command_line(tmp_path, capsys, line, remedy):
    with pytest.raises(SystemExit) as exit_info:
        parse_file(tmp_path, line)
    assert exit_info.value.code == 2
    assert remedy in capsys.readouterr().err


def test_values_of_the_file_become_what_the_command_line_gives(tmp_path):
    lines = ["learning_rate: 5e-4", "denoising_weight: 1", "max_grad_norm: 5.0e+2", "seed: '3'",
             "tracker_project_name: 7", "validation_prompts: [rain, 5]", "solve_to_target: true", "trajectory_reuse: 2",
             "lora_rank: null", "checkpoints_total_limit: null"]  # fmt: skip
    args = parse_file(tmp_path, "\n".join(lines))
    assert (args.learning_rate, args.denoising_weight, args.max_grad_norm) == (5e-4, 1.0, 500.0)
    assert isinstance(args.denoising_weight, float)
    assert (args.seed, args.tracker_project_name, args.validation_prompts) == (3, "7", ["rain", "5"])
    assert (args.solve_to_target, args.lora_rank, args.checkpoints_total_limit) == (True, None, None)
    unet = parse_file(tmp_path, "unet_config: {in_channels: 8}", "train_teacher").unet_config
    assert unet == {"in_channels": 8}


def test_processes_share_a_batch():
    processes = [SimpleNamespace(num_processes=3, process_index=index) for index in range(3)]
    assert [list(range(6))[process_rows(6, process)] for process in processes] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match=r"--train_batch_size 4 .* multiple of 3"):
        process_rows(4, processes[0])


@pytest.mark.slow
def test_two_processes_train_the_same_teacher(training_inputs, teacher, tmp_path):
    script, argv = command(training_inputs, tmp_path, **STEPS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*launch, SCRIPTS / f"{script}.py", *argv], check=True, env=environment, timeout=600)
    assert json.loads((tmp_path / "training.json").read_text())["processes"] == 2
    assert_same_weights(tmp_path, teacher, rtol=1e-3, atol=2e-5)
