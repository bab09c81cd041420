"""Every quantity of a training step against the official code's recorded values."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, T5EncoderModel

from diffusers_soundctm.conversion import convert_soundctm_unet
from diffusers_soundctm.distillation import TeacherDenoiser, feature_distance, heun_solve
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.losses import l2_distance, pseudo_huber_distance
from diffusers_soundctm.distillation.objective import CTMObjective, NoisyLatents, Triples, jump
from diffusers_soundctm.pipelines.conditioning import conditioning_for
from diffusers_soundctm.training.ema import ema_update

GOLDEN = Path(__file__).parent.parent / "fixtures" / "golden"
EDM = Preconditioning("edm", sigma_data=0.25)
RECORD = json.loads((GOLDEN / "training.json").read_text())
CASES = {case["id"]: case for case in RECORD["e2e"]}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "training.safetensors")


@pytest.fixture(scope="module")
def teacher():
    return convert(GOLDEN / "teacher.safetensors").requires_grad_(False)


@pytest.fixture
def student():
    return convert(GOLDEN / "student.safetensors")


@pytest.fixture(scope="module")
def conditioning(teacher):
    text_encoder = T5EncoderModel.from_pretrained(GOLDEN / "tiny-t5").eval()
    return conditioning_for(teacher, text_encoder, AutoTokenizer.from_pretrained(GOLDEN / "tiny-t5"))


def convert(path):
    return convert_soundctm_unet(load_file(path), json.loads((GOLDEN / "unet_config.json").read_text()))


def scaled(student, factor=0.97):
    target = copy.deepcopy(student).requires_grad_(False)
    for parameter in target.parameters():
        parameter.mul_(factor)
    return target


def condition(conditioning, prompts):
    return conditioning.network_kwargs(*conditioning.encode(prompts, torch.device("cpu")))


def solve(golden, teacher, conditioning, prompts, start, indices, steps, omega):
    guided = [*prompts, *[""] * len(prompts)] if omega is not None else prompts
    denoise = TeacherDenoiser(teacher, EDM, condition(conditioning, guided), omega)
    sigmas = torch.stack([golden["t_table_train"][indices.long() + k] for k in range(steps + 1)])
    return heun_solve(denoise, start, sigmas)


def close(actual, expected, tolerance=1e-4):
    # Relative to the largest entry: the network's noise is that of its largest activations.
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("guidance, steps", [("cfg", 1), ("cfg", 2), ("cfg", 5), ("nocfg", 5)])
def test_solver(golden, teacher, conditioning, guidance, steps):
    omega = golden["solver.omega"] if guidance == "cfg" else None
    solved = solve(
        golden,
        teacher,
        conditioning,
        RECORD["solver_prompts"],
        golden["solver.x_t"],
        golden["solver.indices"],
        steps,
        omega,
    )
    close(solved, golden[f"solver.{guidance}.k{steps}"])


@pytest.mark.parametrize("point", ["zs", "z0"])
def test_estimate_target_and_distances(golden, teacher, student, conditioning, point):
    network_kwargs = condition(conditioning, RECORD["solver_prompts"])
    target_network = Denoiser(scaled(student), EDM)
    t, u, s = golden["solver.t"], golden["solver.t_dt.k5"], golden["unit.s"]
    triples = Triples(golden["solver.x_t"], t, golden["solver.cfg.k5"], u, s, golden["solver.omega"], network_kwargs)
    with torch.no_grad():
        estimate = jump(Denoiser(student, EDM), triples.start, t, s, triples)
        target = jump(target_network, triples.solved, u, s, triples)
        level = s
        if point == "z0":
            level = torch.full_like(s, 0.002)
            estimate, target = (jump(target_network, z, s, level, triples) for z in (estimate, target))
        close(estimate, golden[f"unit.estimate_{point}"])
        close(target, golden[f"unit.target_{point}"])

        suffix = "" if point == "zs" else "_z0"
        for mode in ("full", "half"):
            space = FeatureSpace(teacher, EDM, mode)
            distance = feature_distance(*(space(z, level, network_kwargs) for z in (estimate, target)))
            close(distance, golden[f"unit.loss.feature_{mode}{suffix}"])
    if point == "zs":
        close(l2_distance(estimate, target), golden["unit.loss.l2"])
        close(pseudo_huber_distance(estimate, target), golden["unit.loss.ictm"])


@pytest.mark.parametrize("mode", ["full", "half"])
def test_feature_maps(teacher, conditioning, mode):
    golden = load_file(GOLDEN / "features.safetensors")
    prompts = json.loads((GOLDEN / "forward.json").read_text())["features"]["prompts"]
    with torch.no_grad():
        maps = FeatureSpace(teacher, EDM, mode)(golden["x"], golden["sigma"], condition(conditioning, prompts))
    assert len(maps) == {"full": 9, "half": 4}[mode]
    for index, feature in enumerate(maps):
        close(feature, golden[f"full.{index:02}"], 1e-5)


def step_inputs(golden, teacher, conditioning, key, record):
    """(triples, noisy latents) of a recorded step, the solver run by us."""
    clean, t = golden[f"{key}.x_start"], golden[f"{key}.t"]
    omega = golden.get(f"{key}.omega")
    start = clean + t[:, None, None, None] * golden[f"{key}.noise"]
    indices, steps = golden[f"{key}.indices"], record["num_heun_step"]
    solved = solve(golden, teacher, conditioning, record["prompts"], start, indices, steps, omega)
    triples = Triples(
        start,
        t,
        solved,
        golden["t_table_train"][indices.long() + steps],
        golden[f"{key}.s"],
        omega,
        condition(conditioning, record["prompts"]),
    )
    return triples, NoisyLatents(clean, golden[f"{key}.dsm_sigmas"], golden[f"{key}.dsm_noise"])


def objective(student, target, teacher, **settings):
    return CTMObjective(
        Denoiser(student, EDM), Denoiser(target, EDM), FeatureSpace(teacher, EDM), student.conv_out, **settings
    )


@pytest.mark.parametrize("case", CASES)
def test_step_losses_and_gradients(golden, teacher, student, conditioning, case):
    record, key = CASES[case], f"e2e.{case}"
    triples, noisy = step_inputs(golden, teacher, conditioning, key, record)
    match_sigma = 0.002 if case == "full_z0" else None
    losses = objective(student, scaled(student), teacher, match_sigma=match_sigma)(triples, noisy)
    losses.total.backward()

    close(losses.consistency, golden[f"{key}.consistency_loss"])
    assert losses.consistency.mean().item() == pytest.approx(record["consistency_mean"], rel=1e-4)
    assert losses.denoising.mean().item() == pytest.approx(record["denoising_mean_unweighted"], rel=1e-4)
    assert losses.adaptive_weight.item() == pytest.approx(record["balance_weight"], rel=1e-4)
    total = losses.consistency.mean() + losses.adaptive_weight * losses.denoising.mean()
    assert total.item() == pytest.approx(record["total_loss"], rel=1e-4)

    named = {name.replace("time_embedding.target_embedding", "s_time_embedding"): parameter
             for name, parameter in student.named_parameters()}  # fmt: skip
    for name, norm in record["grad_norms"].items():
        assert named[name].grad.norm().item() == pytest.approx(norm, rel=2e-4), name
    norms = torch.stack([parameter.grad.norm() for parameter in named.values()])
    assert norms.norm().item() == pytest.approx(record["grad_norm_total"], rel=1e-4)
    close(student.conv_out.weight.grad, golden[f"{key}.grad.conv_out.weight"])


def test_three_steps(golden, teacher, student, conditioning):
    target = scaled(student)
    step = objective(student, target, teacher)
    optimizer = torch.optim.RAdam(student.parameters(), lr=1e-3, weight_decay=0.0)
    for index, record in enumerate(RECORD["train3"]["steps"]):
        key = f"train3.step{index}"
        losses = step(*step_inputs(golden, teacher, conditioning, key, record))
        losses.total.backward()
        close(losses.consistency, golden[f"{key}.consistency_loss"])
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 1000.0)
        assert norm.item() == pytest.approx(record["clip_norm"], rel=1e-4)
        optimizer.step()
        optimizer.zero_grad()
        ema_update(target, student, 0.95)
    # The recording holds references: the values under every step are those after the third.
    close_parameters(golden, f"{key}.target", target)
    close_parameters(golden, f"{key}.student", student)


def close_parameters(golden, key, network):
    parameters = dict(network.named_parameters())
    for name in ("conv_in.bias", "conv_out.weight", "s_time_embedding.linear_2.weight"):
        ours = parameters[name.replace("s_time_embedding", "time_embedding.target_embedding")]
        close(ours.detach(), golden[f"{key}.{name}"], 1e-5)
