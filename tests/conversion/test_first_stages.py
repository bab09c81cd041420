"""Released first stages give the official code's numbers, and the complaints they should."""

import pytest
import torch

import golden
from diffusers_soundctm import AutoencoderDAC
from diffusers_soundctm.conversion import convert_audioldm_vae, convert_dac, convert_hifigan

SHAPES = golden.read("first_stages.json")
TENSORS = golden.read("first_stages.safetensors")
STATISTICS = {"z_mean": torch.linspace(-1, 1, 5), "z_std": torch.linspace(0.5, 2, 5)}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def audioldm() -> dict[str, torch.Tensor]:
    """A whole AudioLDM checkpoint, as far as these networks are concerned."""
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in golden.pattern(SHAPES["audioldm"]).items()}
    return tensors | {"scale_factor": torch.tensor(0.75), "model.diffusion_model.out.0.weight": torch.zeros(3)}


def dac() -> dict[str, torch.Tensor]:
    return golden.pattern(SHAPES["dac"])


@torch.no_grad()
def test_mel_autoencoder_matches_the_reference():
    vae = convert_audioldm_vae(audioldm())
    assert vae.config.scaling_factor == 0.75 and not vae.training
    distribution = vae.encode(TENSORS["audioldm.mel"]).latent_dist
    assert relative_error(0.75 * distribution.mean, TENSORS["audioldm.mean"]) < 1e-5
    assert relative_error(0.75 * distribution.std, TENSORS["audioldm.std"]) < 1e-5
    decoded = vae.decode(TENSORS["audioldm.latents"] / vae.config.scaling_factor).sample
    assert relative_error(decoded, TENSORS["audioldm.decoded"]) < 1e-5


@torch.no_grad()
def test_vocoder_matches_the_reference():
    vocoder = convert_hifigan(audioldm())
    assert relative_error(vocoder(TENSORS["audioldm.vocoder_mel"]), TENSORS["audioldm.waveform"]) < 1e-5
    assert vocoder.config.sampling_rate == 16000


@torch.no_grad()
def test_waveform_autoencoder_matches_the_reference():
    vae = convert_dac(dac(), STATISTICS)
    assert vae.hop_length == 48 and vae.config.latents_std == STATISTICS["z_std"].tolist()
    distribution = vae.encode(TENSORS["dac.waveform"]).latent_dist
    assert relative_error(distribution.mean, TENSORS["dac.mean"]) < 1e-5
    assert relative_error(distribution.std, TENSORS["dac.std"]) < 1e-5
    assert relative_error(vae.decode(TENSORS["dac.latents"]).sample, TENSORS["dac.decoded"]) < 1e-5


def test_weight_norm_makes_no_difference():
    folded = {}
    for name, tensor in dac().items():
        if name.endswith("weight_v"):
            norm = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            folded[name[:-2]] = tensor * dac()[f"{name[:-1]}g"] / norm
        elif not name.endswith("weight_g"):
            folded[name] = tensor
    expected = convert_dac(dac()).state_dict()
    for name, tensor in convert_dac(folded).state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_tango_s_file_of_the_autoencoder_alone():
    released = {name.removeprefix("first_stage_model."): t for name, t in audioldm().items() if "first_stage" in name}
    vae, vocoder = convert_audioldm_vae(released, scale_factor=0.9), convert_hifigan(released)
    assert vae.config.scaling_factor == 0.9
    for tango, whole in ((vae, convert_audioldm_vae(audioldm())), (vocoder, convert_hifigan(audioldm()))):
        expected = whole.state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tango.state_dict().items())
    with pytest.raises(ValueError, match="missing scale_factor"):
        convert_audioldm_vae(released)


def test_released_mel_stage_fits_at_full_size():
    tensors = {
        f"first_stage_model.{name}": torch.empty(shape, device="meta")
        for name, shape in SHAPES["audioldm_full_size"].items()
    }
    vae = convert_audioldm_vae(tensors | {"scale_factor": torch.tensor(0.9)})
    assert vae.config.block_out_channels == [128, 256, 512] and vae.config.layers_per_block == 2
    vocoder = convert_hifigan(tensors)
    assert vocoder.config.upsample_kernel_sizes == [16, 16, 8, 4, 4]
    numbers = [sum(p.numel() for p in model.parameters()) for model in (vae, vocoder)]
    assert numbers == [55_376_873, 55_264_897]
    assert sum(numbers) == sum(tensor.numel() for tensor in tensors.values())


@pytest.mark.parametrize("convert, state_dict", [(convert_audioldm_vae, audioldm), (convert_hifigan, audioldm)])
def test_every_misfit_of_the_mel_stage_is_listed(convert, state_dict):
    state_dict = state_dict()
    prefix = "first_stage_model." + ("vocoder." if convert is convert_hifigan else "")
    one, two = ("conv_post", "resblocks.2.convs2.1") if "vocoder" in prefix else ("quant_conv", "encoder.mid.block_1")
    state_dict[f"{prefix}renamed.weight"] = state_dict.pop(f"{prefix}{one}.weight")
    shaped = f"{prefix}{two}.bias" if "vocoder" in prefix else f"{prefix}{two}.norm1.bias"
    state_dict[shaped] = torch.zeros(2)
    with pytest.raises(ValueError) as error:
        convert(state_dict)
    ours = shaped.removeprefix(prefix).replace("mid.block_1", "mid_block.resnets.0")
    for line in (f"missing {one}.weight", "unexpected renamed.weight", f"{ours} has shape (2,), not"):
        assert line in str(error.value)


def test_every_misfit_of_the_waveform_stage_is_listed():
    state_dict = dac()
    state_dict["decoder.model.2.block.9.alpha"] = state_dict.pop("decoder.model.2.block.3.block.2.alpha")
    state_dict["encoder.block.1.block.4.bias"] = torch.zeros(2)
    with pytest.raises(ValueError) as error:
        convert_dac(state_dict)
    for line in (
        "missing decoder.block.1.res_unit2.snake2.alpha",
        "unexpected decoder.model.2.block.9.alpha",
        "encoder.block.0.conv1.bias has shape (2,), not (8,)",
    ):
        assert line in str(error.value)
    with pytest.raises(ValueError, match=r"z_mean has shape \(4,\), not \(5,\)"):
        convert_dac(dac(), STATISTICS | {"z_mean": torch.zeros(4)})
    for convert in (convert_dac, convert_audioldm_vae, convert_hifigan):
        with pytest.raises(ValueError, match=r"missing .*complete checkpoint"):
            convert({"conv.weight": torch.zeros(1)})


def test_saved_and_loaded(tmp_path):
    convert_dac(dac(), STATISTICS).save_pretrained(tmp_path)
    loaded = AutoencoderDAC.from_pretrained(tmp_path)
    assert loaded.config.upsampling_ratios == [6, 4, 2] and loaded.config.latents_mean == STATISTICS["z_mean"].tolist()
    with torch.no_grad():
        assert relative_error(loaded.decode(TENSORS["dac.latents"]).sample, TENSORS["dac.decoded"]) < 1e-5
