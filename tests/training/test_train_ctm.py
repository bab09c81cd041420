"""train_ctm.py: every family becomes a pipeline; its options; what it refuses before the first step."""

import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from safetensors.torch import load_file

from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.training.config import load_preset, preset_names
from diffusers_soundctm.training.preflight import check_processes, choose_precision, make_accelerator
from runs import SCRIPTS, SOURCES, arguments, distil, load, start
from tiny_teachers import FAMILIES, make_teacher

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def dataset(training_inputs):
    return {"dataset_name": training_inputs["dataset_name"]}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, tiny_pipeline):
    """`teachers(family)` → folder of a tiny teacher, made at the first call."""
    root = tmp_path_factory.mktemp("teachers")

    def folder(family):
        if not (root / family).exists():
            make_teacher(family, root / family, tiny_pipeline)
        return root / family

    return folder


@pytest.fixture(scope="module")
def inputs(dataset, teachers, tmp_path_factory):
    """Arguments of a run on the tiny AudioLDM."""
    cache = tmp_path_factory.mktemp("cache")
    return {**dataset, "teacher_model": teachers("audioldm"), "num_samples": 5120, "cache_dir": cache}


DEFAULTS = {"mixed_precision": None}  # the script's own choice, which depends on what the teacher predicts


def length_of(family):
    lengths = {"stable_audio": 40 * 32, "stable_audio_3": 50 * 32, "longcat": 50 * 32, "ace_step": 3 * 1920}
    return lengths.get(family, 5120)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_becomes_a_pipeline(family, dataset, teachers, tmp_path):
    run = {**dataset, "teacher_model": teachers(family), "num_samples": length_of(family), **DEFAULTS}
    folder, length = distil(tmp_path, **run), length_of(family)
    pipe = SoundCTMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    sound = pipe("rain on a tin roof", num_inference_steps=2, guidance_scale=3.0).audios
    assert sound.shape == (1, 2 if family in ("stable_audio", "stable_audio_3", "ace_step") else 1, length)
    assert sound.std() > 0
    assert list(pipe.config.guidance_scale_range) == [2.0, 5.0]
    record = json.loads((folder / "training.json").read_text())
    assert record["skipped_steps"] == 0 and record["losses"]["ctm"] > 0
    precise = pipe.scheduler.config.prediction_type == "epsilon" or family == "stable_audio_3"
    assert record["arguments"]["mixed_precision"] == ("no" if precise else "bf16")
    component = "unet" if pipe.transformer is None else "transformer"
    student = load_file(folder / component / "diffusion_pytorch_model.safetensors")
    start = pipe.denoiser.from_config(pipe.denoiser.config).state_dict()
    assert student.keys() == start.keys()


def test_captions_alone_are_enough(inputs, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("\ufeffrain on a tin roof\n\na dog barks\na church bell\n", encoding="utf-8")
    given = {name: value for name, value in inputs.items() if name != "dataset_name"}
    folder = distil(tmp_path / "run", **given, captions=captions)
    record = json.loads((folder / "training.json").read_text())
    assert record["clips"] == 3 and record["losses"]["dsm"] > 0
    assert SoundCTMPipeline.from_pretrained(folder)("rain").audios.std() > 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"dataset_name": "clips"}, "either --dataset_name, or --captions"),
        ({"denoising_target": "data"}, "--denoising_target data needs clips"),
        ({"mix_rate": 0.5}, "--mix_rate needs clips"),
        ({"trajectory_reuse": 1}, "--trajectory_reuse 1"),
        ({"captions": "missing.txt"}, "missing.txt is not a file"),
        ({"sampler_rate": 1.5}, "--sampler_rate is 1.5"),
        ({"match_point": "z0"}, "--match_point z0"),
    ],
)
def test_what_captions_alone_cannot_do_is_refused(wrong, named, inputs, tmp_path, capsys):
    captions = tmp_path / "captions.txt"
    captions.write_text("rain\n", encoding="utf-8")
    given = {name: value for name, value in inputs.items() if name != "dataset_name"}
    with pytest.raises(SystemExit) as stopped:
        distil(tmp_path / "run", **{**given, "captions": captions, **wrong})
    assert stopped.value.code == 2 and named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_trajectories_are_compared_with_the_teachers_while_training(inputs, tmp_path, capsys):
    given = {**inputs, "validation_trajectory_prompts": ["rain", "a dog barks"], "validation_steps": 2}
    distil(tmp_path / "watched", **given, max_train_steps=4, report_to="tensorboard")
    found = re.findall(
        r"step (\d): distance/1 steps \S+, .*distance/16 steps \S+, effective_guidance/", capsys.readouterr().out
    )
    assert found == ["2", "4"]
    distil(tmp_path / "plain", **inputs, max_train_steps=4)
    watched, plain = (load_file(tmp_path / run / WEIGHTS) for run in ("watched", "plain"))
    for name, tensor in plain.items():
        torch.testing.assert_close(watched[name], tensor, rtol=0, atol=0)


def test_a_guided_run_against_clips_says_what_it_loses(inputs, tmp_path, capsys):
    distil(tmp_path / "clips", **inputs, denoising_target="data")
    assert "many steps lose guidance" in " ".join(capsys.readouterr().out.split())
    distil(tmp_path / "teacher", **inputs)
    assert "lose guidance" not in capsys.readouterr().out


def test_accumulation_changes_memory_and_not_the_result(inputs, tmp_path):
    plain = {**inputs, "train_batch_size": 4, "adaptive_weight": False}
    whole = distil(tmp_path / "whole", **plain)
    parts = distil(tmp_path / "parts", **plain, gradient_accumulation_steps=2)
    theirs = load_file(parts / WEIGHTS)
    for name, tensor in load_file(whole / WEIGHTS).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)


def test_options_of_optimization_and_reports(inputs, teachers, tmp_path):
    folder = distil(
        tmp_path,
        **{**inputs, "teacher_model": teachers("tango")},
        optimizer="adamw",
        adam_weight_decay=0.1,
        lr_scheduler="cosine",
        gradient_checkpointing=True,
        mixed_precision="bf16",
        teacher_precision="no",
        omega=3.0,
        adaptive_weight=True,
        feature_distance="half",
        match_point="z0",
        report_to="tensorboard",
        validation_prompts=["rain", "a dog barks"],
        validation_steps=2,
        validation_num_inference_steps=[1, 2],
    )
    samples = {path.name for path in (folder / "samples" / "step-2").iterdir()}
    sounds = {f"{prompt}-{steps}steps.wav" for prompt in (0, 1) for steps in (1, 2)}
    assert samples == sounds | {"spectrograms.png"}
    assert list((folder / "logs").rglob("events.*"))
    settings = json.loads((folder / "training.json").read_text())["arguments"]
    assert (settings["omega_min"], settings["omega_max"]) == (3.0, 3.0)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_trackers_get_losses_and_the_files_of_the_sounds(tracker, inputs, tmp_path, monkeypatch):
    pytest.importorskip(tracker)
    reports = tmp_path / "reports"
    reports.mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(reports))
    monkeypatch.setenv("TRACKIO_DIR", str(reports))
    validation = {"validation_prompts": ["rain"], "validation_steps": 2, "validation_num_inference_steps": [1, 2]}
    run = start(tmp_path / "run", **inputs, report_to=tracker, **validation)  # trackio reads its folder when imported
    output, _ = run.communicate()
    assert run.returncode == 0, output

    def contents(folder, *suffixes):
        return sorted(path.read_bytes() for path in folder.rglob("*") if path.suffix in suffixes)

    made = contents(tmp_path / "run" / "samples", ".wav", ".png")
    assert contents(reports, ".wav", ".png") == made and len(made) == 3
    (history,) = contents(reports, ".wandb", ".db")
    assert all(name in history for name in (b"ctm", b"dsm", b"adaptive_weight"))


def test_the_solver_cannot_go_to_the_target_without_whole_trajectories(capsys):
    with pytest.raises(SystemExit):
        load("train_ctm").parse_args(
            ["--dataset_name=d", "--teacher_model=t", "--output_dir=o", "--trajectory_reuse=1"]
        )
    assert "--trajectory_reuse 2 or more" in capsys.readouterr().err


def test_presets_lie_between_file_and_defaults(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("preset: soundctm-44khz\nomega_max: 7\n")
    parse = load("train_ctm").parse_args
    needed = ["--dataset_name=d", "--teacher_model=t", "--output_dir=o"]
    args = parse([*needed, f"--config={config}", "--train_batch_size=8"])
    assert (args.omega_min, args.omega_max, args.denoising_weight) == (1.0, 7, 0.2)
    assert (args.train_batch_size, args.max_train_steps) == (8, 30000)
    for name in preset_names():  # every key is an argument
        parsed, preset = vars(parse([*needed, f"--preset={name}"])), load_preset(name)
        assert {key: parsed[key] for key in preset} == preset


@pytest.mark.parametrize(
    "wrong, complaints",
    [
        ({"train_batch_size": 3, "gradient_accumulation_steps": 2}, ["not divisible by 1 × 2"]),
        ({"num_samples": 5000}, ["not a multiple of 1280", "= 5120"]),
        ({"sampling_rate": 44100}, ["not the teacher's 16000 Hz"]),
        ({"mixed_precision": "fp16", "use_8bit_adam": True}, ["fp16 needs a CUDA GPU", "pass --optimizer adamw"]),
        ({"mixed_precision": "bf16"}, ["predicts epsilon", "wrong by 126%", "Pass --mixed_precision no"]),
        ({"teacher_precision": "bf16"}, ["--teacher_precision bf16", "Pass --teacher_precision no"]),
        ({"use_8bit_adam": True}, ["pass --optimizer adamw"]),
        ({"caption_column": "lyrics"}, ["'lyrics' is not in data set"]),
        ({"checkpoints_total_limit": 10**9}, ["GB are free"]),
        ({"resume_from_checkpoint": "nowhere"}, ["nowhere is not a folder"]),
    ],
)
def test_wrong_runs_end_before_the_first_step(inputs, tmp_path, wrong, complaints):
    with pytest.raises(ValueError) as error:
        distil(tmp_path / "out", **{**inputs, **wrong})
    assert all(complaint in str(error.value) for complaint in complaints), error.value
    assert not (tmp_path / "out" / "unet").exists()


@pytest.mark.parametrize(
    ("scheduler", "given", "chosen"),
    [
        ({"prediction_type": "epsilon"}, (None, None), ("no", "no")),
        ({"prediction_type": "epsilon", "sigma_max": 1.0}, (None, None), ("bf16", "bf16")),
        ({"prediction_type": "v_prediction"}, (None, None), ("bf16", "bf16")),
        ({}, (None, "no"), ("bf16", "no")),
        ({}, ("no", None), ("no", "no")),
    ],
)
def test_the_precision_that_is_chosen_depends_on_what_the_teacher_predicts(scheduler, given, chosen):
    args = SimpleNamespace(mixed_precision=given[0], teacher_precision=given[1])
    choose_precision(args, CTMScheduler(**scheduler))
    assert (args.mixed_precision, args.teacher_precision) == chosen


def test_a_network_that_amplifies_rounding_is_trained_in_float32():
    scheduler = CTMScheduler(sigma_min=0.01, sigma_max=492.7, prediction_type="flow")
    config = {"use_differential_attention": True}
    args = SimpleNamespace(mixed_precision=None, teacher_precision=None)
    choose_precision(args, scheduler, config)
    assert (args.mixed_precision, args.teacher_precision) == ("no", "no")
    choose_precision(SimpleNamespace(mixed_precision="fp16", teacher_precision=None), scheduler, config)
    with pytest.raises(ValueError, match=r"amplifies rounding errors.*wrong by 7%.*Pass --mixed_precision no"):
        choose_precision(SimpleNamespace(mixed_precision="bf16", teacher_precision=None), scheduler, config)


def test_folders_with_other_content_are_refused(inputs, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"something else \(thesis\.tex\)"):
        distil(tmp_path, **inputs)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_finished_run_is_not_overwritten_by_accident(inputs, tmp_path):
    distil(tmp_path, **inputs, checkpointing_steps=2)
    with pytest.raises(ValueError, match="--resume_from_checkpoint latest"):
        distil(tmp_path, **inputs)


def test_checkpoints_of_another_run_are_refused(inputs, teachers, tmp_path):
    distil(tmp_path / "first", **inputs, checkpointing_steps=2)
    again = {**inputs, "resume_from_checkpoint": "latest", "max_train_steps": 3}
    for name in ("seed", "tango"):
        shutil.copytree(tmp_path / "first" / "checkpoint-2", tmp_path / name / "checkpoint-2")
    with pytest.raises(ValueError, match=r"another run.*seed 0, now 1"):
        distil(tmp_path / "seed", **again, seed=1)
    with pytest.raises(ValueError, match=r"another run.*teacher [0-9a-f]+, now"):
        distil(tmp_path / "tango", **{**again, "teacher_model": teachers("tango")})
    state = tmp_path / "first" / "checkpoint-2" / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(ValueError, match="is damaged"):
        distil(tmp_path / "first", **again)


def test_an_adapter_turns_the_teacher_into_its_soundctm(inputs, tmp_path):
    run = {**inputs, "lora_rank": 2, "lora_alpha": 3, "checkpointing_steps": 1}
    folder = distil(tmp_path, **run)
    file = folder / "pytorch_lora_weights.safetensors"
    assert not (folder / "unet").exists() and not (folder / "model_index.json").exists()
    pipe = SoundCTMPipeline.from_teacher(inputs["teacher_model"])
    pipe.set_progress_bar_config(disable=True)
    start = pipe.unet.conv_out.weight.clone()
    pipe.load_lora_weights(folder)
    assert pipe("rain on a tin roof").audios.shape == (1, 1, 10240)
    trained = load_file(file)
    assert any(tensor.abs().max() > 0 for name, tensor in trained.items() if "lora_B" in name)
    assert trained["ctm.time_embedding.guidance_proj.weight"].abs().max() > 0
    assert torch.equal(pipe.unet.conv_out.weight, start)

    shutil.copytree(folder / "checkpoint-1", tmp_path / "again" / "checkpoint-1")
    again = distil(tmp_path / "again", **run, resume_from_checkpoint="latest")
    for name, tensor in load_file(again / file.name).items():
        assert torch.equal(tensor, trained[name]), name


# accelerate allows FSDP only on GPUs, torch also on CPUs: here the CPU passes for a GPU.
FSDP_ON_CPU = """
import runpy, sys
from accelerate import state
plain = state.AcceleratorState.__init__
def init(self, *args, fsdp_plugin=None, **kwargs):
    plain(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = state.DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
state.AcceleratorState.__init__ = init
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def distil_on_two_processes(configuration, output_dir, **given):
    """Run the script with `accelerate launch --config_file configuration`, on two CPU processes over gloo."""
    file = SCRIPTS / "configs" / "accelerate" / f"{configuration}.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, "--num_processes", "2",
              "--main_process_port", "0"]  # fmt: skip
    script = [SCRIPTS / "train_ctm.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(SOURCES)}
    if configuration.startswith("fsdp2"):
        wrapper = output_dir.with_name("fsdp_on_cpu.py")
        wrapper.write_text(FSDP_ON_CPU)
        script = [wrapper, *script]
    command = [*launch, *script, *arguments(**given, output_dir=output_dir)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads((output_dir / "training.json").read_text())["processes"] == 2
    return output_dir


TWENTY = {"max_train_steps": 20, "train_batch_size": 4, "learning_rate": 1e-4, "ema_decay": 0.9,
          "checkpointing_steps": 10}  # fmt: skip


@pytest.fixture(scope="module")
def alone(inputs, tmp_path_factory):
    return distil(tmp_path_factory.mktemp("alone") / "run", **inputs, **TWENTY)


def assert_same_run(folder, other):
    losses = [json.loads((path / "training.json").read_text())["losses"] for path in (folder, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_same_weights(folder, other)


def assert_same_weights(folder, other):
    weights, others = (load_file(path / WEIGHTS) for path in (folder, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", ["ddp", "fsdp2", "fsdp2_zero2"])
def test_two_processes_have_the_losses_of_one(configuration, inputs, alone, tmp_path):
    assert_same_run(distil_on_two_processes(configuration, tmp_path / "both", **inputs, **TWENTY), alone)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_becomes_a_pipeline_on_two_processes(family, dataset, teachers, tmp_path):
    run = {**dataset, "teacher_model": teachers(family), "num_samples": length_of(family), **DEFAULTS}
    folder = distil_on_two_processes("ddp", tmp_path / "run", **run, max_train_steps=1)
    pipe = SoundCTMPipeline.from_pretrained(folder)
    assert pipe("rain on a tin roof", num_inference_steps=2).audios.std() > 0


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_any_number_of_processes(inputs, alone, tmp_path):
    run = {**inputs, **TWENTY, "resume_from_checkpoint": "latest"}
    shutil.copytree(alone / "checkpoint-10", tmp_path / "split" / "checkpoint-10")
    split = distil_on_two_processes("fsdp2", tmp_path / "split", **run)
    assert_same_weights(split, alone)
    shutil.copytree(split / "checkpoint-20", tmp_path / "joined" / "checkpoint-20")
    shutil.copytree(alone / "checkpoint-20", tmp_path / "never split" / "checkpoint-20")
    longer = {**run, "max_train_steps": 25}
    folders = [distil(tmp_path / name, **longer) for name in ("joined", "never split")]
    assert_same_weights(*folders)


@pytest.mark.slow
def test_an_adapter_is_trained_on_shards(inputs, teachers, tmp_path):
    run = {**inputs, "teacher_model": teachers("tango"), **TWENTY, "max_train_steps": 3, "lora_rank": 2,
           "mixed_precision": "bf16",
           "gradient_accumulation_steps": 2, "gradient_checkpointing": True,
           "validation_prompts": ["rain"], "validation_steps": 3}  # fmt: skip
    both = distil_on_two_processes("fsdp2", tmp_path / "both", **run)
    file = "pytorch_lora_weights.safetensors"
    theirs = load_file(both / file)
    assert len(list((both / "samples" / "step-3").glob("*.wav"))) == 3
    for name, tensor in load_file(distil(tmp_path / "alone", **run) / file).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0.1, atol=1e-3)


def test_processes_wait_for_a_large_data_set():
    assert make_accelerator(cpu=True).init_handler.timeout.total_seconds() >= 24 * 3600


@pytest.mark.parametrize(
    "kind, plugin, environment, complaint",
    [
        ("DEEPSPEED", None, {}, r"DEEPSPEED updates the weights itself.*fsdp2_zero2\.yaml"),
        ("FSDP", SimpleNamespace(fsdp_version=1), {}, "set fsdp_version: 2"),
        ("FSDP", SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=True), {}, "leaves the text encoder empty"),
        (
            "FSDP",
            SimpleNamespace(fsdp_version=2, cpu_ram_efficient_loading=False),
            {},
            "use_8bit_adam does not support",
        ),
        ("MULTI_CPU", None, {"ACCELERATE_USE_FSDP": "true"}, "supports FSDP only with GPUs"),
    ],
)
def test_unfit_ways_to_share_the_work_are_refused(kind, plugin, environment, complaint, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    accelerator = SimpleNamespace(distributed_type=DistributedType(kind), state=SimpleNamespace(fsdp_plugin=plugin))
    with pytest.raises(ValueError, match=complaint):
        check_processes(accelerator, use_8bit_adam=True)
