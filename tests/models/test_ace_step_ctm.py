"""CTMAceStepTransformer1DModel: equal to its teacher when initialized, blind to padding, and diffusers' contract."""

import pytest
import torch
from diffusers import AceStepTransformer1DModel

from diffusers_soundctm import CTMAceStepTransformer1DModel
from diffusers_soundctm.lora import add_lora
from diffusers_soundctm.models.ace_step_ctm import AceStepNetwork

CONDITION = torch.tensor([[0.5, 3.5], [4.0, 2.0]])
TINY = {
    "hidden_size": 16,
    "encoder_hidden_size": 12,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "in_channels": 12,
    "audio_acoustic_hidden_dim": 4,
    "sliding_window": 3,
}


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    return AceStepTransformer1DModel(**TINY).eval()


@pytest.fixture(scope="module")
def teacher(original):
    network = AceStepNetwork(**TINY).eval()
    network.load_state_dict(original.state_dict())
    torch.nn.init.normal_(network.silence_latent)
    return network


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 11, generator=generator),
        "timestep": torch.tensor([0.5, 0.9]),
        "encoder_hidden_states": torch.randn(2, 5, 12, generator=generator),
        "encoder_attention_mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    }


@torch.no_grad()
def test_equals_the_stock_network_on_each_prompt_without_its_padding(original, teacher, inputs):
    actual = teacher(**inputs).sample
    silence = teacher.silence_latent[:, :11]
    context = torch.cat([silence, torch.ones_like(silence)], dim=-1)
    for row, length in enumerate((5, 3)):
        sample, time = inputs["sample"][row : row + 1].transpose(1, 2), inputs["timestep"][row : row + 1]
        expected = original(sample, time, time, inputs["encoder_hidden_states"][row : row + 1, :length], context).sample
        torch.testing.assert_close(actual[row : row + 1], expected.transpose(1, 2))


@torch.no_grad()
def test_reference_branches_use_the_teachers_branch_of_t_minus_r(original, teacher, inputs):
    student = CTMAceStepTransformer1DModel.from_teacher(teacher).eval()
    where = torch.tensor([[0.5], [4.0]])  # without ω
    actual = student(**inputs, timestep_cond=where).sample[:1]
    silence = teacher.silence_latent[:, :11]
    context = torch.cat([silence, torch.ones_like(silence)], dim=-1)
    sample, time, text = inputs["sample"][:1].transpose(1, 2), inputs["timestep"][:1], inputs["encoder_hidden_states"]
    expected = original(sample, time, torch.tensor([0.5 / 1.5]), text[:1], context).sample
    torch.testing.assert_close(actual, expected.transpose(1, 2))


@torch.no_grad()
def test_zero_branches_start_at_the_teacher_and_reference_ones_see_s_and_omega(teacher, inputs):
    expected = teacher(**inputs).sample
    student = CTMAceStepTransformer1DModel.from_teacher(teacher, branch_init="zero")
    torch.testing.assert_close(student(**inputs, timestep_cond=CONDITION).sample, expected)
    student = CTMAceStepTransformer1DModel.from_teacher(teacher)
    conditions = (CONDITION, CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5]), CONDITION[:, :1])
    first, *others = (student(**inputs, timestep_cond=condition).sample for condition in conditions)
    assert first.isfinite().all() and all(not torch.allclose(first, other) for other in others)


@torch.no_grad()
def test_saves_the_silence_and_repeats_it_for_long_audio(teacher, inputs, tmp_path):
    student = CTMAceStepTransformer1DModel.from_teacher(teacher, branch_init="zero").eval()
    student.save_pretrained(tmp_path)
    loaded = CTMAceStepTransformer1DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.silence_latent, teacher.silence_latent)
    expected = student(**inputs, timestep_cond=CONDITION).sample
    torch.testing.assert_close(loaded(**inputs, timestep_cond=CONDITION).sample, expected)
    loaded.silence_latent = loaded.silence_latent[:, :4]
    assert loaded(**inputs, timestep_cond=CONDITION).sample.shape == expected.shape


def test_missing_condition_and_unfit_teachers_are_named(teacher, inputs):
    student = CTMAceStepTransformer1DModel.from_teacher(teacher, branch_init="zero")
    with pytest.raises(ValueError, match="timestep_cond"):
        student(**inputs)
    with pytest.raises(ValueError, match="does not fit"):
        CTMAceStepTransformer1DModel.from_teacher(student)


def test_gradient_checkpointing_and_adapters(teacher, inputs):
    student = CTMAceStepTransformer1DModel.from_teacher(teacher, branch_init="zero")
    trained = add_lora(student, 2)
    assert any("cross_attn.to_k.lora_A" in name for name, _ in student.named_parameters())
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
    student = CTMAceStepTransformer1DModel.from_teacher(teacher, branch_init="zero").eval()
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    expected = student(**inputs, timestep_cond=CONDITION).sample
    torch.testing.assert_close(compiled(**inputs, timestep_cond=CONDITION).sample, expected)
