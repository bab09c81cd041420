"""CTMStableAudio3DiTModel: equal to its teacher when initialized, and diffusers' model contract."""

import pytest
import torch

from diffusers_soundctm import CTMStableAudio3DiTModel
from diffusers_soundctm.lora import add_lora
from diffusers_soundctm.models.stable_audio_3_ctm import StableAudio3Network

CONDITION = torch.tensor([[0.5, 3.5], [40.0, 2.0]])
TINY = {
    "io_channels": 4,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "cond_token_dim": 8,
    "global_cond_dim": 8,
    "local_add_cond_dim": 5,
    "timestep_features_dim": 16,
    "num_memory_tokens": 3,
}


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return StableAudio3Network(**TINY).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 12, generator=generator),
        "timestep": torch.tensor([0.3, 0.9]),
        "encoder_hidden_states": torch.randn(2, 3, 8, generator=generator),
        "encoder_attention_mask": torch.tensor([[True, True, True], [True, False, True]]),
        "global_hidden_states": torch.randn(2, 8, generator=generator),
    }


@torch.no_grad()
def test_zero_branches_start_at_the_teacher_and_reference_ones_see_s_and_omega(teacher, inputs):
    expected = teacher(**inputs).sample
    student = CTMStableAudio3DiTModel.from_teacher(teacher, branch_init="zero")
    torch.testing.assert_close(student(**inputs, timestep_cond=CONDITION).sample, expected)
    student = CTMStableAudio3DiTModel.from_teacher(teacher)
    conditions = (CONDITION, CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5]), CONDITION[:, :1])
    first, *others = (student(**inputs, timestep_cond=condition).sample for condition in conditions)
    assert first.isfinite().all() and all(not torch.allclose(first, other) for other in others)


def test_missing_condition_and_unfit_teachers_are_named(teacher, inputs):
    student = CTMStableAudio3DiTModel.from_teacher(teacher, branch_init="zero")
    with pytest.raises(ValueError, match="timestep_cond"):
        student(**inputs)
    with pytest.raises(ValueError, match="does not fit"):
        CTMStableAudio3DiTModel.from_teacher(student)


def test_gradient_checkpointing_and_adapters(teacher, inputs):
    student = CTMStableAudio3DiTModel.from_teacher(teacher, branch_init="zero")
    trained = add_lora(student, 2)
    assert any("to_qkv.lora_A" in name for name, _ in student.named_parameters())
    gradients = []
    for checkpointing in (False, True):
        student.zero_grad()
        if checkpointing:
            student.enable_gradient_checkpointing()
        student.train()(**inputs, timestep_cond=CONDITION).sample.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
    assert gradients[0].norm() > 0
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_compiles_without_graph_breaks(teacher, inputs):
    student = CTMStableAudio3DiTModel.from_teacher(teacher, branch_init="zero").eval()
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    expected = student(**inputs, timestep_cond=CONDITION).sample
    torch.testing.assert_close(compiled(**inputs, timestep_cond=CONDITION).sample, expected)
