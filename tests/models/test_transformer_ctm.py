"""AudioDiTModel and CTMAudioDiTModel: the recorded numbers of the official code, and diffusers' model contract."""

import pytest
import torch

import diffusers_soundctm
import golden
from diffusers_soundctm import AudioDiTModel, CTMAudioDiTModel, CTMScheduler
from diffusers_soundctm.distillation import TeacherDenoiser, feature_distance, heun_solve
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.features import TeacherFeatures
from diffusers_soundctm.distillation.losses import denoising_loss, l2_distance
from diffusers_soundctm.preconditioning import jump
from diffusers_soundctm.schedulers import scheduling_ctm

EDM = Preconditioning("edm", sigma_data=0.5)
GAMMA = {"deterministic": 0.0, "cm_multistep": 1.0}
CONDITION = torch.tensor([[0.05, 3.5], [40.0, 2.0]])


@pytest.fixture(scope="module")
def tensors():
    return golden.read("dit/golden_dit.safetensors")


@pytest.fixture(scope="module")
def record():
    return golden.read("dit/golden_dit.json")


def tokens(prompts: list[str]) -> torch.Tensor:
    embeddings = golden.read("dit/prompt_embeddings.json")
    return torch.tensor([embeddings[prompt] for prompt in prompts])[:, None]


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def student_jump(sample, sigma, target_sigma, omega, states):
    condition = torch.stack([target_sigma, omega], -1)
    denoised = Denoiser(golden.dit_student(), EDM)(sample, sigma, encoder_hidden_states=states, timestep_cond=condition)
    return jump(denoised, sample, sigma, target_sigma)


def tiny(kind: type = AudioDiTModel) -> AudioDiTModel:
    torch.manual_seed(0)
    return kind(
        sample_size=12,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        num_key_value_attention_heads=1,
        cross_attention_dim=32,
        cross_attention_input_dim=16,
    )


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(2, 4, 12, generator=generator),
        "timestep": torch.tensor([0.3, 1.0]),
        "encoder_hidden_states": torch.randn(2, 3, 16, generator=generator),
    }


class TestGolden:
    @pytest.fixture(autouse=True)
    def without_gradients(self):
        with torch.no_grad():
            yield

    @pytest.mark.parametrize("case", ["f00", "f01", "f02"])
    def test_forward(self, tensors, case):
        sample, sigma, target, omega, states = (tensors[f"{case}.{name}"] for name in ("x", "t", "s", "omega", "cond"))
        model_input, timestep = EDM.network_input(sample, sigma)
        mask = torch.ones(states.shape[:2], dtype=torch.bool)
        condition = torch.stack([target, omega], -1)
        output = golden.dit_student()(model_input, timestep, states, condition, encoder_attention_mask=mask).sample
        close(output, tensors[f"{case}.F"])
        denoised = EDM.denoised(output, sample, sigma)
        close(denoised, tensors[f"{case}.g"])
        close(jump(denoised, sample, sigma, target), tensors[f"{case}.G"])
        if f"{case}.teacher_F" in tensors:
            close(golden.dit_teacher()(model_input, timestep, states).sample, tensors[f"{case}.teacher_F"])
            denoised = Denoiser(golden.dit_teacher(), EDM)(sample, sigma, encoder_hidden_states=states)
            close(denoised, tensors[f"{case}.teacher_D"])

    def test_whole_chains(self, tensors, record, monkeypatch):
        for case in record["samplers"]:
            scheduler = CTMScheduler(sigma_data=0.5)
            sigmas = None if case["ts"] is None else [*case["call_t"], 0.002]
            gamma = GAMMA.get(case["sampler"], case.get("gamma"))
            scheduler.set_timesteps(case["steps"] if sigmas is None else None, gamma=gamma, sigmas=sigmas)
            draws = iter(tensors.get(f"{case['id']}.noise", []))
            monkeypatch.setattr(scheduling_ctm, "randn_tensor", lambda *_, draws=draws, **__: next(draws))
            sample = tensors[case["x_T"]]
            states = tokens(case["prompts"] + [""] * len(case["prompts"]))
            for timestep, target in zip(scheduler.timesteps, scheduler.target_sigmas, strict=True):
                output = golden.dit_student()(
                    scheduler.scale_model_input(sample, timestep).repeat(2, 1, 1),
                    timestep,
                    states,
                    timestep_cond=torch.stack([target, torch.tensor(case["omega"])]).expand(len(states), -1),
                ).sample
                conditional, unconditional = output.chunk(2)
                output = unconditional + case["nu"] * (conditional - unconditional)
                sample = scheduler.step(output, timestep, sample).prev_sample
            expected = tensors[f"{case['id']}.x0"]
            error = ((sample - expected).abs().max() / expected.abs().max()).item()
            assert error < 1e-4, f"{case['id']}: relative error {error:.1e}"

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_solver(self, tensors, record, steps):
        prompts = record["solver_prompts"]
        denoise = TeacherDenoiser(
            golden.dit_teacher(),
            EDM,
            {"encoder_hidden_states": tokens(prompts + [""] * len(prompts))},
            tensors["solver.omega"],
        )
        table = golden.read("training.safetensors")["t_table_train"]
        sigmas = torch.stack([table[tensors["solver.indices"].long() + k] for k in range(steps + 1)])
        close(heun_solve(denoise, tensors["solver.x_t"], sigmas), tensors[f"solver.cfg.k{steps}"], 1e-4)

    def test_estimate_target_and_distances(self, tensors, record):
        states, omega = tokens(record["solver_prompts"]), tensors["solver.omega"]
        t, s = tensors["solver.t"], tensors["solver.s"]
        u = golden.read("training.safetensors")["t_table_train"][tensors["solver.indices"].long() + 5]
        estimate = student_jump(tensors["solver.x_t"], t, s, omega, states)
        target = student_jump(tensors["solver.cfg.k5"], u, s, omega, states)
        close(estimate, tensors["unit.estimate_zs"], 1e-4)
        close(target, tensors["unit.target_zs"], 1e-4)
        close(l2_distance(estimate, target), tensors["unit.loss.l2"], 1e-4)
        # The recorded features come from separate blocks and are normalized along tokens instead of channels.
        distance = feature_distance(*(unchained_features(z, s, states) for z in (estimate, target)))
        close(distance, tensors["unit.loss.feature_space"], 1e-4)

    def test_every_block(self, tensors, record):
        states = tokens(record["features"]["prompts"])
        features = unchained_features(tensors["feat.x"], tensors["feat.sigma"], states)
        for index, feature in enumerate(features):
            close(feature, tensors[f"feat.{index:02}"])

    def test_denoising_score_matching(self, tensors, record):
        clean, sigma = tensors["dsm.x_start"], tensors["dsm.sigmas"]
        noisy = clean + sigma[:, None, None] * tensors["dsm.noise"]
        denoised = Denoiser(golden.dit_student(), EDM)(
            noisy,
            sigma,
            encoder_hidden_states=tokens(record["solver_prompts"]),
            timestep_cond=torch.stack([sigma, tensors["solver.omega"]], -1),
        )
        loss = denoising_loss(denoised, clean, sigma, 0.5)
        assert loss.mean().item() == pytest.approx(record["denoising_unweighted_mean"], rel=1e-4)
        close(loss * record["balance_weight"], tensors["dsm.denoising_loss"], 1e-4)


def unchained_features(sample, sigma, states) -> list[torch.Tensor]:
    """As in the recording: apply every block of the teacher to the input of the first."""
    teacher, first = golden.dit_teacher(), []
    hook = teacher.transformer_blocks[0].register_forward_pre_hook(
        lambda block, args, kwargs: first.append((args, kwargs)), with_kwargs=True
    )
    teacher(*EDM.network_input(sample, sigma), states)
    hook.remove()
    ((args, kwargs),) = first
    return [block(*args, **kwargs) for block in teacher.transformer_blocks]


@torch.no_grad()
def test_features_are_chained_with_channels_first():
    teacher = tiny()
    output, features = TeacherFeatures(teacher)(**inputs())
    assert [tuple(feature.shape) for feature in features] == [(2, 64, 13)] * 2
    last = teacher.proj_out(features[-1].transpose(1, 2))[:, 1:].transpose(1, 2)
    close(last + teacher.postprocess_conv(last), output)
    half, first = TeacherFeatures(teacher, "half")(**inputs())
    assert half is None and len(first) == 1 and torch.equal(first[0], features[0])


@torch.no_grad()
def test_student_starts_with_its_teachers_weights_and_sees_s_and_omega():
    teacher = tiny()
    student = CTMAudioDiTModel.from_teacher(teacher)
    assert student.state_dict().keys() == teacher.state_dict().keys()
    assert all(torch.equal(tensor, student.state_dict()[name]) for name, tensor in teacher.state_dict().items())
    outputs = [
        student(**inputs(), timestep_cond=condition).sample
        for condition in (
            CONDITION,
            CONDITION * torch.tensor([0.5, 1]),
            CONDITION * torch.tensor([1, 0.5]),
            CONDITION[:, :1],
        )
    ]
    assert all(torch.isfinite(output).all() for output in outputs)
    assert all(not torch.allclose(outputs[0], other) for other in outputs[1:])


def test_wrong_teacher_and_wrong_condition_are_refused():
    with pytest.raises(ValueError, match="Linear; pass a network of the class that CTMAudioDiTModel extends"):
        CTMAudioDiTModel.from_teacher(torch.nn.Linear(1, 1))
    for condition in (None, torch.ones(2), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="timestep_cond"):
            tiny(CTMAudioDiTModel)(**inputs(), timestep_cond=condition)


@torch.no_grad()
def test_masked_tokens_do_not_count():
    student, given = tiny(CTMAudioDiTModel), inputs()
    mask = torch.tensor([[True, True, False]]).expand(2, -1)
    short = given | {"encoder_hidden_states": given["encoder_hidden_states"][:, :2]}
    masked = student(**given, timestep_cond=CONDITION, encoder_attention_mask=mask).sample
    close(masked, student(**short, timestep_cond=CONDITION).sample)


@torch.no_grad()
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_save_and_load(variant, tmp_path):
    student = tiny(CTMAudioDiTModel)
    student.save_pretrained(tmp_path, variant=variant)
    loaded = CTMAudioDiTModel.from_pretrained(tmp_path, variant=variant)
    assert dict(loaded.config).items() >= {"num_layers": 2, "in_channels": 4, "cross_attention_dim": 32}.items()
    arguments = {**inputs(), "timestep_cond": CONDITION}
    assert torch.equal(loaded(**arguments).sample, student(**arguments).sample)
    assert type(loaded).__module__ == "diffusers_soundctm" and hasattr(diffusers_soundctm, type(loaded).__name__)


@torch.no_grad()
def test_half_precision_does_not_merge_near_noise_levels(tmp_path):
    student = tiny(CTMAudioDiTModel)
    student.save_pretrained(tmp_path)
    half = CTMAudioDiTModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    near = torch.tensor([1.000, 1.003])
    assert near.bfloat16().unique().numel() == 1
    torch.testing.assert_close(half.fourier(near), student.fourier(near))
    given = {name: tensor.bfloat16() if tensor.ndim == 3 else tensor for name, tensor in inputs().items()}
    output = half(**given, timestep_cond=CONDITION).sample
    expected = student(**inputs(), timestep_cond=CONDITION).sample
    assert (output - expected).norm() < 0.02 * expected.norm()


def test_gradient_checkpointing_changes_no_gradient():
    student = tiny(CTMAudioDiTModel).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            student.enable_gradient_checkpointing()
        student.zero_grad()
        student(**inputs(), timestep_cond=CONDITION).sample.square().mean().backward()
        trained = (parameter for parameter in student.parameters() if parameter.requires_grad)
        gradients.append([parameter.grad.clone() for parameter in trained])
    for without, with_checkpointing in zip(*gradients, strict=True):
        close(with_checkpointing, without)


def test_compiles_without_graph_breaks():
    student = tiny(CTMAudioDiTModel).eval()
    torch.compiler.reset()
    compiled = torch.compile(student, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected = student(**inputs(), timestep_cond=CONDITION).sample
        close(compiled(**inputs(), timestep_cond=CONDITION).sample, expected)
