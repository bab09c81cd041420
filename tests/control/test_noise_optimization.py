"""Optimized noise meets the objective in one step, remains Gaussian, and is accepted as `latents`."""

import pytest
import torch

from diffusers_soundctm.control import optimize_noise
from diffusers_soundctm.control.sound import Sound

PROMPT = "rain on a tin roof"
FAST = {"num_iterations": 8, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("embedded")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def level(sound):
    return sound.mel.mean(dim=(1, 2))


def loss_of(pipe, objective, latents, **kwargs):
    z_0 = pipe(PROMPT, latents=latents, output_type="latent", **kwargs).audios
    with torch.no_grad():
        return objective(Sound.of_latents(pipe, z_0))


@pytest.fixture(scope="module")
def objective(pipe):
    noise = torch.randn(1, *pipe.latent_shape(20480), generator=generator())
    goal = loss_of(pipe, level, noise).item() + 0.02
    return lambda sound: (level(sound) - goal).square()


def test_every_family_gets_better_noise(family_pipe):
    pipe = family_pipe
    latents, losses = optimize_noise(pipe, PROMPT, level, generator=generator(), return_losses=True, **FAST)
    samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
    assert latents.shape == (1, *pipe.latent_shape(samples)) and losses.shape == (9, 1)
    assert losses.amin() < losses[0] - 1e-3
    torch.testing.assert_close(loss_of(pipe, level, latents), losses.amin(dim=0), rtol=1e-3, atol=1e-3)


def test_noise_stays_on_the_sphere_it_was_drawn_on(pipe, objective):
    start = torch.randn(2, *pipe.latent_shape(20480), generator=generator())
    latents = optimize_noise(pipe, [PROMPT] * 2, objective, latents=start, **FAST)
    assert not torch.allclose(latents, start)
    torch.testing.assert_close(latents.flatten(1).norm(dim=1), start.flatten(1).norm(dim=1))


def test_better_noise_is_better_in_more_steps_and_with_nu(pipe, objective):
    start = torch.randn(1, *pipe.latent_shape(20480), generator=generator(1))
    latents = optimize_noise(pipe, PROMPT, objective, latents=start, nu=1.5, **FAST)
    for steps in (1, 4):
        kwargs = {"nu": 1.5, "num_inference_steps": steps}
        assert loss_of(pipe, objective, latents, **kwargs) < loss_of(pipe, objective, start, **kwargs)


def test_a_generator_gives_the_same_noise_as_an_ordinary_call_before_the_first_step(pipe, objective):
    _, losses = optimize_noise(pipe, PROMPT, objective, generator=generator(3), return_losses=True, num_iterations=1)
    start = torch.randn(1, *pipe.latent_shape(20480), generator=generator(3))
    torch.testing.assert_close(loss_of(pipe, objective, start), losses[0], rtol=1e-2, atol=1e-5)


def test_it_stops_early_when_nothing_gets_better(pipe):
    calls = []

    def met(sound):
        calls.append(1)
        return 0 * level(sound)

    _, losses = optimize_noise(pipe, PROMPT, met, patience=3, return_losses=True)
    assert len(calls) == len(losses) == 4


def test_gradient_that_is_nan_once_is_skipped(pipe):
    calls = []

    def sometimes_nan(sound):
        calls.append(1)
        return level(sound) * (float("nan") if len(calls) == 3 else 1)

    latents, losses = optimize_noise(pipe, PROMPT, sometimes_nan, return_losses=True, generator=generator(), **FAST)
    assert latents.isfinite().all() and losses.isnan().sum() == 1


def test_a_shorter_sound_is_measured_where_it_is_heard(pipe):
    frames = []

    def look(sound):
        frames.append(sound.mel.shape[1])
        return level(sound)

    optimize_noise(pipe, PROMPT, look, audio_length_in_s=0.5, num_iterations=1)
    assert frames == [50, 50]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": 3}, "`objective`"),
        ({"num_iterations": 0}, "`num_iterations`"),
        ({"patience": 1.5}, "`patience`"),
        ({"learning_rate": -1}, "`learning_rate`"),
        ({"nu": float("nan")}, "`nu`"),
        ({"latents": torch.zeros(1, 2, 3)}, "`latents`"),
        ({"objective": lambda sound: level(sound) * float("nan")}, "finite"),
        ({"objective": lambda sound: level(sound).detach()}, "no gradient"),
        ({"objective": lambda sound: level(sound).sum()}, "one number per waveform"),
    ],
)
def test_bad_input_is_named(pipe, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        optimize_noise(**({"pipe": pipe, "prompt": PROMPT, "objective": level} | arguments))


def test_a_gradient_whose_square_overflows_does_not_end_the_search(pipe):
    calls = []

    def once_huge(sound):
        calls.append(1)
        return level(sound) * (1e25 if len(calls) == 1 else 1)

    latents, losses = optimize_noise(pipe, PROMPT, once_huge, return_losses=True, generator=generator(), **FAST)
    assert latents.isfinite().all() and losses[-1] < losses[1] - 1e-3
