"""CTMUNet2DConditionModel: initialized from its teacher, and diffusers' model contract."""

import pytest
import torch
from diffusers import UNet2DConditionModel

import diffusers_soundctm
from diffusers_soundctm import CTMTimestepEmbedding, CTMUNet2DConditionModel
from diffusers_soundctm.models.embeddings import guidance_embedding

TINY = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
CLASS = {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 12}
FAMILIES = {
    "tango": {"cross_attention_dim": 12},
    "audioldm": {"cross_attention_dim": (8, 16), "class_embeddings_concat": True, **CLASS},
    "embedded": {"cross_attention_dim": 12, **CLASS},
}


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


def make_teacher(family: str) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**TINY, **FAMILIES[family])


def make_inputs(family: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "sample": torch.randn(2, 8, 16, 8, generator=generator),
        "timestep": torch.tensor([3.5, 800.25]),
        "encoder_hidden_states": None,
    }
    if family != "audioldm":
        inputs["encoder_hidden_states"] = torch.randn(2, 5, 12, generator=generator)
        inputs["encoder_attention_mask"] = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    if family != "tango":
        inputs["class_labels"] = torch.randn(2, 12, generator=generator)
    return inputs


CONDITION = torch.tensor([[0.05, 3.5], [40.0, 2.0]])


@torch.no_grad()
def test_zero_initialized_student_is_its_teacher(family):
    teacher, inputs = make_teacher(family), make_inputs(family)
    student = CTMUNet2DConditionModel.from_teacher(teacher, branch_init="zero")
    assert torch.equal(student(**inputs, timestep_cond=CONDITION).sample, teacher(**inputs).sample)


def test_both_new_branches_of_a_zero_start_learn(family):
    student = CTMUNet2DConditionModel.from_teacher(make_teacher(family), branch_init="zero")
    student(**make_inputs(family), timestep_cond=CONDITION).sample.square().mean().backward()
    embedding = student.time_embedding
    assert embedding.guidance_proj.weight.grad.abs().max() > 0
    assert embedding.target_embedding.linear_2.weight.grad.abs().max() > 0


@torch.no_grad()
def test_reference_start_sees_s_and_omega_and_keeps_the_teachers_weights(family):
    teacher, inputs = make_teacher(family), make_inputs(family)
    student = CTMUNet2DConditionModel.from_teacher(teacher)
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], tensor)
    new = student.state_dict().keys() - teacher.state_dict().keys()
    assert new == {f"time_embedding.target_embedding.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    outputs = [
        student(**inputs, timestep_cond=condition).sample
        for condition in (CONDITION, CONDITION * torch.tensor([0.5, 1]), CONDITION * torch.tensor([1, 0.5]))
    ]
    assert all(torch.isfinite(output).all() for output in outputs)
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])


@torch.no_grad()
def test_without_omega_only_its_term_is_left_out():
    embedding = CTMTimestepEmbedding(8, 32)
    sample = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    difference = embedding(sample, CONDITION) - embedding(sample, CONDITION[:, :1])
    torch.testing.assert_close(difference, guidance_embedding(CONDITION[:, 1], 32))


@torch.no_grad()
def test_s_of_a_vp_student_is_embedded_as_the_teachers_step():
    """With MLP_s equal to MLP and no ω, s = t doubles the embedding of t."""
    embedding = CTMTimestepEmbedding(8, 32, prediction_type="epsilon")
    embedding.target_embedding.load_state_dict(
        {name: tensor for name, tensor in embedding.state_dict().items() if name.startswith("linear")}
    )
    scheduler = diffusers_soundctm.CTMScheduler(prediction_type="epsilon")
    scheduler.set_timesteps(3)
    of_t = embedding.time_proj(scheduler.timesteps)
    both = embedding(of_t, scheduler.sigmas[:-1, None])
    torch.testing.assert_close(both, 2 * embedding.target_embedding(of_t), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("branch_init", ["reference", "zero"])
def test_save_and_load(family, variant, branch_init, tmp_path):
    student = CTMUNet2DConditionModel.from_teacher(
        make_teacher(family), prediction_type="v_prediction", beta_end=0.02, branch_init=branch_init
    )
    student.save_pretrained(tmp_path, variant=variant)
    loaded = CTMUNet2DConditionModel.from_pretrained(tmp_path, variant=variant)
    assert loaded.config.prediction_type == "v_prediction" and loaded.config.beta_end == 0.02
    for key in (*TINY, *FAMILIES[family]):
        saved = student.config[key]
        assert loaded.config[key] == (list(saved) if isinstance(saved, tuple) else saved)
    inputs = make_inputs(family)
    assert torch.equal(
        loaded(**inputs, timestep_cond=CONDITION).sample, student(**inputs, timestep_cond=CONDITION).sample
    )


def test_gradient_checkpointing_changes_no_gradient(family):
    student = CTMUNet2DConditionModel.from_teacher(make_teacher(family)).train()
    gradients = []
    for enable in (student.disable_gradient_checkpointing, student.enable_gradient_checkpointing):
        enable()
        student.zero_grad()
        student(**make_inputs(family), timestep_cond=CONDITION).sample.square().mean().backward()
        # AudioLDM's attention does not see text, so the norms of its cross-attention have no gradient in either run.
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 50
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["edm", "epsilon"])
def test_compiles_without_graph_breaks(family, prediction_type):
    student = CTMUNet2DConditionModel.from_teacher(make_teacher(family), prediction_type=prediction_type)
    inputs = make_inputs(family)
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(**inputs, timestep_cond=CONDITION).sample, student(**inputs, timestep_cond=CONDITION).sample
    )


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", ["edm", "epsilon"])
def test_bfloat16_embeds_s_and_omega_in_full_precision(prediction_type):
    embedding = CTMTimestepEmbedding(8, 32, prediction_type=prediction_type)
    sample = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    exact = embedding(sample, CONDITION)
    half = embedding.bfloat16()(sample.bfloat16(), CONDITION)
    assert half.dtype == torch.bfloat16
    # In bfloat16, the error of a sinusoid of 1000·ω, or of a step near 1000, is as large as its amplitude.
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.03)


@torch.no_grad()
def test_bfloat16_student(family):
    student = CTMUNet2DConditionModel.from_teacher(make_teacher(family).bfloat16())
    assert student.dtype == torch.bfloat16
    inputs = {
        name: value.bfloat16() if value is not None and value.is_floating_point() and name != "timestep" else value
        for name, value in make_inputs(family).items()
    }
    output = student(**inputs, timestep_cond=CONDITION).sample
    assert output.dtype == torch.bfloat16 and torch.isfinite(output).all()


def test_recorded_module_is_the_package():
    assert CTMUNet2DConditionModel.__module__ == "diffusers_soundctm"
    assert getattr(diffusers_soundctm, "CTMUNet2DConditionModel") is CTMUNet2DConditionModel  # noqa: B009


@pytest.mark.parametrize("condition", [None, torch.zeros(2), torch.zeros(2, 3)])
def test_missing_or_misshapen_condition_is_named(condition):
    student = CTMUNet2DConditionModel.from_teacher(make_teacher("tango"))
    with pytest.raises(ValueError, match="timestep_cond"):
        student(**make_inputs("tango"), timestep_cond=condition)


def test_unfit_teachers_are_refused():
    student = CTMUNet2DConditionModel.from_teacher(make_teacher("tango"))
    with pytest.raises(ValueError, match="does not fit"):
        CTMUNet2DConditionModel.from_teacher(student)
    with pytest.raises(ValueError, match="time_cond_proj_dim"):
        CTMUNet2DConditionModel.from_teacher(UNet2DConditionModel(**TINY, cross_attention_dim=12, time_cond_proj_dim=4))
    with pytest.raises(ValueError, match="branch_init"):
        CTMUNet2DConditionModel.from_teacher(make_teacher("tango"), branch_init="ones")
