"""Every family's teacher: recognized, conditioned and denoising as the original, and its student's pipeline."""

import json
import logging
import math
import random
import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import ClapTextConfig, T5Config, T5Model

import golden
from diffusers_soundctm import AudioDiTModel, CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.conversion import convert_soundctm_dit
from diffusers_soundctm.distillation import TeacherDenoiser, load_teacher
from diffusers_soundctm.distillation.denoisers import Denoiser
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.teachers import recognize
from diffusers_soundctm.distillation.teachers.audio_dit import AudioDiT
from diffusers_soundctm.distillation.teachers.base import scheduler_of
from runs import distil
from tiny_teachers import BETAS, FAMILIES, STABLE_AUDIO_SCHEDULER, make_teacher, noise

CPU = torch.device("cpu")
PROMPTS = ["rain on a tin roof", "a dog barks", ""]
SECONDS = 0.02
TRANSFORMERS = ("stable_audio", "stable_audio_3", "longcat", "ace_step")


@pytest.fixture(scope="module", params=FAMILIES)
def original(request, tmp_path_factory, tiny_pipeline):
    """(family, folder, what diffusers makes of it)."""
    folder = tmp_path_factory.mktemp("teachers") / request.param
    return request.param, folder, make_teacher(request.param, folder, tiny_pipeline)


@pytest.fixture(scope="module")
def teacher(original):
    return load_teacher(original[1])


def latents(teacher, batch_size, seed=0):
    if teacher.encodes_waveforms:
        return noise(batch_size, 4, 40, seed=seed)
    return noise(batch_size, 8, 16, 16, seed=seed)


def condition(teacher, prompts):
    return teacher.conditioning.network_kwargs(*teacher.conditioning.encode(prompts, CPU, SECONDS))


@torch.no_grad()
def test_prompts_are_encoded_as_the_original_does(original, teacher):
    family, _, pipe = original
    kwargs = condition(teacher, PROMPTS[:1])
    if family == "audioldm":
        (expected,) = pipe._encode_prompt(PROMPTS[0], CPU, 1, False)[None]
        torch.testing.assert_close(kwargs["class_labels"], expected)
    elif family == "musicldm":  # the original's own call does not work with transformers 5
        tokens = pipe.tokenizer(PROMPTS[:1], return_tensors="pt")
        features = pipe.text_encoder.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
        torch.testing.assert_close(kwargs["class_labels"], features.pooler_output)
        assert kwargs["class_labels"].norm().item() == pytest.approx(1)
    elif family == "audioldm2":
        embeds, mask, generated = pipe.encode_prompt(PROMPTS[0], CPU, 1, False)
        torch.testing.assert_close(kwargs["encoder_hidden_states"], generated)
        torch.testing.assert_close(kwargs["encoder_hidden_states_1"], embeds)
        assert torch.equal(kwargs["encoder_attention_mask_1"], mask.bool())
    elif family == "stable_audio_3":
        embeds, mask = pipe.encode_prompt(PROMPTS[0], CPU, 1)
        duration = pipe.encode_duration(SECONDS, CPU, 1, 1)
        embeds, mask = pipe.prepare_cross_attention(embeds, mask, duration)
        # The original pads on the left; the network does not tell positions apart.
        torch.testing.assert_close(
            kwargs["encoder_hidden_states"][kwargs["encoder_attention_mask"]], embeds[mask.bool()]
        )
        assert kwargs["encoder_attention_mask"].shape == mask.shape
        torch.testing.assert_close(kwargs["global_hidden_states"], duration)
        torch.testing.assert_close(condition(teacher, [""])["global_hidden_states"], duration)
    elif family == "longcat":
        embeds, lengths = pipe.encode_prompt([PROMPTS[0]], CPU)
        torch.testing.assert_close(kwargs["encoder_hidden_states"], embeds)
        assert kwargs["encoder_attention_mask"].sum(1).tolist() == lengths.tolist()
        embeds, mask = teacher.conditioning.encode(['  "RAIN" on\na tin roof', ""], CPU)
        torch.testing.assert_close(embeds[:1], kwargs["encoder_hidden_states"])
        assert embeds[1].abs().max() == 0 and mask[1].any()
        guided = teacher.conditioning.guided_kwargs(embeds, mask)["encoder_attention_mask"]
        assert torch.equal(guided[1], mask[0])  # ∅ has the mask of its prompt
    elif family == "ace_step":
        silence = pipe.condition_encoder.silence_latent[:, :750]
        text, text_mask, lyrics, lyric_mask = pipe.encode_prompt(PROMPTS[0], "", CPU, audio_duration=SECONDS)
        embeds, _ = pipe.condition_encoder(text, text_mask, lyrics, lyric_mask, silence, torch.tensor([0]))
        torch.testing.assert_close(kwargs["encoder_hidden_states"], embeds)
        nothing = condition(teacher, [PROMPTS[0], ""])
        empty = nothing["encoder_hidden_states"][1][nothing["encoder_attention_mask"][1]]
        torch.testing.assert_close(empty, pipe.condition_encoder.null_condition_emb[0])
    elif family == "tango":
        tokens = pipe["tokenizer"](PROMPTS[:1], return_tensors="pt")
        torch.testing.assert_close(kwargs["encoder_hidden_states"], pipe["text_encoder"](**tokens).last_hidden_state)
    else:
        text = pipe.encode_prompt(PROMPTS[0], CPU, False)
        times = pipe.encode_duration(0.0, SECONDS, CPU, False, 1)
        torch.testing.assert_close(kwargs["encoder_hidden_states"], torch.cat([text, *times], 1))
        torch.testing.assert_close(kwargs["global_hidden_states"], torch.cat(times, 2))
        nothing = condition(teacher, [""])
        assert nothing["encoder_hidden_states"].abs().max() == 0
        torch.testing.assert_close(nothing["global_hidden_states"], kwargs["global_hidden_states"])


@torch.no_grad()
def test_a_prompts_denoiser_does_not_depend_on_its_batch(teacher):
    z, sigma = 3 * latents(teacher, 3), torch.tensor([3.0, 0.5, 3.0])
    denoise = Denoiser(teacher.network, teacher.preconditioning)
    together = denoise(z, sigma, **condition(teacher, PROMPTS))
    for row, prompt in enumerate(PROMPTS):
        alone = denoise(z[row : row + 1], sigma[row : row + 1], **condition(teacher, [prompt]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[:1], denoise(z[:1], sigma[:1], **condition(teacher, PROMPTS[1:2])))


@torch.no_grad()
def test_denoiser_is_the_original_schedulers_estimate(original, teacher):
    """z_0 of the diffusers scheduler, from the original network at one of its own steps."""
    family, _, pipe = original
    kwargs, denoise = condition(teacher, PROMPTS[:1]), Denoiser(teacher.network, teacher.preconditioning)
    if family == "stable_audio":
        sigma = torch.tensor([40.0])
        z = 40 * latents(teacher, 1)
        text = torch.cat(
            [pipe.encode_prompt(PROMPTS[0], CPU, False), *pipe.encode_duration(0.0, SECONDS, CPU, False, 1)], 1
        )
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        output = pipe.transformer(
            z / (sigma**2 + 1).sqrt(),
            sigma.atan() / math.pi * 2,
            encoder_hidden_states=text,
            global_hidden_states=kwargs["global_hidden_states"],
            rotary_embedding=get_1d_rotary_pos_embed(4, 41, use_real=True, repeat_interleave_real=False),
        ).sample
        expected = z / (sigma**2 + 1) - sigma / (sigma**2 + 1).sqrt() * output
    elif family == "stable_audio_3":
        time = torch.tensor([0.8])
        x = latents(teacher, 1)
        embeds, mask = pipe.encode_prompt(PROMPTS[0], CPU, 1)
        duration = pipe.encode_duration(SECONDS, CPU, 1, 1)
        context, mask = pipe.prepare_cross_attention(embeds, mask, duration)
        velocity = pipe.transformer(x, time, context, duration, mask).sample
        sigma, z, expected = time / (1 - time), x / (1 - time), x - time * velocity
    elif family == "longcat":
        time = torch.tensor([0.2])  # the share of data
        x = latents(teacher, 1)
        embeds, _ = pipe.encode_prompt([PROMPTS[0]], CPU)
        velocity = pipe.transformer(
            x.transpose(1, 2),
            embeds,
            torch.ones(embeds.shape[:2], dtype=torch.bool),
            time,
            latent_cond=torch.zeros_like(x.transpose(1, 2)),
        ).sample.transpose(1, 2)
        sigma, z, expected = (1 - time) / time, x / time, x + (1 - time) * velocity
    elif family == "ace_step":
        time, x = torch.tensor([0.8]), latents(teacher, 1)
        silence = pipe.condition_encoder.silence_latent[:, : x.shape[-1]]
        context = torch.cat([silence, torch.ones_like(silence)], -1)
        velocity = pipe.transformer(x.transpose(1, 2), time, time, kwargs["encoder_hidden_states"], context).sample
        sigma, z, expected = time / (1 - time), x / (1 - time), x - time * velocity.transpose(1, 2)
    else:
        unet = pipe["unet"] if isinstance(pipe, dict) else pipe.unet
        scheduler = pipe["scheduler"] if isinstance(pipe, dict) else pipe.scheduler
        step = torch.tensor(700)
        x = latents(teacher, 1)
        alpha = scheduler.alphas_cumprod[step]
        sigma = ((1 - alpha) / alpha).sqrt()[None]
        z = x / alpha.sqrt()
        scheduler.config.clip_sample = False
        scheduler.set_timesteps(scheduler.config.num_train_timesteps)
        expected = scheduler.step(unet(x, step, **kwargs).sample, step, x).pred_original_sample
    actual = denoise(z, sigma, **kwargs)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@torch.no_grad()
def test_zero_initialized_student_equals_the_teacher(teacher):
    z, sigma = latents(teacher, 2), torch.tensor([2.0, 0.3])
    kwargs = condition(teacher, PROMPTS[:2])
    expected = Denoiser(teacher.network, teacher.preconditioning)(z, sigma, **kwargs)
    where = torch.tensor([[0.05, 3.5], [0.2, 2.0]])
    student = Denoiser(teacher.student("zero").eval(), teacher.preconditioning)
    assert torch.equal(student(z, sigma, timestep_cond=where, **kwargs), expected)
    reference = Denoiser(teacher.student("reference").eval(), teacher.preconditioning)
    outputs = [
        reference(z, sigma, timestep_cond=where * torch.tensor(change), **kwargs)
        for change in ([1.0, 1.0], [0.5, 1.0], [1.0, 0.5])
    ]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])


def test_features_and_guidance_reach_every_family(teacher):
    z, sigma = latents(teacher, 1).requires_grad_(), torch.tensor([2.0])
    features = FeatureSpace(teacher.network, teacher.preconditioning)(z, sigma, condition(teacher, PROMPTS[:1]))
    sum(feature.square().sum() for feature in features).backward()
    assert z.grad.abs().max() > 0
    kwargs = condition(teacher, [PROMPTS[0], ""])
    outputs = [
        TeacherDenoiser(teacher.network, teacher.preconditioning, kwargs, torch.tensor([omega]))(z.detach(), sigma)
        for omega in (0.0, 1.0, 3.0)
    ]
    torch.testing.assert_close(outputs[2], outputs[0] + 3 * (outputs[1] - outputs[0]), rtol=1e-3, atol=1e-4)


def test_noise_levels_are_the_teachers_own(original, teacher):
    expected = {
        "tango": (0.02917, 14.61),
        "stable_audio": (0.01, 500),
        "stable_audio_3": (0.01, 493),
        "longcat": (0.01, 493),
        "ace_step": (0.01, 493),
    }
    lowest, highest = expected.get(original[0], (0.03876, 83.82))
    assert teacher.scheduler.config.sigma_min == pytest.approx(lowest, rel=1e-3)
    assert teacher.scheduler.config.sigma_max == pytest.approx(highest, rel=1e-3)
    again = CTMScheduler.from_config(teacher.scheduler.config)
    assert torch.equal(again.sigmas, teacher.scheduler.sigmas)


def test_students_pipeline_saves_loads_and_generates(original, teacher, tmp_path):
    pipe = SoundCTMPipeline.from_components(teacher.parts(teacher.student()), (2.0, 5.0))
    pipe.save_pretrained(tmp_path)
    loaded = SoundCTMPipeline.from_pretrained(tmp_path)
    sounds = []
    for each in (pipe, loaded):
        each.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        sounds.append(each(PROMPTS[:2], num_inference_steps=2, nu=1.5, generator=generator, output_type="pt").audios)
    torch.testing.assert_close(*sounds)
    rates = {"stable_audio": 44100, "stable_audio_3": 44100, "longcat": 24000, "ace_step": 48000}
    assert loaded.sampling_rate == rates.get(original[0], 16000)
    shapes = {
        "stable_audio": (2, 2, 40 * 32),
        "stable_audio_3": (2, 2, 108 * 32),
        "longcat": (2, 1, 117 * 32),
        "ace_step": (2, 2, 250 * 1920),
    }
    assert sounds[0].shape == shapes.get(original[0], (2, 1, 16 * 4 * 160))
    assert sounds[0].isfinite().all() and sounds[0].std() > 0
    assert loaded("rain", audio_length_in_s=0.02).audios.shape[-1] == round(0.02 * loaded.sampling_rate)


def test_half_precision_is_for_networks_that_do_not_amplify_its_errors(original, teacher, tmp_path):
    parts = {teacher.family.network: teacher.student(), "scheduler": teacher.scheduler}
    SoundCTMPipeline.from_components(parts).save_pretrained(tmp_path)
    is_epsilon = teacher.scheduler.config.prediction_type == "epsilon"
    for dtype, stays in ((torch.float16, is_epsilon), (torch.bfloat16, is_epsilon or original[0] == "stable_audio_3")):
        expected = torch.float32 if stays else dtype
        pipe = SoundCTMPipeline.from_pretrained(tmp_path, torch_dtype=dtype)
        assert pipe.denoiser.dtype == expected
        assert SoundCTMPipeline.from_pretrained(tmp_path).to(dtype).denoiser.dtype == expected


@torch.no_grad()
def test_sounds_go_through_the_teachers_autoencoder(original, teacher):
    pipe = SoundCTMPipeline.from_components(teacher.parts(teacher.student()))
    length = 1920 if original[0] == "ace_step" else 1280
    sound = 0.3 * noise(1, 2, length)
    z = pipe.encode_audio(sound, pipe.sampling_rate, length)
    if original[0] not in TRANSFORMERS:
        assert z.shape == (1, 8, 2, 16)
        return
    if original[0] == "longcat":
        encoded = original[2].vae.encode(sound.mean(1, keepdim=True), sample_posterior=False)
    else:
        encoded = original[2].vae.encode(sound)
    torch.testing.assert_close(z, encoded.latents if "latents" in encoded else encoded.latent_dist.mode())
    torch.testing.assert_close(pipe.decode_latents(z), original[2].vae.decode(z).sample)
    longest = {"stable_audio_3": 384, "longcat": 30, "ace_step": 600}.get(original[0])
    if longest:
        assert pipe.max_audio_length_in_s == longest
        with pytest.raises(ValueError, match=rf"audio_length_in_s.*at most {longest}"):
            pipe("rain", audio_length_in_s=longest + 1.0)
        return
    with pytest.raises(ValueError, match=r"audio_length_in_s.*at most 0\.029"):
        pipe("rain", audio_length_in_s=1.0)


def test_unknown_pipelines_are_named_with_those_there_are(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match=r"FluxPipeline.*AudioLDM2Pipeline.*StableAudioPipeline.*add a module to"):
        recognize(tmp_path)
    (tmp_path / "model_index.json").unlink()
    with pytest.raises(ValueError, match="no pipeline"):
        recognize(tmp_path)


def test_a_plain_folder_of_components_is_recognized(original, tmp_path):
    shutil.copytree(original[1], tmp_path / "plain", ignore=shutil.ignore_patterns("model_index.json"))
    expected = recognize(original[1])
    assert recognize(tmp_path / "plain") is expected
    assert load_teacher(tmp_path / "plain").family is expected


def test_a_student_is_no_teacher(teacher, tmp_path):
    teacher.student().save_pretrained(tmp_path / "unet")
    teacher.scheduler.save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match=r"is a student, a CTM\w+; pass the teacher"):
        load_teacher(tmp_path)


@pytest.mark.parametrize(
    "config, complaint",
    [
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, "flow-matching"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_late": 2.0}, r"unknown settings \(shift_late\)"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", **BETAS, "prediction_type": "flow_prediction"},
            "flow-matching",
        ),
        ({"_class_name": "DDIMScheduler", **BETAS, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348}, "ScoreSdeVeScheduler"),
        ({**STABLE_AUDIO_SCHEDULER, "prediction_type": "epsilon"}, "CosineDPMSolver"),
    ],
)
def test_unsupported_schedulers_are_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        scheduler_of(config)


@pytest.mark.parametrize(("inverted", "kind"), [(False, "flow"), (True, "inverted_flow")])
def test_flow_schedulers_tell_the_direction_of_time(inverted, kind):
    given = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, invert_sigmas=inverted)
    config = scheduler_of({**given.config, "_class_name": "FlowMatchEulerDiscreteScheduler"}).config
    assert config.prediction_type == kind
    assert [config.sigma_min, config.sigma_max] == pytest.approx([0.01, math.exp(6.2)])


def test_edm_schedulers_of_diffusers_are_read():
    scheduler = scheduler_of(
        {"_class_name": "EDMEulerScheduler", "sigma_min": 0.01, "sigma_max": 50.0, "sigma_data": 0.3, "rho": 5.0}
    )
    assert (scheduler.config.prediction_type, scheduler.config.sigma_data) == ("edm", 0.3)


def test_a_missing_part_is_named(original, tmp_path):
    shutil.copytree(original[1], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "vae")
    with pytest.raises(ValueError, match="has no vae; pass --vae"):
        load_teacher(tmp_path / "copy")
    assert isinstance(load_teacher(tmp_path / "copy", vae=original[1] / "vae").scheduler.config, dict)
    shutil.rmtree(tmp_path / "copy" / "text_encoder")
    source = {"stable_audio_3": "t5gemma", "longcat": "umt5", "ace_step": "Qwen3"}.get(original[0], "")
    with pytest.raises(ValueError, match=rf"has no text_encoder; pass --text_encoder FOLDER.*{source}"):
        load_teacher(tmp_path / "copy", vae=original[1] / "vae")


def test_default_prediction_type_is_diffusers_own():
    assert (
        scheduler_of(DDPMScheduler(**BETAS).config | {"_class_name": "DDPMScheduler"}).config.prediction_type
        == "epsilon"
    )


@pytest.fixture(scope="module")
def dit_teacher(tmp_path_factory, tiny_pipeline):
    """A folder with the recorded 44.1 kHz teacher and tiny components around it."""
    folder = tmp_path_factory.mktemp("teachers") / "dit"
    config = golden.read("dit/dit_config.json")
    network = convert_soundctm_dit(golden.read("dit/teacher_dit.safetensors"), config)
    pipe = tiny_pipeline("dit")
    text_encoder = type(pipe.text_encoder)(
        ClapTextConfig(
            **{**pipe.text_encoder.config.to_dict(), "hidden_size": network.config.cross_attention_input_dim}
        )
    )
    vae = type(pipe.vae).from_config(
        pipe.vae.config,
        latent_channels=network.config.in_channels,
        latents_mean=[0.5] * network.config.in_channels,
        latents_std=[2.0] * network.config.in_channels,
    )
    for name, part in {"unet": network, "vae": vae, "text_encoder": text_encoder, "tokenizer": pipe.tokenizer,
                       "scheduler": CTMScheduler()}.items():  # fmt: skip
        part.save_pretrained(folder / name)
    return folder


@torch.no_grad()
def test_a_released_dit_is_recognized_wherever_it_lies(dit_teacher, tmp_path):
    assert recognize(dit_teacher) is AudioDiT
    shutil.copytree(dit_teacher, tmp_path / "copy")
    (tmp_path / "copy" / "unet").rename(tmp_path / "copy" / "transformer")
    assert recognize(tmp_path / "copy") is AudioDiT
    teacher = load_teacher(tmp_path / "copy")
    assert isinstance(teacher.network, AudioDiTModel) and teacher.preconditioning.prediction_type == "edm"
    kwargs = teacher.conditioning.network_kwargs(*teacher.conditioning.encode(PROMPTS[:2], CPU))
    z, sigma = noise(2, teacher.network.config.in_channels, 20), torch.tensor([2.0, 0.3])
    denoised = Denoiser(teacher.network, teacher.preconditioning)(z, sigma, **kwargs)
    assert denoised.shape == z.shape and denoised.isfinite().all()
    student = Denoiser(teacher.student().eval(), teacher.preconditioning)
    where = torch.tensor([[0.05, 3.5], [0.2, 2.0]])
    assert student(z, sigma, timestep_cond=where, **kwargs).shape == z.shape
    student = Denoiser(teacher.student("zero").eval(), teacher.preconditioning)
    torch.testing.assert_close(student(z, sigma, timestep_cond=where, **kwargs), denoised)


def test_a_released_dit_is_distilled_and_sounds(dit_teacher, training_inputs, tmp_path):
    folder = distil(
        tmp_path / "student",
        teacher_model=dit_teacher,
        dataset_name=training_inputs["dataset_name"],
        cache_dir=tmp_path / "cache",
        num_samples=5120,
        num_scales=3,
    )
    pipe = SoundCTMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert np.isfinite(pipe("rain", num_inference_steps=2).audios).all()


def test_a_teacher_with_float16_weights_alone_is_read_in_float32(original, tmp_path, caplog):
    """What their rounding costs is said where it counts."""
    logging.getLogger("diffusers_soundctm").propagate = True
    shutil.copytree(original[1], tmp_path / "copy")
    for file in (tmp_path / "copy").glob("*/*.safetensors"):
        weights = {name: x.half() if x.is_floating_point() else x for name, x in load_file(file).items()}
        save_file(weights, file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")), {"format": "pt"})
        file.unlink()
    teacher = load_teacher(tmp_path / "copy")
    warnings = [record.getMessage() for record in caplog.records if "stored in torch.float16" in record.getMessage()]
    is_epsilon = teacher.scheduler.config.prediction_type == "epsilon"
    assert [" 6% of the latents" in warning for warning in warnings] == [True] * is_epsilon
    for model in (teacher.network, *(part for part in teacher.components.values() if hasattr(part, "parameters"))):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def damaged(folder, rng):
    """Damage one file of a teacher's folder as a broken download or a wrong edit would."""
    kind = rng.choice(["delete", "truncate", "empty", "garbage", "flip", "component", "drop", None, [1, 2], "broken"])
    if kind == "component":
        shutil.rmtree(rng.choice(sorted(path for path in folder.iterdir() if path.is_dir())))
    elif kind in ("delete", "truncate", "empty", "garbage", "flip"):
        file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
        content = bytearray(file.read_bytes())
        if kind == "flip":
            for _ in range(5):
                content[rng.randrange(min(len(content), 400))] ^= 255
        new = {"truncate": content[: len(content) // 3], "garbage": rng.randbytes(len(content)), "flip": content}
        file.unlink() if kind == "delete" else file.write_bytes(new.get(kind, b""))
    else:
        file = rng.choice(sorted(folder.rglob("*config.json")))
        config = json.loads(file.read_text())
        key = rng.choice(sorted(config))
        config[key] = kind
        if kind == "drop":
            del config[key]
        file.write_text(json.dumps(config))


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_teacher_loads_or_says_in_one_sentence_what_is_wrong(original, seed, tmp_path):
    shutil.copytree(original[1], tmp_path / "copy")
    damaged(tmp_path / "copy", random.Random(f"{original[0]} {seed}"))
    try:
        load_teacher(tmp_path / "copy").student()
    except (OSError, ValueError) as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        assert "diffusers_soundctm" in raised_in and "\n" not in str(error), error


def test_an_own_teacher_takes_its_parts_from_other_folders(training_inputs, tiny_pipeline, tmp_path):
    """`from_teacher` as train_ctm.py: an EDM UNet and its scheduler, everything else given."""
    network = UNet2DConditionModel.from_config(json.loads(Path(training_inputs["unet_config"]).read_text()))
    network.save_pretrained(tmp_path / "unet")
    CTMScheduler().save_pretrained(tmp_path / "scheduler")
    parts = {name: training_inputs[name] for name in ("vae", "text_encoder", "vocoder")}
    with pytest.raises(ValueError, match="has no vae; pass --vae"):
        SoundCTMPipeline.from_teacher(tmp_path)
    pipe = SoundCTMPipeline.from_teacher(tmp_path, torch_dtype=torch.bfloat16, **parts)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.dtype == pipe.vae.dtype == torch.bfloat16
    assert np.isfinite(pipe("rain").audios).all()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", None])
@pytest.mark.parametrize("name", ["vae", "text_encoder", "scheduler", "network"])
def test_a_damaged_component_is_named(original, tmp_path, damage, name):
    folder = tmp_path / "copy"
    shutil.copytree(original[1], folder)
    part = folder / (("transformer" if original[0] in TRANSFORMERS else "unet") if name == "network" else name)
    if name == "scheduler":  # LongCat's folder has none
        part.mkdir(exist_ok=True)
        (part / "scheduler_config.json").touch()
    if damage is None and name != "scheduler":
        weights = next(part.glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        next(part.glob("*config.json")).write_bytes(damage or b"null")
    with pytest.raises((OSError, ValueError), match=rf"{part.name}|prediction_type"):
        load_teacher(folder)


@torch.no_grad()
def test_an_edm_teacher_takes_a_t5_that_was_saved_with_its_decoder(tiny_pipeline, tmp_path):
    """The released 16 kHz teacher: an EDM UNet with FLAN-T5 from a folder of its own."""
    pipe = tiny_pipeline("tango")
    network = UNet2DConditionModel.from_config(
        {k: v for k, v in pipe.unet.config.items() if not k.startswith("_") and k != "prediction_type"}
    )
    network.save_pretrained(tmp_path / "teacher" / "unet")
    pipe.scheduler.save_pretrained(tmp_path / "teacher" / "scheduler")
    pipe.vae.save_pretrained(tmp_path / "vae")
    T5Model(T5Config(**{**pipe.text_encoder.config.to_dict(), "is_encoder_decoder": True})).save_pretrained(
        tmp_path / "text"
    )
    pipe.tokenizer.save_pretrained(tmp_path / "text")
    teacher = load_teacher(tmp_path / "teacher", vae=tmp_path / "vae", text_encoder=tmp_path / "text")
    assert type(teacher.components["text_encoder"]).__name__ == "T5EncoderModel"
    kwargs = condition(teacher, PROMPTS[:2])
    z, sigma = noise(2, 8, 8, 16), torch.tensor([2.0, 0.3])
    assert Denoiser(teacher.network, teacher.preconditioning)(z, sigma, **kwargs).isfinite().all()
