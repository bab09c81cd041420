"""LoRA adapters: small files, and the base model with the adapter equals the trained student."""

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.lora import WEIGHTS, add_lora, load_lora, save_lora
from tiny_teachers import FAMILIES, make_teacher

pytest.importorskip("peft")


@pytest.fixture(scope="module", params=FAMILIES)
def base(request, tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teachers") / request.param
    make_teacher(request.param, folder, tiny_pipeline)
    return folder


def latents(pipe):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe("rain on a tin roof", num_inference_steps=2, generator=generator, output_type="latent").audios


@pytest.mark.parametrize("alpha", [4, 10.0])
def test_base_and_adapter_are_the_trained_student(base, tmp_path, alpha):
    trained = SoundCTMPipeline.from_teacher(base)
    before = latents(trained)
    parameters = add_lora(trained.denoiser, 4, alpha)
    torch.testing.assert_close(latents(trained), before)  # B starts at zero
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_lora(trained.denoiser, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS]

    pipe = SoundCTMPipeline.from_teacher(base)
    pipe.load_lora_weights(tmp_path)
    torch.testing.assert_close(latents(pipe), latents(trained))
    assert not torch.allclose(latents(pipe), before)


def test_adapters_can_be_fused(base, tmp_path):
    trained = SoundCTMPipeline.from_teacher(base)
    for parameter in add_lora(trained.denoiser, 2, 3):
        parameter.data += 0.05
    save_lora(trained.denoiser, tmp_path)
    pipe = SoundCTMPipeline.from_teacher(base)
    pipe.load_lora_weights(tmp_path, adapter_name="fast")
    assert pipe.get_active_adapters() == ["fast"]
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe), latents(trained), rtol=1e-3, atol=1e-3)
    pipe.save_pretrained(tmp_path / "whole")
    whole = SoundCTMPipeline.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(latents(whole), latents(pipe), rtol=1e-4, atol=1e-4)


def test_adapters_of_another_network_are_refused(tiny_pipeline, tmp_path):
    for family in ("audioldm", "tango"):
        make_teacher(family, tmp_path / family, tiny_pipeline)
    student = SoundCTMPipeline.from_teacher(tmp_path / "audioldm").denoiser
    add_lora(student, 2)
    save_lora(student, tmp_path / "adapter")
    with pytest.raises(ValueError, match="another network"):
        SoundCTMPipeline.from_teacher(tmp_path / "tango").load_lora_weights(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"from_teacher\(\.\.\., branch_init='zero'\)"):
        SoundCTMPipeline.from_teacher(tmp_path / "audioldm", "reference").load_lora_weights(tmp_path / "adapter")
    dit = tiny_pipeline("dit").transformer
    with pytest.raises(ValueError, match="another network than this CTMAudioDiTModel"):
        load_lora(dit.from_config(dit.config, branch_init="zero"), tmp_path / "adapter")
    with pytest.raises(OSError, match="does not exist"):
        load_lora(student, tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        add_lora(student, 0)


def test_adapters_that_are_missing_or_damaged_are_named(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline("audioldm")
    with pytest.raises(OSError, match="'no/such/folder' is neither a folder on this machine nor a model on the Hub"):
        pipe.load_lora_weights("no/such/folder")
    (tmp_path / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(OSError, match=f"{WEIGHTS} is not a safetensors file"):
        pipe.load_lora_weights(tmp_path)
