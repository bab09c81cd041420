"""Teacher features, distances, and the objective's switches."""

import dataclasses
import itertools

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffusers_soundctm import preconditioning
from diffusers_soundctm.distillation import TeacherFeatures, feature_distance
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.losses import adaptive_weight, denoising_loss, output_distance
from diffusers_soundctm.distillation.objective import CTMObjective, NoisyLatents, Triples, jump, micro_batches
from diffusers_soundctm.preconditioning import PREDICTION_TYPES, denoised
from diffusers_soundctm.training.ema import ema_copy

EDM = Preconditioning()


@pytest.fixture
def networks(tiny_pipeline):
    student = tiny_pipeline("embedded").unet.train()
    torch.manual_seed(1)
    return (
        student,
        ema_copy(student),
        UNet2DConditionModel.from_config(dict(student.config)).eval().requires_grad_(False),
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 2, 8, 8, 8, generator=generator)
    condition = {"encoder_hidden_states": torch.randn(2, 4, 16, generator=generator),
                 "encoder_attention_mask": torch.ones(2, 4, dtype=torch.bool),
                 "class_labels": torch.randn(2, 16, generator=generator)}  # fmt: skip
    t, u, s = torch.tensor([[20.0, 3.0], [5.0, 1.0], [1.0, 0.002]])
    triples = Triples(20 * z[0], t, 5 * z[1], u, s, torch.tensor([2.0, 4.0]), condition)
    return triples, NoisyLatents(z[2], torch.tensor([0.5, 2.0]), z[0])


def objective(networks, distance="full", **settings):
    student, target, teacher = networks
    space = FeatureSpace(teacher, EDM, distance) if distance in ("full", "half") else None
    last = student.conv_out
    return CTMObjective(Denoiser(student, EDM), Denoiser(target, EDM), space, last, distance=distance, **settings)


@pytest.mark.parametrize(
    "distance, match_sigma",
    [*itertools.product(["full", "half", "l2", "pseudo_huber"], [None, 0.002]), ("output", None)],
)
def test_gradients_are_those_of_the_written_loss(networks, batch, distance, match_sigma):
    student = networks[0]
    step = objective(networks, distance, match_sigma=match_sigma, denoising_weight=0.5, adaptive=False)
    step(*batch).total.backward()
    ours = [parameter.grad.clone() for parameter in student.parameters()]

    student.zero_grad()
    estimate, denoised = step._student(*batch)
    with torch.no_grad():
        triples = batch[0]
        target = jump(step.target, triples.solved, triples.solved_sigma, triples.target_sigma, triples)
    loss = step._consistency(estimate, target, triples).mean()
    (loss + 0.5 * denoising_loss(denoised, batch[1].clean, batch[1].sigma).mean()).backward()
    for gradient, parameter in zip(ours, student.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_gradients_do_not_depend_on_the_scale_they_are_taken_at(networks, batch):
    gradients = []
    for scale in (1.0, 2.0**14):
        networks[0].zero_grad()
        losses = objective(networks, gradient_scale=scale)(*batch)
        losses.total.backward()
        gradients.append([losses.adaptive_weight, *(parameter.grad.clone() for parameter in networks[0].parameters())])
    for plain, scaled in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, scaled, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype, scale", [(torch.bfloat16, 1.0), (torch.float16, 2.0**14)])
def test_half_precision_keeps_the_direction_of_the_gradient(networks, batch, dtype, scale):
    gradients = []
    for precision in (torch.float32, dtype):
        networks[0].zero_grad()
        networks[2].to(precision)
        with torch.autocast("cpu", dtype, enabled=precision == dtype):
            losses = objective(networks, gradient_scale=scale)(*batch)
        (scale * losses.total).backward()  # as a GradScaler does
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in networks[0].parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_an_error_of_the_network_counts_the_same_at_every_level(kind):
    z, output = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.05, 1.0, 70.0])
    exact, wrong = (denoised(F, z, sigma, kind) for F in (output, output + 0.1))
    loss = denoising_loss(wrong, exact, sigma, prediction_type=kind)
    torch.testing.assert_close(loss, torch.full((3,), 0.01), rtol=1e-2, atol=1e-4)


def test_micro_batches_are_the_batch(batch):
    parts = list(micro_batches(*batch, 2))
    assert len(parts) == 2
    torch.testing.assert_close(torch.cat([triples.start for triples, _ in parts]), batch[0].start)
    labels = torch.cat([triples.network_kwargs["class_labels"] for triples, _ in parts])
    torch.testing.assert_close(labels, batch[0].network_kwargs["class_labels"])
    assert next(micro_batches(batch[0], None, 2))[1] is None


def test_every_micro_batch_has_noise_levels_of_both_halves(batch):
    triples, noisy = batch
    wide = dataclasses.replace(noisy, sigma=torch.tensor([1.0, 2.0, 30.0, 40.0]))
    assert [part.sigma.tolist() for _, part in micro_batches(triples, wide, 2)] == [[1.0, 30.0], [2.0, 40.0]]


def test_denoising_can_be_left_out(networks, batch):
    losses = objective(networks)(batch[0])
    losses.total.backward()
    assert losses.denoising is None
    assert losses.consistency.shape == (2,)
    assert all(parameter.grad is None for parameter in networks[1].parameters())


def test_a_target_solved_to_s_is_compared_as_it_is(networks, batch):
    """G(z, s, s) = z: the loss is that of u = s, and the EMA is not needed."""
    exact = dataclasses.replace(batch[0], solved_sigma=batch[0].target_sigma)
    wanted = objective(networks)(exact).consistency
    calls = []
    networks[1].register_forward_hook(lambda *args: calls.append(1))
    losses = objective(networks)(dataclasses.replace(exact, solved_sigma=None))
    torch.testing.assert_close(losses.consistency, wanted)
    assert not calls


def test_adaptive_weight_equalizes_both_gradients_on_the_last_layer(networks, batch):
    weight = networks[0].conv_out.weight
    losses = objective(networks)(*batch)
    (alone,) = torch.autograd.grad(objective(networks)(batch[0]).total, weight)
    (both,) = torch.autograd.grad(losses.total, weight)
    torch.testing.assert_close((both - alone).norm(), alone.norm(), rtol=1e-3, atol=0)
    assert adaptive_weight(torch.full((2,), 1e9), torch.zeros(2)) == 1000


def test_l2_needs_no_teacher_and_features_need_one(networks):
    with pytest.raises(ValueError, match="distance"):
        CTMObjective(*[Denoiser(n, EDM) for n in networks[:2]], None, networks[0].conv_out, distance="full")
    with pytest.raises(ValueError, match="lpips"):
        objective(networks, "lpips")


def test_features_leave_no_hooks_and_half_is_the_start_of_full(networks, batch):
    teacher, triples = networks[2], batch[0]
    arguments = (triples.start, triples.sigma.log() / 4)
    output, full = TeacherFeatures(teacher, "full")(*arguments, **triples.network_kwargs)
    none, half = TeacherFeatures(teacher, "half")(*arguments, **triples.network_kwargs)
    assert none is None
    assert len(half) == 2 and len(full) == 5
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=False))
    torch.testing.assert_close(output, teacher(*arguments, **triples.network_kwargs).sample)
    assert not any(module._forward_hooks for module in teacher.modules())
    with pytest.raises(ValueError, match="mode"):
        TeacherFeatures(teacher, "quarter")


def test_feature_distance_ignores_scale_and_keeps_the_batch_apart():
    a = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0))
    b = torch.stack([a[0], -a[1]])
    torch.testing.assert_close(feature_distance([a], [7 * b]), torch.tensor([0.0, 4 / 5]), rtol=1e-5, atol=1e-6)
    assert feature_distance([a.bfloat16(), a], [b.bfloat16(), b]).dtype == torch.float32


def test_output_distance_is_the_error_of_the_networks_output(networks, batch):
    """Jumps made from two outputs are as far apart as the outputs, whatever t and s."""
    triples, _ = batch
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, *triples.start.shape, generator=generator)
    for sigma, target_sigma in ((80.0, 0.002), (5.0, 2.0), (0.01, 0.002)):
        t, s = torch.full((2,), sigma), torch.full((2,), target_sigma)
        jumps = [
            preconditioning.jump(EDM.denoised(output, triples.start, t), triples.start, t, s)
            for output in (first, second)
        ]
        distance = output_distance(*jumps, t, s)
        torch.testing.assert_close(distance, (first - second).square().flatten(1).mean(1), rtol=1e-3, atol=0)


def test_output_distance_compares_jumps_where_they_land(networks):
    with pytest.raises(ValueError, match="match_sigma"):
        objective(networks, "output", match_sigma=0.002)
