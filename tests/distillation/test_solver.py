"""Teachers whose network is a closed-form denoiser: adapter, guidance and Heun solver against the exact trajectory."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm import preconditioning
from diffusers_soundctm.distillation import TeacherDenoiser, heun_solve, sample_teacher
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.objective import CTMObjective, NoisyLatents, Triples, jump
from diffusers_soundctm.distillation.solver import heun_trajectory
from diffusers_soundctm.distillation.trajectories import Grid
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample
from diffusers_soundctm.training.ema import ema_copy, ema_update

SPREAD = 0.7  # standard deviation of the data


def gaussian(z, sigma, mean):
    """Denoiser of N(mean, SPREAD²)."""
    return (SPREAD**2 * z + sigma**2 * mean) / (SPREAD**2 + sigma**2)


def mixture(z, sigma, mean):
    """Denoiser of (N(−mean, SPREAD²) + N(mean, SPREAD²))/2, element by element."""
    weight = torch.sigmoid(2 * z * mean / (SPREAD**2 + sigma**2))
    return weight * gaussian(z, sigma, mean) + (1 - weight) * gaussian(z, sigma, -mean)


class ClosedFormNetwork(torch.nn.Module):
    """F of an exact denoiser for any prediction type, from nothing but a network's arguments."""

    def __init__(self, settings: Preconditioning, denoiser=gaussian):
        super().__init__()
        self.settings, self.denoiser = settings, denoiser
        self.dtype_holder = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.calls = 0

    def sigma(self, timestep):
        if self.settings.prediction_type == "edm":
            return (4 * timestep).exp()
        if self.settings.prediction_type == "flow":
            return timestep / (1 - timestep)
        if self.settings.prediction_type == "inverted_flow":
            return 1 / timestep - 1
        if self.settings.log_sigmas is None:
            return (timestep * torch.pi / 2).tan()
        knots, left = self.settings.log_sigmas.double(), timestep.floor().long().clamp(max=998)
        return (knots[left] + (timestep - left) * (knots[left + 1] - knots[left])).exp()

    def forward(self, model_input, timestep, mean):
        self.calls += 1
        kind, sigma_data = self.settings.prediction_type, self.settings.sigma_data
        sigma = self.sigma(timestep)
        z = model_input / per_sample(preconditioning.c_in(sigma, kind, sigma_data), model_input)
        denoised = self.denoiser(z, per_sample(sigma, z), mean)
        skip = per_sample(preconditioning.c_skip(sigma, kind, sigma_data), z)
        return SimpleNamespace(
            sample=(denoised - skip * z) / per_sample(preconditioning.c_out(sigma, kind, sigma_data), z)
        )


SETTINGS = {
    "edm": Preconditioning("edm", 0.5),
    "continuous": Preconditioning("v_prediction", 1.0),
    "flow": Preconditioning("flow"),
    "inverted_flow": Preconditioning("inverted_flow"),
    **{
        kind: Preconditioning(kind, 0.5, preconditioning.vp_log_sigmas())
        for kind in ("epsilon", "v_prediction", "sample")
    },
}


@pytest.fixture(params=SETTINGS)
def settings(request):
    return SETTINGS[request.param]


@pytest.fixture
def teacher(settings):
    network = ClosedFormNetwork(settings)
    mean = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    omega = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    both = {"mean": torch.cat([mean, torch.zeros_like(mean)])}
    # The denoiser is linear in the mean, so guidance away from mean 0 moves it to ω·mean.
    return TeacherDenoiser(network, settings, both, omega), per_sample(omega, mean).double() * mean, network


def exact(mean, start, sigma, target_sigma):
    ratio = ((SPREAD**2 + target_sigma**2) / (SPREAD**2 + sigma**2)).sqrt()
    return mean + per_sample(ratio, start) * (start - mean)


def test_second_order(teacher):
    denoise, mean, network = teacher
    start = mean + 50 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = []
    for steps in (32, 64):
        sigmas = karras_sigmas(steps, 0.05, 50.0).double()[:, None].expand(-1, 3)
        solved = heun_solve(denoise, start, sigmas)
        errors.append((solved - exact(mean, start, sigmas[0], sigmas[-1])).abs().max().item())
    assert errors[1] < 0.02
    assert 3.3 < errors[0] / errors[1] < 4.7
    # Two calls a step; the guidance halves share each.
    assert network.calls == 2 * (32 + 64)


@pytest.mark.parametrize("settings", ["flow", "inverted_flow"], indirect=True)
def test_order_of_flow_teachers(teacher):
    denoise, mean, _ = teacher
    start = mean + 50 * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = []
    for steps in (128, 256):
        sigmas = karras_sigmas(steps, 0.05, 50.0).double()[:, None].expand(-1, 3)
        errors.append((heun_solve(denoise, start, sigmas) - exact(mean, start, sigmas[0], sigmas[-1])).abs().max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.1)


def test_levels_of_their_own(teacher):
    denoise, mean, _ = teacher
    table = karras_sigmas(60, 0.05, 50.0).double()
    first = torch.tensor([0, 10, 30])
    sigmas = torch.stack([table[first + k] for k in range(31)])
    start = mean + sigmas[0][:, None, None] * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    solved = heun_solve(denoise, start.double(), sigmas)
    torch.testing.assert_close(solved, exact(mean, start, sigmas[0], sigmas[-1]), atol=0.03, rtol=0.01)


def test_sample_teacher_reaches_the_data(teacher):
    denoise, mean, _ = teacher
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sample = sample_teacher(denoise, noise, 40, sigma_min=0.05, sigma_max=80.0)
    edge = torch.full((3,), 80.0, dtype=torch.float64), torch.full((3,), 0.05, dtype=torch.float64)
    torch.testing.assert_close(sample, exact(mean, 80 * noise, *edge), atol=0.03, rtol=0.01)


def test_second_order_for_a_mixture(settings):
    """In one dimension a trajectory keeps its place in the distribution: its CDF value is the same at every level."""
    mean = torch.full((1, 1), 1.5, dtype=torch.float64)
    denoise = TeacherDenoiser(ClosedFormNetwork(settings, mixture), settings, {"mean": mean}, None)

    def cdf(z, sigma):
        normal = torch.distributions.Normal(0.0, math.sqrt(SPREAD**2 + sigma**2))
        return (normal.cdf(z - 1.5) + normal.cdf(z + 1.5)) / 2

    start = torch.linspace(-60, 60, 8, dtype=torch.float64)[:, None]
    lower, upper = torch.full_like(start, -9), torch.full_like(start, 9)
    for _ in range(60):
        middle = (lower + upper) / 2
        below = cdf(middle, 0.05) < cdf(start, 50.0)
        lower, upper = torch.where(below, middle, lower), torch.where(below, upper, middle)
    errors = []
    for steps in (64, 128):
        sigmas = karras_sigmas(steps, 0.05, 50.0).double()[:, None].expand(-1, 8)
        errors.append((heun_solve(denoise, start, sigmas) - lower).abs().max().item())
    assert errors[1] < 0.01
    assert 3 < errors[0] / errors[1] < 5


class SmallStudent(torch.nn.Module):
    """A multilayer perceptron in a student's place; it sees the mean that stands for the prompt."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.Linear
        self.layers = torch.nn.Sequential(layer(5, 64), torch.nn.SiLU(), layer(64, 64), torch.nn.SiLU(), layer(64, 1))

    def forward(self, model_input, timestep, timestep_cond, mean):
        target, omega = timestep_cond[:, :1].log() / 4, timestep_cond[:, 1:] / 5
        return SimpleNamespace(sample=self.layers(torch.cat([model_input, timestep[:, None], target, omega, mean], 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "held_to_teacher"), [("edm", False), ("edm", True), ("flow", True), ("inverted_flow", True)]
)
def test_a_student_learns_the_exact_jump(kind, held_to_teacher):
    """Without score matching of data, whose optimum is the data's own denoiser and not the one guided by ω."""
    torch.manual_seed(0)
    trained, batch = Preconditioning(kind, 1.0), 256
    grid = Grid(karras_sigmas(17, 0.05, 20.0), reuse=10, target_sigma_min_rate=0.5, solve_to_target=held_to_teacher)
    levels = grid.sigmas[:, None].expand(-1, batch)
    network, student = ClosedFormNetwork(trained), SmallStudent()
    average = ema_copy(student)
    objective = CTMObjective(
        Denoiser(student, trained), Denoiser(average, trained), None, student.layers[-1], distance="l2"
    )
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    generator = torch.Generator().manual_seed(0)

    def draw():
        mean, noise = torch.randn(2, batch, 1, generator=generator)
        omega = 1 + 2 * torch.rand(batch, generator=generator)
        teacher = TeacherDenoiser(network, trained, {"mean": torch.cat([mean, 0 * mean])}, omega)
        return mean + grid.sigmas[0] * noise, mean, omega, teacher

    for _ in range(150):
        start, mean, omega, teacher = draw()
        points, slopes = zip(*heun_trajectory(teacher, start.double(), levels.double()), strict=True)
        points, slopes = torch.stack(points).float(), torch.stack(slopes[:-1]).float()
        visited, rows = grid.visited(batch, generator), torch.arange(batch)
        for _ in range(grid.reuse):
            t, u, s = grid.triple(visited, generator)
            sigma, solved_sigma, target_sigma = (grid.sigmas[index] for index in (t, u, s))
            if held_to_teacher:
                solved_sigma = None
                denoised = points[t, rows] - sigma[:, None] * slopes[t, rows]
                noisy = NoisyLatents(denoised, sigma, slopes[t, rows])
            else:
                noisy = None
            condition = {"mean": mean}
            triples = Triples(points[t, rows], sigma, points[u, rows], solved_sigma, target_sigma, omega, condition)
            optimizer.zero_grad()
            objective(triples, noisy).total.backward()
            optimizer.step()
            schedule.step()
            ema_update(average, student, 0.95)

    start, mean, omega, _ = draw()
    wanted = exact(omega[:, None] * mean, start, levels[0], levels[-1])
    for steps in ([0, -1], [0, 6, 12, -1]):
        sample = start
        for t, s in pairwise(steps):
            triples = Triples(None, None, None, None, None, omega, {"mean": mean})
            with torch.no_grad():
                sample = jump(objective.target, sample, levels[t], levels[s], triples)
        assert (sample - wanted).square().mean().sqrt() < 0.1 * wanted.std()


def test_a_denoiser_keeps_its_own_precision_inside_autocast():
    class Network(torch.nn.Linear):
        def forward(self, sample, timestep):
            return SimpleNamespace(sample=super().forward(sample))

    torch.manual_seed(0)
    network, z, sigma = Network(8, 8), torch.randn(4, 8), torch.full((4,), 2.0)
    exact = Denoiser(network, Preconditioning())(z, sigma)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Denoiser(network, Preconditioning(), torch.float32)(z, sigma), exact)
        assert not torch.equal(Denoiser(network, Preconditioning())(z, sigma), exact)
    rounded = Denoiser(network, Preconditioning(), torch.bfloat16)(z, sigma)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
