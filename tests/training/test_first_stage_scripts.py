"""train_autoencoder.py and train_vocoder.py on tiny models: what they write, and that stopping changes nothing."""

import importlib.util
import json
import math
import shutil
from itertools import count
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import log_mel
from diffusers_soundctm.data import sampling
from diffusers_soundctm.training import first_stage_losses
from runs import signalled

SCRIPTS = Path(__file__).parents[2] / "training"
STEPS = {"max_train_steps": 4, "checkpointing_steps": 2, "train_batch_size": 2, "num_frames": 16}
SIZES = {
    "autoencoder": {"block_out_channels": [8, 8], "norm_num_groups": 4, "latent_channels": 4},
    "vocoder": {"hidden_size": 8, "num_layers": 1, "intermediate_size": 16, "adversarial_start": 2},
}


def train(inputs, kind, output_dir, **arguments):
    spec = importlib.util.spec_from_file_location(f"train_{kind}", SCRIPTS / f"train_{kind}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    argv = []
    shared = {name: inputs[name] for name in ("dataset_name", "num_samples", "cache_dir")}
    for name, value in {**STEPS, **SIZES[kind], **shared, **arguments, "output_dir": output_dir}.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    module.main(argv)
    return output_dir


@pytest.fixture(scope="module")
def finished(training_inputs, tmp_path_factory):
    root = tmp_path_factory.mktemp("first_stage")
    return {kind: train(training_inputs, kind, root / kind, validation_split="train") for kind in SIZES}


@pytest.mark.parametrize(("kind", "model"), [("autoencoder", "vae"), ("vocoder", "vocoder")])
def test_stopped_by_a_signal_and_resumed_is_never_stopped(
    training_inputs, finished, tmp_path, monkeypatch, kind, model
):
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "step_generator", signalled(sampling.step_generator, step=2))
        train(training_inputs, kind, tmp_path, checkpointing_steps=100)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (tmp_path / "training.json").exists()
    resumed = train(training_inputs, kind, tmp_path, resume_from_checkpoint="latest")
    weights = [load_file(run / model / "diffusion_pytorch_model.safetensors") for run in (finished[kind], resumed)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


@pytest.mark.parametrize("kind", SIZES)
def test_a_missing_validation_split_is_named_before_training(training_inputs, tmp_path, kind):
    with pytest.raises(ValueError, match="has no split 'validation'"):
        train(training_inputs, kind, tmp_path / "run", validation_split="validation")
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_runs_do_not_mix(training_inputs, finished, tmp_path):
    for kind in SIZES:
        folder = shutil.copytree(finished[kind], tmp_path / kind)
        with pytest.raises(ValueError, match="has checkpoints of an earlier run"):
            train(training_inputs, kind, folder, max_train_steps=2)
        with pytest.raises(ValueError, match=r"another run.*seed 0, now 1"):
            train(training_inputs, kind, folder, seed=1, resume_from_checkpoint="latest")
        assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}


def test_more_steps_at_another_learning_rate(training_inputs, finished, tmp_path):
    folder = shutil.copytree(finished["vocoder"], tmp_path / "vocoder")
    more = {"max_train_steps": 6, "learning_rate": 2e-4, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    train(training_inputs, "vocoder", folder, **more, resume_from_checkpoint="latest")
    state = torch.load(folder / "checkpoint-6" / "state.pt", weights_only=True)
    rates = [state[name]["param_groups"][0]["lr"] for name in ("optimizer", "discriminator_optimizer")]
    assert rates == pytest.approx([2e-4, 0.6e-4])


def test_autoencoder_folder(finished):
    vae = AutoencoderKL.from_pretrained(finished["autoencoder"] / "vae")
    record = json.loads((finished["autoencoder"] / "training.json").read_text())
    assert vae.config.scaling_factor * record["train"]["latent_std"] == pytest.approx(0.5)
    assert record["train"]["mel_l1"] > 0
    mel = log_mel(torch.randn(1, 5120))[:, None]
    assert vae.encode(mel).latent_dist.mode().shape == (1, 4, 16, 32)


def test_decoder_alone_keeps_every_latent(training_inputs, finished, tmp_path):
    before = AutoencoderKL.from_pretrained(finished["autoencoder"] / "vae")
    train(training_inputs, "autoencoder", tmp_path, decoder_of=finished["autoencoder"] / "vae")
    after = AutoencoderKL.from_pretrained(tmp_path / "vae")
    mel = log_mel(torch.randn(1, 5120))[:, None]
    latents = before.encode(mel).latent_dist.mode()
    assert torch.equal(after.encode(mel).latent_dist.mode(), latents)
    assert after.config.scaling_factor == before.config.scaling_factor
    assert not torch.equal(after.decode(latents).sample, before.decode(latents).sample)


def test_vocoder_learns_from_reconstructions_too(training_inputs, finished, tmp_path):
    vae = finished["autoencoder"] / "vae"
    train(training_inputs, "vocoder", tmp_path, autoencoder=vae, autoencoder_share=1.0, autoencoder_clips=3)
    vocoders = [ISTFTVocoder.from_pretrained(run / "vocoder") for run in (finished["vocoder"], tmp_path)]
    mel = torch.randn(8, 64) - 5
    assert not torch.equal(vocoders[0](mel), vocoders[1](mel))


def test_vocoder_goes_on_from_a_finished_one(training_inputs, finished, tmp_path):
    """With a tiny learning rate the vocoder stays as it was, and its sizes replace the arguments."""
    start = finished["vocoder"] / "vocoder"
    shapes = dict.fromkeys(SIZES["vocoder"], 32) | {"num_layers": 2, "adversarial_start": 0}
    train(training_inputs, "vocoder", tmp_path, initial_vocoder=start, learning_rate=1e-12, **shapes)
    mel = torch.randn(8, 64) - 5
    before, after = (ISTFTVocoder.from_pretrained(folder)(mel) for folder in (start, tmp_path / "vocoder"))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-6)


def test_vocoder_of_another_rate_is_refused(training_inputs, finished, tmp_path):
    ISTFTVocoder(sampling_rate=22050, hidden_size=8, num_layers=1, intermediate_size=16).save_pretrained(
        tmp_path / "at"
    )
    with pytest.raises(ValueError, match="22050 Hz"):
        train(training_inputs, "vocoder", tmp_path / "run", initial_vocoder=tmp_path / "at")


EVERY_LOSS = {"autoencoder": {}, "vocoder": {"adversarial_start": 0}}


def poison(monkeypatch, loss, *calls):
    """Make these calls of the function `loss` return NaN, with NaN gradients."""
    healthy, calls_so_far = getattr(first_stage_losses, loss), count()
    monkeypatch.setattr(
        first_stage_losses, loss, lambda *given: healthy(*given) * (math.nan if next(calls_so_far) in calls else 1.0)
    )


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("autoencoder", "kl_divergence"), ("vocoder", "frequency_loss"), ("vocoder", "discriminator_loss")],
)
def test_a_step_without_finite_gradient_is_skipped_and_counted(training_inputs, tmp_path, monkeypatch, kind, loss):
    poison(monkeypatch, loss, 1)
    train(training_inputs, kind, tmp_path, **EVERY_LOSS[kind])
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["skipped_steps"] == 1
    assert math.isfinite(sum(record["losses"].values()))
    state = torch.load(tmp_path / "checkpoint-4" / "state.pt", weights_only=True)
    for name in {"vae", "vocoder", "ema", "discriminator"} & state.keys():
        assert all(tensor.isfinite().all() for tensor in state[name].values()), name
    skipped = "discriminator_optimizer" if loss == "discriminator_loss" else "optimizer"
    for name in {"optimizer", "discriminator_optimizer"} & state.keys():
        taken = {int(moments["step"]) for moments in state[name]["state"].values()}
        assert taken == {3 if name == skipped else 4}, name


@pytest.mark.parametrize(("kind", "loss"), [("autoencoder", "kl_divergence"), ("vocoder", "discriminator_loss")])
def test_too_many_such_steps_in_a_row_end_with_advice(training_inputs, tmp_path, monkeypatch, kind, loss):
    poison(monkeypatch, loss, 0, 2, 3)
    with pytest.raises(FloatingPointError, match=r"2 steps in a row.*--learning_rate"):
        train(training_inputs, kind, tmp_path, max_skipped_steps=2, **EVERY_LOSS[kind])
    assert (tmp_path / "checkpoint-2").exists() and not (tmp_path / "training.json").exists()


def test_unusable_arguments_stop_before_training(training_inputs, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train({**training_inputs, "dataset_name": ""}, "vocoder", tmp_path, n_ffft=3)
    assert stopped.value.code == 2
    for kind, wrong in (("autoencoder", "checkpoints_total_limit"), ("vocoder", "max_skipped_steps")):
        with pytest.raises(SystemExit) as stopped:
            train(training_inputs, kind, tmp_path, **{wrong: 0})
        assert stopped.value.code == 2
        assert f"--{wrong} is 0; give a finite number of at least 1" in capsys.readouterr().err
    with pytest.raises(ValueError, match="num_frames"):
        train(training_inputs, "autoencoder", tmp_path, num_frames=33)
    with pytest.raises(ValueError, match=r"--num_frames is 12; .* at least 13"):
        train(training_inputs, "vocoder", tmp_path, num_frames=12)
