"""The toys with a known answer, and the recipes that are compared on them."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffusers_soundctm.distillation.denoisers import Denoiser, TeacherDenoiser
from diffusers_soundctm.distillation.solver import heun_solve
from diffusers_soundctm.preconditioning import karras_sigmas

ROOT = Path(__file__).parents[2]


def import_from(folder: str, name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / folder))


analytic, toys = import_from("benchmarks", "analytic"), import_from("benchmarks", "toys")


@pytest.fixture
def prompts():
    """Starts, captions and guidance scales of eight prompts."""

    def draw(toy):
        generator = torch.Generator().manual_seed(0)
        captions = toy.captions(torch.arange(1, 9), generator)
        start = 80 * torch.randn(8, toys.DIMENSIONS, generator=generator)
        return start, captions, torch.linspace(2, 5, 8)

    return draw


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("name", toys.TOYS)
def test_the_teacher_is_the_exact_denoiser(name, sigma):
    """Tweedie's formula: D = z + σ²·∇log p_σ(z), of the class that the caption names and of the empty prompt."""
    toy = getattr(toys.Toy, name)()
    teacher, generator = toy.teacher, torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 5, 32])
    captions = toy.captions(labels, generator) * (labels > 0)[:, None]
    sample = (toy.latents(labels, generator) + sigma).requires_grad_()
    variance = teacher.std**2 + sigma**2
    exponents = -torch.cdist(sample, teacher.means).square() / (2 * variance)
    log_density = exponents.masked_fill(~teacher.members[labels], -torch.inf).logsumexp(1)
    (score,) = torch.autograd.grad(log_density.sum(), sample)
    levels = torch.full((4,), sigma)
    found = Denoiser(teacher, teacher.preconditioning)(sample, levels, caption=captions)
    torch.testing.assert_close(found, sample + sigma**2 * score, rtol=1e-4, atol=1e-4)


def test_the_closed_form_is_the_solution_of_the_ode(prompts):
    toy = toys.Toy.gaussian()
    start, captions, omega = prompts(toy)
    expected = toy.solution(start, captions, omega, karras_sigmas(40))
    numeric = toys.Toy("numeric", toy.teacher).solution(start, captions, omega, karras_sigmas(40))
    torch.testing.assert_close(torch.stack(numeric), torch.stack(expected), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", toys.TOYS)
def test_the_librarys_solver_reaches_the_solution(name, prompts):
    toy = getattr(toys.Toy, name)()
    start, captions, omega = prompts(toy)
    levels = karras_sigmas(160)
    expected = toy.solution(start, captions, omega, levels)[-1].float()
    kwargs = {"caption": torch.cat([captions, torch.zeros_like(captions)])}
    teacher = TeacherDenoiser(toy.teacher, toy.teacher.preconditioning, kwargs, omega)
    torch.testing.assert_close(heun_solve(teacher, start, levels[:, None].expand(-1, 8)), expected, rtol=0, atol=0.02)


def test_recipes_are_read_with_their_changes():
    recipe = analytic.parse_recipe("default:trajectory_reuse=8,clips=True,learning_rate=1e-3")
    assert recipe == replace(analytic.RECIPES["default"], trajectory_reuse=8, clips=True, learning_rate=1e-3)
    assert analytic.parse_recipe("paper").denoising_target == "data"
    for wrong, named in (("unknown", "default"), ("default:unknown=1", "clips"), ("default:clips=1", "True or False")):
        with pytest.raises(ValueError, match=named):
            analytic.parse_recipe(wrong)


def test_the_default_recipe_is_that_of_the_training_script(tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("rain\n")
    arguments = {"teacher_model": "teacher", "captions": captions, "output_dir": tmp_path}
    script = import_from("training", "train_ctm")
    args = vars(script.parse_args([f"--{name}={value}" for name, value in arguments.items()]))
    recipe = vars(analytic.RECIPES["default"])
    shared = recipe.keys() & args.keys() - set(analytic.SIZES)
    assert len(shared) == 14
    assert {name: recipe[name] for name in shared} == {name: args[name] for name in shared}


@pytest.mark.timeout(300)
def test_the_default_recipe_keeps_the_guidance_and_gains_by_steps():
    """800 updates on the toy with a closed form, on captions that training has not seen."""
    toy = toys.Toy.gaussian()
    evaluation = analytic.Evaluation(toy, batch_size=256, rk4_steps=200)
    student = analytic.initial_student(toy, 128, updates=1500, batch_size=128)
    student = analytic.train(toy, analytic.RECIPES["default"], student, updates=800, seed=0)
    one, two, four, _, sixteen, _ = errors = evaluation.errors(student)
    assert one > two > four, errors
    assert sixteen < 0.8 * one, errors
    effective, _ = evaluation.estimates(student)
    assert effective == pytest.approx([toys.MEAN_GUIDANCE_SCALE] * 4, abs=0.3)
