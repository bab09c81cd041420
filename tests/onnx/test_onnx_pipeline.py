"""The pipeline in ONNX makes the sounds of the pipeline in PyTorch, without torch, and says what is wrong.

`tests/fixtures/tiny-onnx` is `make_pipeline("embedded").export_onnx(folder)`; the slow tests export it again.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffusers_soundctm import OnnxSoundCTMPipeline
from diffusers_soundctm.audio import fade_edges, read_audio
from diffusers_soundctm.cli import main
from diffusers_soundctm.cli.made import read_settings
from diffusers_soundctm.onnx import NoiseGenerator
from tiny_pipelines import FIXTURES, make_pipeline

FOLDER = FIXTURES / "tiny-onnx"
PROMPTS = ["a dog barks", "quiet rain on a tin roof"]


@pytest.fixture(scope="module")
def pipe():
    return OnnxSoundCTMPipeline(FOLDER, num_threads=1)


@pytest.fixture(scope="module")
def in_pytorch():
    return make_pipeline("embedded")


def assert_same_sound(in_pytorch, pipe, prompt, **options):
    for output_type in ("latent", "np"):
        expected = in_pytorch(prompt, generator=torch.Generator().manual_seed(5), output_type=output_type, **options)
        found = pipe(prompt, generator=NoiseGenerator(5), output_type=output_type, **options)
        assert found.audios.dtype == np.float32 and found.audios.shape == tuple(expected.audios.shape)
        np.testing.assert_allclose(found.audios, np.asarray(expected.audios), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_inference_steps": 4, "gamma": 1.0, "audio_length_in_s": 0.3},
        {"num_inference_steps": 2, "nu": 1.5, "guidance_scale": 2.5, "audio_length_in_s": 0.21},
        {"nu": 2.0, "negative_prompt": "loud wind", "num_waveforms_per_prompt": 2, "audio_length_in_s": 0.5},
        {"sigmas": [80.0, 2.0, 0.002], "gamma": 0.4, "audio_length_in_s": 1.0},
    ],
    ids=["default", "gamma", "nu", "negative", "sigmas"],
)
@pytest.mark.parametrize("prompt", [PROMPTS[0], PROMPTS], ids=["one", "two"])
def test_the_same_seed_is_the_same_sound(in_pytorch, pipe, prompt, options):
    assert_same_sound(in_pytorch, pipe, prompt, **options)


def test_generators_and_latents_of_each_waveform(pipe):
    together = pipe(PROMPTS, generator=[NoiseGenerator(1), NoiseGenerator(2)]).audios
    alone = pipe(PROMPTS[1], generator=torch.Generator().manual_seed(2)).audios
    np.testing.assert_allclose(together[1:], alone, atol=1e-4)
    latents = NoiseGenerator(2).randn((1, *pipe.latent_shape(round(1.28 * 16000))))
    np.testing.assert_allclose(pipe(PROMPTS[1], latents=latents).audios, alone, atol=1e-4)
    assert not np.array_equal(pipe("rain").audios, pipe("rain").audios)


def test_a_callback_sees_changes_and_ends_a_call(pipe):
    seen = []

    def on_step_end(call, step, sigma, tensors):
        seen.append((step, call.num_timesteps, sorted(tensors)))
        call._interrupt = step == 1
        return {"latents": np.zeros_like(tensors["latents"])}

    names = ["latents", "previous_latents"]
    options = {"callback_on_step_end": on_step_end, "callback_on_step_end_tensor_inputs": names}
    latents = pipe("rain", num_inference_steps=4, output_type="latent", **options).audios
    assert seen == [(0, 4, names), (1, 4, names)] and not latents.any()
    assert isinstance(pipe("rain", return_dict=False), tuple)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"prompt": 3}, TypeError, "`prompt` is 3"),
        ({"prompt": None}, ValueError, "`prompt` is None"),
        ({"prompt": []}, ValueError, "empty list"),
        ({"negative_prompt": ["a", "b"]}, ValueError, "2 strings for 1 prompts"),
        ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` is 0"),
        ({"gamma": 2.0}, ValueError, "`gamma` is 2.0"),
        ({"nu": float("nan")}, ValueError, "`nu` is nan"),
        ({"audio_length_in_s": 31}, ValueError, "at most 30 seconds"),
        ({"output_type": "pt"}, ValueError, "choose 'np' or 'latent'"),
        ({"sigmas": [1.0, 2.0]}, ValueError, "decreasing noise levels"),
        ({"sigmas": [100.0, 2.0]}, ValueError, "sigma_max 80"),
        ({"generator": 3}, TypeError, "`generator` is 3"),
        ({"generator": [NoiseGenerator()] * 2}, ValueError, "1 waveforms"),
        ({"latents": np.zeros((1, 8, 7, 16))}, ValueError, "a multiple of 2"),
        ({"latents": np.full((1, 8, 8, 16), np.nan)}, ValueError, "NaN"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, ValueError, "prompt_embeds"),
        ({"initial_audio_waveforms": np.zeros(9)}, ValueError, "no encoder of audio. Use SoundCTMPipeline"),
        ({"prompt_embeds": np.zeros((1, 2, 16))}, ValueError, "takes no `prompt_embeds`"),
        ({"temperature": 1}, TypeError, "`temperature` is no argument"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments_are_named(pipe, options, error, message):
    with pytest.raises(error, match=message):
        pipe(**{"prompt": "rain"} | options)


def test_what_needs_gradients_is_said(pipe):
    with pytest.raises(AttributeError, match="load the adapter before the export"):
        pipe.load_lora_weights("adapter")


def test_a_long_prompt_is_cut_with_a_warning(pipe, caplog):
    pipe("rain " * 600, audio_length_in_s=0.1)
    assert "The text encoder reads 512 tokens of the prompt" in caplog.text


def test_damaged_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no soundctm.json"):
        OnnxSoundCTMPipeline(tmp_path)
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    content = json.loads((folder / "soundctm.json").read_text())
    for wrong, message in [
        ('{"format": 1', "is not valid JSON"),
        (json.dumps(content | {"format": 99}), "has format 99, and this version reads format 1; export"),
        (json.dumps({k: v for k, v in content.items() if k != "rho"}), "lacks rho"),
        (json.dumps(content | {"sampling_rate": "fast"}), "sampling_rate = 'fast'"),
        (json.dumps(content | {"files": {"denoiser": "../x.onnx"}}), "are not the files of a model"),
    ]:
        (folder / "soundctm.json").write_text(wrong)
        with pytest.raises(OSError, match=message):
            OnnxSoundCTMPipeline(folder)
    (folder / "soundctm.json").write_text(json.dumps(content))
    (folder / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(OSError, match=r"decoder.onnx cannot be loaded"):
        OnnxSoundCTMPipeline(folder)
    (folder / "decoder.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"decoder.onnx is missing"):
        OnnxSoundCTMPipeline(folder)


def test_the_command_line_runs_without_torch(in_pytorch, tmp_path):
    path = tmp_path / "rain.wav"
    arguments = ["generate", "quiet rain", "-o", str(path), "--seed", "7", "--steps", "2", "--model", str(FOLDER)]
    code = f"""
import sys
from diffusers_soundctm.cli import main
code = main({[*arguments, "--runtime", "onnx"]!r})
print(code, sorted({{"torch", "diffusers", "transformers", "scipy"}} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("\n0 []\n") and "seed 7" in done.stdout, done.stdout + done.stderr
    settings = read_settings(path)
    assert (settings["seed"], settings["steps"], settings["runtime"]) == (7, 2, "onnx")
    samples, rate = read_audio(path)
    expected = in_pytorch("quiet rain", num_inference_steps=2, generator=torch.Generator().manual_seed(7)).audios[0]
    assert rate == 16000
    np.testing.assert_allclose(samples.numpy(), fade_edges(expected, rate), rtol=0, atol=1e-3)
    assert samples[0, 0] == samples[0, -1] == 0  # the edges are faded


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "soundctm export embedded -o FOLDER"),
        (["--model", str(FOLDER), "--device", "cpu"], "leave out --device"),
        (["--model", str(FOLDER), "--dtype", "float16"], "--dtype is chosen when a model is exported"),
        (["--model", str(FOLDER.parent)], "no soundctm.json"),
    ],
    ids=["embedded", "device", "dtype", "folder"],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path, capsys):
    path = tmp_path / "rain.wav"
    assert main(["generate", "rain", "-o", str(path), "--runtime", "onnx", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not path.exists()


@pytest.mark.parametrize(
    "change, message",
    [({"precision": "int4"}, "`precision` is 'int4'"), ({"vocoder": None}, "no vocoder"), ({"vae": None}, "no vae")],
    ids=["precision", "vocoder", "vae"],
)
def test_what_cannot_be_exported_is_said(in_pytorch, change, message, tmp_path):
    precision = change.get("precision", "fp32")
    changed = in_pytorch if "precision" in change else type(in_pytorch).from_pipe(in_pytorch, **change)
    with pytest.raises(ValueError, match=message):
        changed.export_onnx(tmp_path / "model", precision)


@pytest.mark.slow
@pytest.mark.parametrize("family, precision", [("embedded", "int8"), ("dit", "fp32")])
def test_exported_families_make_the_same_sounds(family, precision, tmp_path):
    in_pytorch = make_pipeline(family)
    folder = in_pytorch.export_onnx(tmp_path / "model", precision)
    pipe = OnnxSoundCTMPipeline(folder, num_threads=1)
    if precision == "fp32":
        options = {"num_inference_steps": 2, "nu": 1.5, "gamma": 0.5, "audio_length_in_s": 0.4}
        assert_same_sound(in_pytorch, pipe, PROMPTS, **options)
    else:
        assert (folder / "denoiser.onnx").stat().st_size < 0.7 * (FOLDER / "denoiser.onnx").stat().st_size
        options = {"generator": NoiseGenerator(5), "output_type": "latent"}
        exact = OnnxSoundCTMPipeline(FOLDER)("rain", **options).audios
        found = pipe("rain", **options | {"generator": NoiseGenerator(5)}).audios
        assert np.abs(found - exact).mean() < 0.03 * np.abs(exact).mean()
