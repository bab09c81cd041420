"""From the authors' files to a pipeline and a folder: the official numbers, the right files, the right complaints."""

import json

import pytest
import released
import torch
from diffusers import AutoencoderKL
from transformers import ClapTextModel, SpeechT5HifiGan, T5EncoderModel

import golden
from diffusers_soundctm import AutoencoderDAC, CTMAudioDiTModel, CTMUNet2DConditionModel, SoundCTMPipeline
from diffusers_soundctm.cli import convert, main
from diffusers_soundctm.conversion import RELEASES, convert_release, load_release
from diffusers_soundctm.conversion.releases import find_files, recognize_release

UNET = {"text_encoder": released.TINY_T5, "original_config": golden.FOLDER / "unet_config.json"}


@pytest.fixture
def dit(clap_tokenizer):
    return {"text_encoder": clap_tokenizer, "original_config": golden.read("dit/dit_config.json")}


def same_weights(one: SoundCTMPipeline, other: SoundCTMPipeline) -> None:
    for name, component in one.components.items():
        if isinstance(component, torch.nn.Module):
            weights = getattr(other, name).state_dict()
            for key, tensor in component.state_dict().items():
                assert torch.equal(tensor, weights[key]), f"{name}.{key}"


def sound(pipe: SoundCTMPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(
        "rain", audio_length_in_s=0.4, num_inference_steps=2, nu=1.5, generator=generator, output_type="pt"
    ).audios


def test_unet_release(unet_release, tmp_path):
    output = convert_release("sony-unet", tmp_path / "out", unet_release, **UNET)
    pipe = SoundCTMPipeline.from_pretrained(output)
    classes = (CTMUNet2DConditionModel, AutoencoderKL, SpeechT5HifiGan, T5EncoderModel)
    for name, kind in zip(("unet", "vae", "vocoder", "text_encoder"), classes, strict=True):
        assert type(getattr(pipe, name)) is kind
    assert pipe.vae.config.scaling_factor == 0.75 and pipe.scheduler.config.sigma_data == 0.25
    assert pipe.config.guidance_scale_range == [2.0, 5.0] and pipe.unet.config.sample_size == [256, 16]
    # The EMA, not the online student beside it.
    assert all(
        torch.equal(tensor, pipe.unet.state_dict()[key]) for key, tensor in golden.student().state_dict().items()
    )
    direct = SoundCTMPipeline.from_single_file(unet_release, **UNET)  # recognized
    same_weights(direct, pipe)
    assert torch.equal(sound(direct), sound(pipe)) and sound(pipe).shape == (1, 1, 6400)
    half = SoundCTMPipeline.from_pretrained(output, variant="fp16", torch_dtype=torch.float16)
    assert half.unet.dtype == torch.float16
    record = json.loads((output / "conversion.json").read_text())
    assert record["from"] == "sony-unet" and record["text_encoder"] == "tiny-t5"
    assert set(record["files"]) == {"ema_0.999_030000.pt", "audioldm-s-full.ckpt"}
    written = "".join(path.read_text() for path in output.rglob("*.json"))
    assert str(tmp_path) not in written and str(released.TINY_T5) not in written


@pytest.mark.parametrize("case", ["det1_nu0.0_om2.0", "det16_nu1.0_om3.5", "det16_nu2.5_om2.0"])
def test_prompt_to_latents_matches_the_reference(unet_release, case):
    case = next(item for item in golden.read("samplers.json")["cases"] if item["id"] == case)
    whole = load_release("sony-unet", [unet_release, unet_release / "030000" / "pytorch_model.bin"], **UNET)
    pipe = SoundCTMPipeline.from_components(whole.components | {"vae": None, "vocoder": None})
    tensors = golden.read("samplers.safetensors")
    latents = pipe(
        case["cond_order"][0],
        num_inference_steps=case["steps"],
        nu=case["nu"],
        guidance_scale=case["omega"],
        latents=tensors[case["x_T"]] / 80,
        output_type="latent",
    ).audios
    expected = tensors[f"{case['id']}.x0"]
    assert ((latents - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_dit_release(dit_release, tmp_path, dit):
    output = convert_release("sony-dit-v2", tmp_path / "out", dit_release, variants=("bf16",), **dit)
    pipe = SoundCTMPipeline.from_pretrained(output)
    assert type(pipe.transformer) is CTMAudioDiTModel and type(pipe.vae) is AutoencoderDAC and pipe.vocoder is None
    # CLAP from its own file: the copy in the EMA file is zero here.
    assert type(pipe.text_encoder) is ClapTextModel and pipe.text_encoder.pooler.dense.weight.abs().sum() > 0
    assert pipe.tokenizer.model_max_length == 77
    assert pipe.config.guidance_scale_range == [2.0, 5.0]  # from the training arguments
    assert pipe.vae.config.latents_std == torch.linspace(0.5, 2, 8).tolist()
    direct = SoundCTMPipeline.from_single_file(dit_release, **dit)  # recognized
    same_weights(direct, pipe)
    assert torch.equal(sound(direct), sound(pipe)) and sound(pipe).shape == (1, 1, 17640)
    half = SoundCTMPipeline.from_pretrained(output, variant="bf16", torch_dtype=torch.bfloat16)
    direct = SoundCTMPipeline.from_single_file(dit_release, release="sony-dit-v2", torch_dtype=torch.bfloat16, **dit)
    assert half.denoiser.dtype == direct.denoiser.dtype == torch.bfloat16
    assert half.denoiser.fourier.weight.dtype == direct.denoiser.fourier.weight.dtype == torch.float32
    same_weights(direct, half)


def test_clap_out_of_the_student_file(dit_release, dit):
    models, utils = dit_release / "model_checkpoints" / "soundctm", dit_release / "utils_checkpoints"
    files = [models / "ac_v2_ema_0999_030000.pt", models / "z_stats.pth", utils / "vae" / "gaussiandac" / "weights.pth"]
    model = load_release("sony-dit-v2", files, **dit)
    assert model.components["text_encoder"].pooler.dense.weight.abs().sum() == 0
    assert model.guidance_scale_range == (3.0, 6.0)


def test_hub_ids_fetch_what_is_needed(dit_release, tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(repo_id, allow_patterns, **where):
        asked.update(repo_id=repo_id, patterns=allow_patterns, **where)
        return str(dit_release)

    monkeypatch.setattr("diffusers_soundctm.hub.download.snapshot_download", snapshot_download)
    files = find_files(RELEASES["sony-dit-v2"], None, revision="main")
    assert asked["repo_id"] == "koichisaito/soundctm_dit" and asked["revision"] == "main"
    assert "*ac_v2_ema_*.pt" in asked["patterns"] and not any("v1" in pattern for pattern in asked["patterns"])
    assert {file.name for file in files} == {
        "ac_v2_ema_0999_030000.pt",
        "ac_v2_summary.jsonl",
        "z_stats.pth",
        "weights.pth",
        "630k-audioset-best.pt",
    }
    with pytest.raises(ValueError, match=r"has none of .*v1_iclr"):
        find_files(RELEASES["sony-dit-v1"], tmp_path)


def test_complaints(unet_release, dit_release, tmp_path, dit):
    ema = unet_release / "030000" / "ema_0.999_030000.pt"
    with pytest.raises(ValueError, match="choose among sony-unet, sony-dit-v1, sony-dit-v2"):
        load_release("sony-dit")
    with pytest.raises(ValueError, match="lacks AudioLDM's first stage"):
        load_release("sony-unet", ema, **UNET)
    with pytest.raises(ValueError, match=r"Both .* hold the student"):
        load_release("sony-unet", [unet_release, ema], **UNET)
    with pytest.raises(ValueError, match="holds no part of this release"):
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
        load_release("sony-unet", [unet_release, tmp_path / "x.pt"], **UNET)
    with pytest.raises(ValueError, match=r"missing\.pt is not a file"):
        load_release("sony-unet", tmp_path / "missing.pt", **UNET)
    teacher = {name.removeprefix("unet."): tensor for name, tensor in golden.read("teacher.safetensors").items()}
    torch.save(teacher, tmp_path / "teacher.pt")
    with pytest.raises(ValueError, match="holds a teacher"):
        load_release("sony-unet", [tmp_path / "teacher.pt", unet_release / "audioldm-s-full.ckpt"], **UNET)
    statistics = dit_release / "model_checkpoints" / "soundctm" / "z_stats.pth"
    torch.save({"z_mean": torch.zeros(5), "z_std": torch.ones(5)}, tmp_path / "z_stats.pth")
    files = [file for file in dit_release.rglob("*.p*") if file != statistics and file.is_file()]
    with pytest.raises(ValueError, match=r"z_mean has shape \(5,\), not \(8,\)"):
        load_release("sony-dit-v2", [*files, tmp_path / "z_stats.pth"], **dit)


def test_misfits_stop_before_anything_is_written(unet_release, tmp_path):
    student = torch.load(unet_release / "030000" / "ema_0.999_030000.pt", weights_only=True)
    student["renamed.bias"] = student.pop("conv_in.bias")
    del student["conv_norm_out.weight"]
    student["conv_out.bias"] = torch.zeros(3)
    torch.save(student, tmp_path / "ema.pt")
    files = [tmp_path / "ema.pt", unet_release / "audioldm-s-full.ckpt"]
    with pytest.raises(ValueError) as error:
        convert_release("sony-unet", tmp_path / "out", files, **UNET)
    for line in (
        "missing conv_in.bias",
        "missing conv_norm_out.weight",
        "unexpected renamed.bias",
        "conv_out.bias has shape (3,), not (8,)",
    ):
        assert line in str(error.value)
    assert not (tmp_path / "out").exists()


def test_command(unet_release, tmp_path, capsys):
    output = tmp_path / "model"
    command = ["convert", "--from", "sony-unet", "--checkpoint", str(unet_release), "--output", str(output)]
    command += ["--text-encoder", str(released.TINY_T5), "--config", str(golden.FOLDER / "unet_config.json")]
    assert main([*command, "--variants"]) == 0
    assert f"--model {output}" in capsys.readouterr().out
    assert not list(output.glob("*/*.fp16.safetensors"))
    assert SoundCTMPipeline.from_pretrained(output).sampling_rate == 16000
    assert main(command) == 2
    assert "holds a model already" in capsys.readouterr().err
    assert tuple(RELEASES) == convert.RELEASES


def test_folder_of_another_conversion_is_refused_before_reading(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model already"):
        convert_release("sony-unet", tmp_path, "no/such")


@pytest.mark.parametrize(("width", "release"), [(512, "sony-dit-v1"), (768, "sony-dit-v2")])
def test_transformers_are_recognized_by_their_token(tmp_path, width, release):
    tensors = {"dit.preprocess_conv.weight": torch.zeros(1), "dit.to_cond_embed.0.weight": torch.zeros(2, width)}
    torch.save(tensors, tmp_path / "student.pt")
    torch.save({"post_conv.bias": torch.zeros(1)}, tmp_path / "dac.pth")
    assert recognize_release([tmp_path / "student.pt", tmp_path / "dac.pth"]) == release


def test_releases_that_cannot_be_told_are_named(unet_release, dit_release, tmp_path):
    with pytest.raises(ValueError, match=r"networks of sony-unet and sony-dit-v2; pass `release=`"):
        recognize_release([unet_release, dit_release])
    with pytest.raises(ValueError, match="holds no network of a release; pass `release=`, one of sony-unet"):
        SoundCTMPipeline.from_single_file(tmp_path)
    assert recognize_release("Sony/soundctm") == "sony-unet"
    with pytest.raises(ValueError, match="networks of sony-dit-v1 and sony-dit-v2"):
        recognize_release("koichisaito/soundctm_dit")
    with pytest.raises(ValueError, match="Pass the authors' files, or `release=`"):
        SoundCTMPipeline.from_single_file()
