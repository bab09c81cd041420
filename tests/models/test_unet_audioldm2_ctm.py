"""CTMAudioLDM2UNet2DConditionModel: the UNet student with two sequences of text embeddings."""

import pytest
import torch
from diffusers import AudioLDM2UNet2DConditionModel

from diffusers_soundctm.models.unet_audioldm2_ctm import CTMAudioLDM2UNet2DConditionModel
from diffusers_soundctm.pipelines.conditioning import conditioning_for

CONDITION = torch.tensor([[0.05, 3.5], [40.0, 2.0]])


@pytest.fixture
def teacher() -> AudioLDM2UNet2DConditionModel:
    torch.manual_seed(0)
    return AudioLDM2UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 12, 16], [None, 12, 16]),
    )


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 8, 16, 8, generator=generator),
        "timestep": torch.tensor([3.5, 800.25]),
        "encoder_hidden_states": torch.randn(2, 3, 12, generator=generator),
        "encoder_hidden_states_1": torch.randn(2, 5, 16, generator=generator),
        "encoder_attention_mask_1": torch.tensor([[True] * 5, [True] * 2 + [False] * 3]),
    }


@torch.no_grad()
def test_zero_initialized_student_is_its_teacher(teacher, inputs):
    student = CTMAudioLDM2UNet2DConditionModel.from_teacher(teacher, branch_init="zero")
    assert torch.equal(student(**inputs, timestep_cond=CONDITION).sample, teacher(**inputs).sample)


@torch.no_grad()
def test_saved_student_sees_s_and_omega_as_before(teacher, inputs, tmp_path):
    student = CTMAudioLDM2UNet2DConditionModel.from_teacher(teacher, prediction_type="epsilon")
    student.save_pretrained(tmp_path)
    loaded = CTMAudioLDM2UNet2DConditionModel.from_pretrained(tmp_path)
    assert loaded.config.prediction_type == "epsilon"
    output = student(**inputs, timestep_cond=CONDITION).sample
    assert torch.equal(loaded(**inputs, timestep_cond=CONDITION).sample, output)
    for changed in (CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5])):
        assert not torch.allclose(student(**inputs, timestep_cond=changed).sample, output)


@torch.no_grad()
def test_compiles_without_graph_breaks(teacher, inputs):
    student = CTMAudioLDM2UNet2DConditionModel.from_teacher(teacher, prediction_type="epsilon")
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(**inputs, timestep_cond=CONDITION).sample, student(**inputs, timestep_cond=CONDITION).sample
    )


def test_a_compiled_student_is_told_the_same(teacher):
    student = CTMAudioLDM2UNet2DConditionModel.from_teacher(teacher)
    assert type(conditioning_for(torch.compile(student))) is type(conditioning_for(student))
