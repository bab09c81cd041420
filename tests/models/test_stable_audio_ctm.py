"""CTMStableAudioDiTModel: equal to its teacher when initialized, and diffusers' model contract."""

import pytest
import torch

from diffusers_soundctm import CTMStableAudioDiTModel
from diffusers_soundctm.models.stable_audio_ctm import StableAudioNetwork

CONDITION = torch.tensor([[0.5, 3.5], [40.0, 2.0]])
TINY = {
    "sample_size": 12,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "num_key_value_attention_heads": 1,
    "cross_attention_dim": 8,
    "cross_attention_input_dim": 8,
    "global_states_input_dim": 16,
    "time_proj_dim": 16,
}


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return StableAudioNetwork(**TINY).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 12, generator=generator),
        "timestep": torch.tensor([0.3, 0.9]),
        "encoder_hidden_states": torch.randn(2, 3, 8, generator=generator),
        "global_hidden_states": torch.randn(2, 1, 16, generator=generator),
    }


@torch.no_grad()
def test_zero_branches_start_at_the_teacher_and_reference_ones_see_s_and_omega(teacher, inputs):
    expected = teacher(**inputs).sample
    student = CTMStableAudioDiTModel.from_teacher(teacher, branch_init="zero")
    torch.testing.assert_close(student(**inputs, timestep_cond=CONDITION).sample, expected)
    student = CTMStableAudioDiTModel.from_teacher(teacher)
    conditions = (CONDITION, CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5]), CONDITION[:, :1])
    first, *others = (student(**inputs, timestep_cond=condition).sample for condition in conditions)
    assert first.isfinite().all() and all(not torch.allclose(first, other) for other in others)


@pytest.mark.parametrize("condition", [None, torch.zeros(2), torch.zeros(2, 3)])
def test_missing_or_misshapen_condition_is_named(teacher, inputs, condition):
    student = CTMStableAudioDiTModel.from_teacher(teacher)
    with pytest.raises(ValueError, match="timestep_cond"):
        student(**inputs, timestep_cond=condition)


def test_unfit_teachers_and_branches_are_refused(teacher):
    with pytest.raises(ValueError, match="does not fit"):
        CTMStableAudioDiTModel.from_teacher(CTMStableAudioDiTModel.from_teacher(teacher, branch_init="zero"))
    with pytest.raises(ValueError, match="branch_init"):
        CTMStableAudioDiTModel.from_teacher(teacher, branch_init="ones")


@torch.no_grad()
def test_compiles_without_graph_breaks(teacher, inputs):
    student = CTMStableAudioDiTModel.from_teacher(teacher, branch_init="zero").eval()
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    expected = student(**inputs, timestep_cond=CONDITION).sample
    torch.testing.assert_close(compiled(**inputs, timestep_cond=CONDITION).sample, expected)
