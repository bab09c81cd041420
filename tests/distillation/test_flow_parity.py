"""Flow teachers against diffusers' own pipelines: from the same noise, both converge to the same latents."""

import math

import pytest
import torch

from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.distillation import TeacherDenoiser, heun_solve, load_teacher
from diffusers_soundctm.preconditioning import karras_sigmas
from tiny_teachers import make_teacher, noise

FAMILIES = ("stable_audio_3", "longcat")
PROMPT, OMEGA, SECONDS = "rain on a tin roof", 3.0, 0.02
ENDS = {"sigma_min": 1e-4, "sigma_max": 1e4}  # the originals go from time 1 to time 0


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def original(family, tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    pipe = make_teacher(family, folder, tiny_pipeline)
    pipe.set_progress_bar_config(disable=True)
    return pipe, folder


@pytest.fixture(scope="module")
def teacher(original):
    return load_teacher(original[1])


@pytest.fixture(scope="module")
def start(teacher):
    return noise(1, 4, math.ceil(SECONDS * teacher.sampling_rate / teacher.latent_positions(0)[2]))


@pytest.fixture(scope="module")
def reference(family, original, start):
    """Latents of the original pipeline in the limit of many steps, by Richardson extrapolation of Euler's method."""

    if family == "longcat":
        arguments = {"latents": start.transpose(1, 2)}
    else:
        # Its own levels end at a log-SNR of 2, one step before 0, however many there are.
        arguments = {"latents": start, "duration": SECONDS, "logsnr_min": -10.0, "logsnr_max": 10.0}

    def sample(steps):
        latents = original[0](
            PROMPT, num_inference_steps=steps, guidance_scale=OMEGA, output_type="latent", **arguments
        ).audios
        return latents.transpose(1, 2) if family == "longcat" else latents

    coarse, fine = sample(300), sample(600)
    return 2 * fine - coarse


def relative_error(latents, reference):
    return ((latents - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(scope="module")
def denoise(teacher):
    conditioning = teacher.conditioning
    kwargs = conditioning.guided_kwargs(*conditioning.encode([PROMPT, ""], torch.device("cpu"), SECONDS))
    return TeacherDenoiser(teacher.network, teacher.preconditioning, kwargs, torch.tensor([OMEGA]))


def test_the_guided_solver_reaches_the_originals_latents(denoise, start, reference):
    errors = []
    for steps in (32, 64, 128):
        sigmas = karras_sigmas(steps, **ENDS)[:, None]
        errors.append(relative_error(heun_solve(denoise, sigmas[0] * start, sigmas), reference))
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3  # second order
    assert errors[2] < 1e-3


def test_little_of_the_signal_is_lost_at_the_highest_level(teacher, denoise, start):
    config = teacher.scheduler.config
    assert 1 / config.sigma_max < 0.0021
    latents = []
    for highest in (config.sigma_max, ENDS["sigma_max"]):
        sigmas = karras_sigmas(128, config.sigma_min, highest)[:, None]
        latents.append(heun_solve(denoise, sigmas[0] * start, sigmas))
    assert relative_error(*latents) < 0.01


def test_the_students_pipeline_reaches_the_originals_latents(teacher, start, reference):
    """A student with the teacher's weights knows no guidance, so ν applies it, and each jump is a step of Euler's."""
    parts = teacher.parts(teacher.student("zero").eval())
    parts["scheduler"] = CTMScheduler(prediction_type=teacher.scheduler.config.prediction_type, **ENDS)
    pipe = SoundCTMPipeline.from_components(parts)
    pipe.set_progress_bar_config(disable=True)
    coarse, fine = (
        pipe(
            PROMPT, audio_length_in_s=SECONDS, num_inference_steps=steps, nu=OMEGA, latents=start, output_type="latent"
        ).audios
        for steps in (100, 200)
    )
    assert relative_error(coarse, reference) / relative_error(fine, reference) == pytest.approx(2, abs=0.3)
    assert relative_error(2 * fine - coarse, reference) < 1e-3
