"""Released 44.1 kHz checkpoints become the right model, or are refused with the right words."""

import pytest
import torch
from safetensors.torch import load_file

import golden
from diffusers_soundctm import AudioDiTModel, CTMAudioDiTModel
from diffusers_soundctm.conversion import convert_soundctm_dit

CONFIG = golden.read("dit/dit_config.json")


def test_student_and_teacher_are_told_apart():
    assert type(golden.dit_student()) is CTMAudioDiTModel and not golden.dit_student().training
    assert type(golden.dit_teacher()) is AudioDiTModel


def test_names_without_prefix_and_other_networks_beside(tmp_path):
    whole = golden.read("dit/student_dit.safetensors")
    bare = {name.removeprefix("dit."): tensor for name, tensor in whole.items()}
    for state_dict in (whole | {"text_encoder.model.weight": torch.zeros(1)}, bare):
        converted = convert_soundctm_dit(state_dict, CONFIG).state_dict()
        assert all(torch.equal(tensor, converted[name]) for name, tensor in golden.dit_student().state_dict().items())
    golden.dit_student().save_pretrained(tmp_path)  # q, k and v are views of one tensor: they must be written apart
    saved = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in golden.dit_student().state_dict().items())


def test_every_misfit_is_listed_at_once():
    state_dict = golden.read("dit/student_dit.safetensors")
    state_dict["dit.preprocess.weight"] = state_dict.pop("dit.preprocess_conv.weight")
    state_dict["dit.transformer.layers.1.ff.gate"] = torch.zeros(1)
    state_dict["dit.transformer.layers.0.cross_attn.to_kv.weight"] = torch.zeros(64, 64)
    del state_dict["dit.transformer.project_out.weight"]
    with pytest.raises(ValueError) as error:
        convert_soundctm_dit(state_dict, CONFIG)
    for line in (
        "missing preprocess_conv.weight",
        "unexpected preprocess.weight",
        "unexpected transformer_blocks.1.ff.gate",
        "missing proj_out.weight",
        "transformer_blocks.0.attn2.to_k.weight has shape (32, 64), not (64, 64)",
    ):
        assert line in str(error.value)


def test_another_kind_of_transformer_is_refused():
    with pytest.raises(ValueError, match="transformer_type = 'x-transformers'"):
        convert_soundctm_dit({}, CONFIG | {"transformer_type": "x-transformers"})


@pytest.mark.parametrize("version, parameters", [("v1", 1_035_725_952), ("v2", 1_052_109_952)])
def test_full_size_release_fits_by_name_and_shape(version, parameters):
    released = golden.read(f"dit/full_size_{version}_shapes.json")
    student = {name: torch.empty(shape, device="meta") for name, shape in released["student"].items()}
    teacher_only = dict.fromkeys(released["teacher_only"], torch.empty(1536, 1536, device="meta"))
    for state_dict, kind in ((student, CTMAudioDiTModel), (student | teacher_only, AudioDiTModel)):
        model = convert_soundctm_dit(state_dict, released["config"])
        assert type(model) is kind
        trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
        assert sum(parameter.numel() for parameter in trained) == parameters
