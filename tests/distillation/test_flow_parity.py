"""Flow teachers against diffusers' own pipelines: from the same noise, both converge to the same latents.

And which of them are refused.
"""

import json
import math

import pytest
import torch
from diffusers.pipelines.ace_step import pipeline_ace_step

from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.control import LossGuidance
from diffusers_soundctm.control.sound import Sound
from diffusers_soundctm.distillation import TeacherDenoiser, heun_solve, load_teacher
from diffusers_soundctm.preconditioning import karras_sigmas
from tiny_teachers import make_teacher, noise

FAMILIES = ("stable_audio_3", "longcat", "ace_step")
PROMPT, OMEGA = "rain on a tin roof", 3.0
ENDS = {"sigma_min": 1e-4, "sigma_max": 1e4}  # the originals go from time 1 to time 0


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def seconds(family):
    return 1.0 if family == "ace_step" else 0.02


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
def start(teacher, seconds):
    return noise(1, 4, math.ceil(seconds * teacher.sampling_rate / teacher.latent_positions(0)[2]))


@pytest.fixture(scope="module")
def reference(family, original, start, seconds):
    """Latents of the original pipeline in the limit of many steps, by Richardson extrapolation of Euler's method."""
    if family == "longcat":
        arguments = {"latents": start.transpose(1, 2)}
    elif family == "ace_step":
        arguments = {"latents": start.transpose(1, 2), "audio_duration": seconds, "shift": 1.0}
    else:
        # Its own levels end at a log-SNR of 2, one step before 0, however many there are.
        arguments = {"latents": start, "duration": seconds, "logsnr_min": -10.0, "logsnr_max": 10.0}

    def sample(steps):
        latents = original[0](
            PROMPT, num_inference_steps=steps, guidance_scale=OMEGA, output_type="latent", **arguments
        ).audios
        return latents if family == "stable_audio_3" else latents.transpose(1, 2)

    with pytest.MonkeyPatch.context() as patch:  # ACE-Step projects its guidance; the library's is plain
        patch.setattr(pipeline_ace_step, "normalized_guidance", plain_guidance)
        coarse, fine = sample(300), sample(600)
    return 2 * fine - coarse


def plain_guidance(pred_cond, pred_uncond, guidance_scale, **_):
    return pred_cond + guidance_scale * (pred_cond - pred_uncond)  # the pipeline passes ω − 1


def relative_error(latents, reference):
    return ((latents - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(scope="module")
def denoise(teacher, seconds):
    conditioning = teacher.conditioning
    kwargs = conditioning.guided_kwargs(*conditioning.encode([PROMPT, ""], torch.device("cpu"), seconds))
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


def test_the_students_pipeline_reaches_the_originals_latents(teacher, start, seconds, reference):
    """A student with the teacher's weights knows no guidance, so ν applies it, and each jump is a step of Euler's."""
    parts = teacher.parts(teacher.student("zero").eval())
    parts["scheduler"] = CTMScheduler(prediction_type=teacher.scheduler.config.prediction_type, **ENDS)
    pipe = SoundCTMPipeline.from_components(parts)
    pipe.set_progress_bar_config(disable=True)
    coarse, fine = (
        pipe(
            PROMPT, audio_length_in_s=seconds, num_inference_steps=steps, nu=OMEGA, latents=start, output_type="latent"
        ).audios
        for steps in (100, 200)
    )
    assert relative_error(coarse, reference) / relative_error(fine, reference) == pytest.approx(2, abs=0.3)
    assert relative_error(2 * fine - coarse, reference) < 1e-3


def test_students_take_audio_and_control(teacher, seconds):
    pipe = SoundCTMPipeline.from_components(teacher.parts(teacher.student().eval()))
    pipe.set_progress_bar_config(disable=True)
    call = {"audio_length_in_s": seconds, "num_inference_steps": 2, "output_type": "pt"}
    source = 0.1 * noise(1, pipe.num_channels, round(seconds * pipe.sampling_rate), seed=1)
    given = {"initial_audio_waveforms": source, "initial_audio_sampling_rate": pipe.sampling_rate}
    assert pipe(PROMPT, **call, **given, strength=0.5).audios.shape == source.shape
    kept, ignored = (
        pipe(
            PROMPT,
            **call | {"output_type": "latent"},
            **given,
            strength=strength,
            generator=torch.Generator().manual_seed(0),
        ).audios
        for strength in (0.1, 1.0)
    )
    encoded = pipe.encode_audio(source, pipe.sampling_rate, source.shape[-1])
    assert relative_error(kept, encoded) < relative_error(ignored, encoded)

    def energy(sound):
        return sound.waveform.square().mean(dim=1) + sound.latents.flatten(1).square().mean(dim=1)

    plain, guided = (
        Sound.of_latents(
            pipe,
            pipe(
                PROMPT,
                audio_length_in_s=seconds,
                num_inference_steps=4,
                output_type="latent",
                generator=torch.Generator().manual_seed(0),
                callback_on_step_end=callback,
            ).audios,
        )
        for callback in (None, LossGuidance(energy))
    )
    assert energy(guided) < energy(plain)


def test_distilled_flow_teachers_are_refused(tmp_path, tiny_pipeline):
    make_teacher("stable_audio_3", tmp_path, tiny_pipeline)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"stochastic_sampling": True}))
    with pytest.raises(ValueError, match=r"distilled already.*stable-audio-3-medium-base, or pass --allow_distilled"):
        load_teacher(tmp_path)
    assert load_teacher(tmp_path, allow_distilled=True).scheduler.config.prediction_type == "flow"
    file.write_text(json.dumps(config | {"num_train_timesteps": 1000}))
    with pytest.raises(ValueError, match=r"`num_train_timesteps` 1000.*set it to 1"):
        load_teacher(tmp_path)


def test_turbo_models_of_ace_step_are_refused(tmp_path, tiny_pipeline):
    make_teacher("ace_step", tmp_path, tiny_pipeline)
    file = tmp_path / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"is_turbo": True}))
    with pytest.raises(ValueError, match=r"turbo model. Use the base model ACE-Step/acestep-v15-xl-base-diffusers, or"):
        load_teacher(tmp_path)
    assert load_teacher(tmp_path, allow_distilled=True).network.silence_latent.abs().max() > 0
