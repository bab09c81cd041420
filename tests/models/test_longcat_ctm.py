"""CTMLongCatAudioDiTTransformer: equal to its teacher when initialized, blind to padding, and diffusers' contract."""

import copy

import pytest
import torch
from diffusers import LongCatAudioDiTTransformer

from diffusers_soundctm import CTMLongCatAudioDiTTransformer
from diffusers_soundctm.lora import add_lora
from diffusers_soundctm.models.longcat_ctm import LongCatNetwork
from tiny_teachers import like_a_trained_longcat

CONDITION = torch.tensor([[0.5, 3.5], [40.0, 2.0]])
TINY = {"dit_dim": 16, "dit_depth": 2, "dit_heads": 2, "dit_text_dim": 8, "latent_dim": 4, "ff_mult": 2.0}


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    network = LongCatAudioDiTTransformer(**TINY).eval()
    like_a_trained_longcat(network)
    return network


@pytest.fixture(scope="module")
def teacher(original):
    network = LongCatNetwork(**TINY).eval()
    network.load_state_dict(original.state_dict())
    return network


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 12, generator=generator),
        "timestep": torch.tensor([0.3, 0.9]),
        "encoder_hidden_states": torch.randn(2, 5, 8, generator=generator),
        "encoder_attention_mask": torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    }


@torch.no_grad()
def test_equals_the_stock_network_on_each_prompt_without_its_padding(original, teacher, inputs):
    actual = teacher(**inputs).sample
    for row, length in enumerate((5, 3)):
        sample = inputs["sample"][row : row + 1].transpose(1, 2)
        text = inputs["encoder_hidden_states"][row : row + 1, :length]
        mask = torch.ones(1, length, dtype=torch.bool)
        expected = original(sample, text, mask, inputs["timestep"][row], latent_cond=torch.zeros_like(sample)).sample
        torch.testing.assert_close(actual[row : row + 1], expected.transpose(1, 2))


@torch.no_grad()
def test_zero_branches_start_at_the_teacher_and_reference_ones_see_s_and_omega(teacher, inputs):
    expected = teacher(**inputs).sample
    student = CTMLongCatAudioDiTTransformer.from_teacher(teacher, branch_init="zero")
    torch.testing.assert_close(student(**inputs, timestep_cond=CONDITION).sample, expected)
    student = CTMLongCatAudioDiTTransformer.from_teacher(teacher)
    conditions = (CONDITION, CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5]), CONDITION[:, :1])
    first, *others = (student(**inputs, timestep_cond=condition).sample for condition in conditions)
    assert first.isfinite().all() and all(not torch.allclose(first, other) for other in others)


@torch.no_grad()
def test_bfloat16_tells_low_noise_levels_apart(teacher, inputs):
    """The stock forward rounds 0.998 and 0.999 to 1."""
    teacher = copy.deepcopy(teacher).to(torch.bfloat16)
    torch.nn.init.normal_(teacher.time_embed.time_mlp[0].weight, std=0.1)  # the high frequencies as well
    rest = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    outputs = [teacher(**rest | {"timestep": torch.tensor(timestep)}).sample for timestep in (0.002, 0.998, 0.999)]
    assert not torch.equal(outputs[1], outputs[2]) and not torch.equal(outputs[0], outputs[1])


def test_missing_condition_and_unfit_teachers_are_named(teacher, inputs):
    student = CTMLongCatAudioDiTTransformer.from_teacher(teacher, branch_init="zero")
    with pytest.raises(ValueError, match="timestep_cond"):
        student(**inputs)
    with pytest.raises(ValueError, match="does not fit"):
        CTMLongCatAudioDiTTransformer.from_teacher(student)


def test_gradient_checkpointing_and_adapters(teacher, inputs):
    student = CTMLongCatAudioDiTTransformer.from_teacher(teacher, branch_init="zero")
    trained = add_lora(student, 2)
    assert any("cross_attn.to_k.lora_A" in name for name, _ in student.named_parameters())
    gradients, calls = [], []
    for checkpointing in (False, True):
        student.zero_grad()
        if checkpointing:
            student.enable_gradient_checkpointing()
            student.blocks[0].ffn.register_forward_hook(lambda *_: calls.append(1))
        student.train()(**inputs, timestep_cond=CONDITION).sample.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trained if p.grad is not None]))
    assert gradients[0].norm() > 0 and len(calls) == 2  # once more in the backward pass
    torch.testing.assert_close(*gradients)


@torch.no_grad()
def test_compiles_without_graph_breaks(teacher, inputs):
    student = CTMLongCatAudioDiTTransformer.from_teacher(teacher, branch_init="zero").eval()
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    expected = student(**inputs, timestep_cond=CONDITION).sample
    torch.testing.assert_close(compiled(**inputs, timestep_cond=CONDITION).sample, expected)
