"""Released 16 kHz checkpoints give the numbers, the names and the complaints they should."""

import pytest
import torch
from diffusers import UNet2DConditionModel

import golden
from diffusers_soundctm import CTMUNet2DConditionModel
from diffusers_soundctm.conversion import convert_soundctm_unet
from diffusers_soundctm.preconditioning import c_in, c_noise, denoised, jump, per_sample

SIGMA_DATA = 0.25


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("case", ["f00", "f01", "f04", "f06", "f07", "f08"])
def test_forward_matches_the_reference(case):
    tensors = golden.read("forward.safetensors")
    sample, sigma, target = (tensors[f"{case}.{name}"] for name in "xts")
    omega = [tensors[f"{case}.omega"]] if f"{case}.omega" in tensors else []
    inputs = {
        "sample": per_sample(c_in(sigma, sigma_data=SIGMA_DATA), sample) * sample,
        "timestep": c_noise(sigma),
        "encoder_hidden_states": tensors[f"{case}.encoder_hidden_states"],
        "encoder_attention_mask": tensors[f"{case}.mask"].bool(),
    }
    output = golden.student()(**inputs, timestep_cond=torch.stack([target, *omega], -1)).sample
    estimate = denoised(output, sample, sigma, sigma_data=SIGMA_DATA)

    assert relative_error(output, tensors[f"{case}.F"]) < 1e-5
    assert relative_error(estimate, tensors[f"{case}.g"]) < 1e-5
    assert relative_error(jump(estimate, sample, sigma, target), tensors[f"{case}.G"]) < 1e-5
    assert relative_error(golden.teacher()(**inputs).sample, tensors[f"{case}.teacher_F"]) < 1e-5


def test_student_and_teacher_are_told_apart():
    assert type(golden.student()) is CTMUNet2DConditionModel and not golden.student().training
    assert type(golden.teacher()) is UNet2DConditionModel


def test_ema_file_without_prefix_is_the_student_too():
    whole = golden.read("student.safetensors") | {"text_encoder.shared.weight": torch.zeros(1)}
    bare = {name.removeprefix("ctm_unet."): tensor for name, tensor in whole.items() if name.startswith("ctm_unet.")}
    for state_dict in (whole, bare):
        converted = convert_soundctm_unet(state_dict, golden.read("unet_config.json"))
        assert type(converted) is CTMUNet2DConditionModel
        for name, tensor in golden.student().state_dict().items():
            assert torch.equal(converted.state_dict()[name], tensor)


def test_every_misfit_is_listed_at_once():
    state_dict = golden.read("student.safetensors")
    del state_dict["ctm_unet.conv_in.bias"]
    state_dict["ctm_unet.conv_out.weight"] = torch.zeros(1, 2)
    state_dict["ctm_unet.extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        convert_soundctm_unet(state_dict, golden.read("unet_config.json"))
    for line in ("missing conv_in.bias", "unexpected extra", "conv_out.weight has shape (1, 2), not (8, 16, 3, 3)"):
        assert line in str(error.value)


def test_full_size_release_fits_by_name_and_shape():
    shapes = golden.read("full_size_student_shapes.json")["tensors"]
    config = golden.read("unet_config.json") | {
        "attention_head_dim": [5, 10, 20, 20],
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "norm_num_groups": 32,
    }
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    model = convert_soundctm_unet(tensors, config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 867_984_328
