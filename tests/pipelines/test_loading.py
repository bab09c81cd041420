"""Pipelines are saved and loaded completely, and what is missing or wrong is named."""

import json
import logging
import sys

import pytest
import torch
from diffusers import DiffusionPipeline

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.hub.trust import REMOTE_CODE
from pipeline_calls import CLOSE, latents_of


def test_save_and_load(pipe, tmp_path):
    expected = latents_of(pipe, num_inference_steps=2, nu=1.5)
    pipe.save_pretrained(tmp_path)
    loaded = SoundCTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert list(loaded.config.guidance_scale_range) == [2.0, 5.0]
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(latents_of(loaded, num_inference_steps=2, nu=1.5), expected)
    assert not list(tmp_path.rglob("*.bin"))
    assert {path.read_bytes() for path in tmp_path.rglob("*.py")} == {REMOTE_CODE}


def test_loading_gives_no_warnings(pipe, tmp_path, caplog):
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).propagate = True
    pipe.save_pretrained(tmp_path)
    SoundCTMPipeline.from_pretrained(tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_save_and_load_in_half_precision_with_variant(embedded, embedded_folder, tmp_path):
    half = SoundCTMPipeline.from_pretrained(embedded_folder, torch_dtype=torch.float16)
    assert {model.dtype for model in (half.unet, half.vae, half.vocoder, half.text_encoder)} == {torch.float16}
    half.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded = SoundCTMPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.text_encoder.dtype == torch.float32
    reference = latents_of(embedded)
    assert (latents_of(loaded) - reference).abs().mean() < 0.02 * reference.abs().mean()
    only = SoundCTMPipeline.from_pretrained(tmp_path)  # has only the fp16 variant
    assert all(torch.equal(a, b) for a, b in zip(only.unet.parameters(), loaded.unet.parameters(), strict=True))


def test_optional_components_may_be_left_out(embedded, tmp_path):
    embeds, mask, *_ = embedded.encode_prompt("rain", do_nu_sampling=False)
    components = {**embedded.components, "text_encoder": None, "tokenizer": None}
    SoundCTMPipeline(**components).save_pretrained(tmp_path)
    loaded = SoundCTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.text_encoder is None and loaded.tokenizer is None
    torch.testing.assert_close(
        latents_of(loaded, None, prompt_embeds=embeds, attention_mask=mask), latents_of(embedded, "rain")
    )
    with pytest.raises(ValueError, match="text_encoder"):
        loaded("rain")


def test_components_can_be_passed(embedded, embedded_folder):
    loaded = SoundCTMPipeline.from_pretrained(embedded_folder, unet=embedded.unet, text_encoder=None, tokenizer=None)
    assert loaded.unet is embedded.unet and loaded.text_encoder is None


def test_broken_folders_are_named(embedded_folder, tmp_path):
    import shutil

    def copy(name):
        return shutil.copytree(embedded_folder, tmp_path / name)

    with pytest.raises(OSError, match=r"model_index\.json"):
        SoundCTMPipeline.from_pretrained(tmp_path)
    no_vae = copy("no-vae")
    shutil.rmtree(no_vae / "vae")
    with pytest.raises(OSError, match="vae"):
        SoundCTMPipeline.from_pretrained(no_vae)
    no_weights = copy("no-weights")
    (no_weights / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="unet"):
        SoundCTMPipeline.from_pretrained(no_weights)
    no_index = copy("no-json")
    for content in ("{", "[]"):
        (no_index / "model_index.json").write_text(content)
        with pytest.raises(OSError, match=r"model_index\.json"):
            SoundCTMPipeline.from_pretrained(no_index)
    lfs_pointer = copy("lfs-pointer")
    for file in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        complete = (lfs_pointer / file).read_text()
        (lfs_pointer / file).write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(OSError, match=f"{file} is not valid JSON"):
            SoundCTMPipeline.from_pretrained(lfs_pointer)
        (lfs_pointer / file).write_text(complete)
    for component, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        damaged = copy(f"damaged-{len(file)}")
        weights = damaged / component / f"{file}.safetensors"
        complete = weights.read_bytes()
        for content in (complete[:-1], complete[:500], b"\xff" * 100, b""):
            weights.write_bytes(content)
            with pytest.raises(OSError, match=f"{component}/{file}"):
                SoundCTMPipeline.from_pretrained(damaged)


def test_a_tokenizer_needs_its_vocabulary(embedded, embedded_folder, tmp_path):
    import shutil

    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(OSError, match=r"model/tokenizer lacks its vocabulary \(tokenizer\.json, or vocab\.txt"):
        SoundCTMPipeline.from_pretrained(folder)
    SoundCTMPipeline.from_pretrained(folder, tokenizer=embedded.tokenizer)
    words = sorted(embedded.tokenizer.vocab, key=embedded.tokenizer.vocab.get)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(words))  # BERT's older file
    loaded = SoundCTMPipeline.from_pretrained(folder)
    assert loaded.tokenizer("rain on a roof").input_ids == embedded.tokenizer("rain on a roof").input_ids


def test_a_teacher_is_not_taken_for_a_soundctm(tiny_pipeline, tmp_path, capsys):
    from diffusers_soundctm import CTMScheduler
    from diffusers_soundctm.cli import main
    from tiny_teachers import make_teacher

    make_teacher("audioldm", tmp_path, tiny_pipeline)
    with pytest.raises(ValueError, match=r"is a teacher.*AudioLDMPipeline.*train_ctm\.py.*`from_teacher`"):
        SoundCTMPipeline.from_pretrained(tmp_path)
    pipe = SoundCTMPipeline.from_pretrained(tmp_path, scheduler=CTMScheduler())
    assert isinstance(pipe.scheduler, CTMScheduler)
    capsys.readouterr()
    assert main(["generate", "rain", "--model", str(tmp_path), "-o", str(tmp_path / "rain.wav")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("soundctm: error: ") and "is a teacher" in error and "\n" not in error


def test_folders_of_other_kinds_say_what_they_are(embedded_folder, tiny_pipeline, tmp_path):
    from diffusers_soundctm.lora import add_lora, save_lora
    from tiny_teachers import make_teacher

    for family, pipeline in (("stable_audio", "StableAudioPipeline"), ("stable_audio_3", "StableAudio3Pipeline")):
        make_teacher(family, tmp_path / family, tiny_pipeline)
        with pytest.raises(ValueError, match=rf"is a teacher, not a SoundCTM: it holds a {pipeline}, .*`from_teacher`"):
            SoundCTMPipeline.from_pretrained(tmp_path / family)
    make_teacher("tango", tmp_path / "tango", tiny_pipeline)
    with pytest.raises(OSError, match=r"pipeline with a UNet2DConditionModel.*`SoundCTMPipeline.from_teacher`"):
        SoundCTMPipeline.from_pretrained(tmp_path / "tango")
    with pytest.raises(OSError, match=r"one ISTFTVocoder, not a pipeline.*`ISTFTVocoder.from_pretrained`"):
        SoundCTMPipeline.from_pretrained(embedded_folder / "vocoder")
    unet = tiny_pipeline("tango").unet
    add_lora(unet, 1)
    save_lora(unet, tmp_path / "adapter")
    with pytest.raises(OSError, match=r"holds an adapter.*`load_lora_weights`"):
        SoundCTMPipeline.from_pretrained(tmp_path / "adapter")


def test_pickled_weights_are_refused(embedded, embedded_folder, tmp_path):
    import shutil

    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(embedded.unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="unet"):
        SoundCTMPipeline.from_pretrained(folder)


def test_embedded_model_without_weights_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", tmp_path)
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        SoundCTMPipeline.from_embedded()


def test_embedded_model_loads_half_precision_files_in_float32(monkeypatch, embedded_folder, tmp_path):
    SoundCTMPipeline.from_pretrained(embedded_folder, torch_dtype=torch.float16).save_pretrained(tmp_path)
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", tmp_path)
    pipe = SoundCTMPipeline.from_embedded()
    assert {model.dtype for model in (pipe.unet, pipe.vae, pipe.vocoder, pipe.text_encoder)} == {torch.float32}


def test_config_is_plain_json(embedded_folder):
    index = json.loads((embedded_folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers_soundctm", "CTMUNet2DConditionModel"]
    assert index["_class_name"] == ["pipeline", "SoundCTMPipeline"]


def test_the_stock_class_loads_what_was_saved(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipe.save_pretrained(tmp_path / "model")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert isinstance(stock, SoundCTMPipeline) and type(stock.denoiser) is type(pipe.denoiser)
    assert stock.config.guidance_scale_range == [2.0, 5.0]
    stock.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents_of(stock), latents_of(pipe), **CLOSE)
    stock.save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "SoundCTMPipeline"]


def test_loading_saved_pipelines_runs_no_loader_and_keeps_the_class(embedded_folder, tmp_path, monkeypatch):
    class MyPipeline(SoundCTMPipeline):
        pass

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "copies"))
    pipe = MyPipeline.from_pretrained(embedded_folder)
    assert type(pipe) is MyPipeline and not (tmp_path / "copies").exists()
    pipe.save_pretrained(tmp_path / "mine")
    assert type(SoundCTMPipeline.from_pretrained(tmp_path / "mine")) is SoundCTMPipeline


def test_from_pipe_shares_the_components(pipe):
    again = SoundCTMPipeline.from_pipe(pipe)
    assert again.components == pipe.components
    assert again.config.guidance_scale_range == pipe.config.guidance_scale_range
    other = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert SoundCTMPipeline.from_pipe(pipe, scheduler=other).scheduler is other


def test_components_alone_keep_the_range_of_guidance(pipe, tmp_path):
    assert SoundCTMPipeline(**pipe.components).config.guidance_scale_range == [2.0, 5.0]
    pipe.denoiser.save_pretrained(tmp_path)
    denoiser = type(pipe.denoiser).from_pretrained(tmp_path)
    again = SoundCTMPipeline.from_components(
        {**pipe.components, "unet": None, "transformer": None}
        | {name: denoiser for name in ("unet", "transformer") if pipe.components[name] is not None}
    )
    assert again.config.guidance_scale_range == [2.0, 5.0]
    wider = SoundCTMPipeline(**pipe.components, guidance_scale_range=(1, 6))
    assert wider.config.guidance_scale_range == wider.denoiser.config.guidance_scale_range == [1, 6]


def test_denoiser_is_the_one_component_that_exists(pipe, family, tmp_path):
    name, other = ("transformer", "unet") if family == "dit" else ("unet", "transformer")
    assert pipe.denoiser is getattr(pipe, name) and getattr(pipe, other) is None
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index[other] == [None, None] and index[name][1] == type(pipe.denoiser).__name__
    assert (tmp_path / name).is_dir() and not (tmp_path / other).exists()


def test_folder_with_a_transformer_stored_as_unet_loads(tiny_pipeline, tmp_path, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    pipe = tiny_pipeline("dit")
    pipe.save_pretrained(tmp_path)
    (tmp_path / "transformer").rename(tmp_path / "unet")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["unet"] = index.pop("transformer")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    old = SoundCTMPipeline.from_pretrained(tmp_path)
    assert "Save the pipeline again" in caplog.text
    assert old.unet is None
    torch.testing.assert_close(latents_of(old), latents_of(pipe))
    old.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "transformer").is_dir() and not (tmp_path / "new" / "unet").exists()


def test_two_students_are_refused(embedded, tiny_pipeline):
    with pytest.raises(ValueError, match="`unet` and a `transformer`"):
        SoundCTMPipeline.from_components({**embedded.components, "transformer": tiny_pipeline("dit").transformer})


def test_components_may_be_left_out(embedded):
    parts = {"unet": embedded.unet, "scheduler": embedded.scheduler}
    pipe = SoundCTMPipeline.from_components(parts, guidance_scale_range=(2.0, 5.0))
    assert pipe.denoiser is embedded.unet and pipe.vae is None and pipe.config.guidance_scale_range == [2.0, 5.0]
