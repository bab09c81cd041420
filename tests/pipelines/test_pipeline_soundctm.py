"""The pipeline's contract, on tiny real components of every family."""

import inspect
import logging

import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.preconditioning import karras_sigmas
from pipeline_calls import AUDIO, CLOSE, FAMILIES, PROMPTS, counting_calls, latents_of, seeded

# What comes out


def test_sounds_stay_within_full_scale(embedded, monkeypatch):
    """Each by itself, and in its own shape: one loud sound of a batch does not turn the other down."""
    decode = embedded.mel_spectrogram_to_waveform
    usual = decode(embedded.decode_latents(latents_of(embedded, PROMPTS, seed=(0, 1))))
    gains = torch.tensor([0.5, 4])[:, None, None] / usual.abs().amax(dim=(1, 2), keepdim=True)
    monkeypatch.setattr(embedded, "mel_spectrogram_to_waveform", lambda mel: gains * decode(mel))
    quiet, loud = embedded(PROMPTS, generator=seeded(0, 1), output_type="pt").audios
    torch.testing.assert_close(quiet, gains[0] * usual[0])
    torch.testing.assert_close(loud, gains[1] * usual[1] / 4)


def test_waveform_types_and_shapes(pipe):
    as_array = pipe("rain", generator=seeded(0)).audios
    as_tensor = pipe("rain", generator=seeded(0), output_type="pt", return_dict=False)[0]
    assert isinstance(as_array, np.ndarray) and as_array.dtype == np.float32
    assert as_tensor.dtype == torch.float32
    assert as_array.shape == as_tensor.shape == (1, 1, 32 * 4 * 160)  # sample_size × VAE factor × hop
    np.testing.assert_allclose(as_array, as_tensor.numpy(), atol=1e-6)
    assert np.isfinite(as_array).all() and as_array.std() > 0
    assert latents_of(pipe).shape == ((1, 6, 64) if pipe.encodes_waveforms else (1, 8, 32, 16))


@pytest.mark.parametrize("seconds", [0.01, 0.7, 1.2345, 3])
def test_length_is_exact(embedded, seconds):
    audio = embedded("rain", audio_length_in_s=seconds, generator=seeded(0)).audios
    assert audio.shape == (1, 1, round(seconds * 16000))


def test_prompt_guidance_nu_gamma_and_steps_all_matter(pipe):
    base = latents_of(pipe, num_inference_steps=2)
    changed = {
        "prompt": latents_of(pipe, "a dog barks", num_inference_steps=2),
        "guidance_scale": latents_of(pipe, num_inference_steps=2, guidance_scale=4.5),
        "nu": latents_of(pipe, num_inference_steps=2, nu=1.5),
        "gamma": latents_of(pipe, num_inference_steps=2, gamma=0.5),
        "num_inference_steps": latents_of(pipe, num_inference_steps=3),
        "seed": latents_of(pipe, num_inference_steps=2, seed=1),
    }
    assert [name for name, latents in changed.items() if torch.allclose(latents, base, atol=1e-7)] == []


def test_same_seed_same_sound(pipe):
    torch.testing.assert_close(latents_of(pipe, gamma=1.0), latents_of(pipe, gamma=1.0), rtol=0, atol=0)


def test_default_call_uses_karras_levels_and_own_sigmas_replace_them(embedded):
    levels = karras_sigmas(3)
    torch.testing.assert_close(
        latents_of(embedded, sigmas=levels.tolist()), latents_of(embedded, num_inference_steps=3)
    )
    assert embedded.num_timesteps == 3


def test_numpy_numbers_are_numbers(embedded):
    audio = {"initial_audio_waveforms": np.full(4410, 0.1), "initial_audio_sampling_rate": 44100}
    plain = {"num_inference_steps": 2, "guidance_scale": 3.0, "nu": 1.5, "gamma": 0.5, "audio_length_in_s": 0.5}
    given = {name: (np.float32 if isinstance(value, float) else np.int64)(value) for name, value in plain.items()}
    for more, as_numpy in (({}, {}), (audio, {"initial_audio_sampling_rate": np.int64(44100)})):
        expected = latents_of(embedded, num_waveforms_per_prompt=2, **plain, **more)
        actual = latents_of(embedded, num_waveforms_per_prompt=np.int64(2), **given, **{**more, **as_numpy})
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


# How often the networks run


def test_one_network_call_a_step_at_nu_1_and_two_halves_otherwise(pipe):
    sizes, handle = counting_calls(pipe.denoiser)
    latents_of(pipe, PROMPTS, num_inference_steps=3)
    assert sizes == [2, 2, 2]
    sizes.clear()
    latents_of(pipe, PROMPTS, num_inference_steps=3, nu=0.5)
    assert sizes == [4, 4, 4]
    handle.remove()


@pytest.mark.parametrize("nu", [1.0, 1.5])
def test_text_encoder_runs_once(pipe, nu):
    sizes, handle = counting_calls(pipe.text_encoder)
    latents_of(pipe, PROMPTS, num_inference_steps=3, nu=nu)
    handle.remove()
    assert len(sizes) == 1


def test_nu_mixes_the_two_students(pipe):
    conditional = latents_of(pipe)
    unconditional = latents_of(pipe, nu=0.0)
    torch.testing.assert_close(unconditional, latents_of(pipe, ""), **CLOSE)
    mixed = latents_of(pipe, nu=1.7)
    torch.testing.assert_close(mixed, unconditional + 1.7 * (conditional - unconditional), **CLOSE)


def test_negative_prompt_takes_the_place_of_the_empty_one(pipe):
    negative = latents_of(pipe, nu=0.0, negative_prompt="loud wind")
    torch.testing.assert_close(negative, latents_of(pipe, "loud wind"), **CLOSE)
    one_each = latents_of(pipe, PROMPTS, nu=0.0, negative_prompt=["loud wind", "train"], seed=(0, 1))
    torch.testing.assert_close(one_each[1:], latents_of(pipe, "train", seed=1), **CLOSE)


# Batches


@pytest.mark.parametrize("settings", [{}, {"nu": 1.5, "gamma": 0.5, "num_inference_steps": 3}])
def test_each_sound_is_the_same_alone_and_in_a_batch(pipe, settings):
    prompts = ["rain", "a dog barks and a train on a tin roof", "wind"]
    batch = latents_of(pipe, prompts, seed=(0, 1, 2), **settings)
    for i, prompt in enumerate(prompts):
        alone = latents_of(pipe, prompt, generator=[seeded(i)], **settings)
        torch.testing.assert_close(batch[i : i + 1], alone, **CLOSE)


def test_several_waveforms_a_prompt(pipe):
    sounds = latents_of(pipe, PROMPTS, seed=(0, 1, 2, 3), num_waveforms_per_prompt=2, nu=1.5)
    assert sounds.shape[0] == 4
    torch.testing.assert_close(sounds[1:2], latents_of(pipe, PROMPTS[0], seed=1, nu=1.5), **CLOSE)
    torch.testing.assert_close(sounds[2:3], latents_of(pipe, PROMPTS[1], seed=2, nu=1.5), **CLOSE)


# Inputs in place of others


@pytest.mark.parametrize("nu", [1.0, 1.5])
def test_prompt_embeds_equal_prompts(pipe, nu):
    expected = latents_of(pipe, PROMPTS, nu=nu, negative_prompt="loud wind and a train on a tin roof")
    embeds, mask, negative_embeds, negative_mask = pipe.encode_prompt(
        PROMPTS, negative_prompt="loud wind and a train on a tin roof", do_nu_sampling=nu != 1
    )
    given = latents_of(
        pipe,
        None,
        nu=nu,
        prompt_embeds=embeds,
        attention_mask=mask,
        negative_prompt_embeds=negative_embeds,
        negative_attention_mask=negative_mask,
    )
    torch.testing.assert_close(given, expected, **CLOSE)


def test_embeddings_of_different_lengths_can_be_mixed(pipe):
    embeds, mask, *_ = pipe.encode_prompt("rain", do_nu_sampling=False)
    negative, negative_mask, *_ = pipe.encode_prompt("loud wind and a train", do_nu_sampling=False)
    given = latents_of(
        pipe,
        None,
        nu=1.5,
        prompt_embeds=embeds,
        attention_mask=mask,
        negative_prompt_embeds=negative,
        negative_attention_mask=negative_mask,
    )
    torch.testing.assert_close(
        given, latents_of(pipe, "rain", nu=1.5, negative_prompt="loud wind and a train"), **CLOSE
    )


def test_latents_in_are_the_starting_noise(embedded):
    noise = torch.randn(1, 8, 16, 16, generator=seeded(3))
    from_noise = embedded("rain", latents=noise, output_type="latent").audios
    drawn = latents_of(embedded, "rain", seed=3, audio_length_in_s=16 * 4 * 160 / 16000)
    torch.testing.assert_close(from_noise, drawn)
    assert embedded("rain", latents=noise).audios.shape == (1, 1, 16 * 4 * 160)


def test_network_alone_is_enough_for_latents(embedded):
    embeds, mask, *_ = embedded.encode_prompt("rain", do_nu_sampling=False)
    bare = SoundCTMPipeline(None, None, None, embedded.unet, embedded.scheduler, None)
    bare.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 8, 16, 16, generator=seeded(3))
    latents = bare(prompt_embeds=embeds, attention_mask=mask, latents=noise, output_type="latent").audios
    torch.testing.assert_close(latents, embedded("rain", latents=noise, output_type="latent").audios)
    for more in ({}, {**AUDIO, "latents": noise, "output_type": "latent"}):
        with pytest.raises(ValueError, match="no `vae`"):
            bare(prompt_embeds=embeds, attention_mask=mask, **more)


# Audio to audio


def test_strength_chooses_the_first_noise_level(embedded):
    seen = []

    def record(pipe, step, timestep, tensors):
        seen.append(pipe.scheduler.sigmas.clone())
        return tensors

    waveform = 0.1 * torch.randn(1, 9600, generator=seeded(5))
    source = {"initial_audio_waveforms": waveform, "initial_audio_sampling_rate": 16000}
    audio = embedded("rain", num_inference_steps=2, strength=0.25, callback_on_step_end=record, **source).audios
    assert audio.shape == (1, 1, 9600)
    torch.testing.assert_close(seen[0], karras_sigmas(8)[[6, 7, 8]])

    clean = embedded.encode_audio(waveform[None], 16000, 9600)
    near = latents_of(embedded, strength=0.01, **source)
    far = latents_of(embedded, strength=0.9, **source)
    assert (near - clean).abs().mean() < 0.1 * (far - clean).abs().mean()


@pytest.mark.parametrize("shape", [(4410,), (2, 4410), (2, 2, 4410)])
def test_initial_audio_is_resampled_mixed_and_repeated(embedded, shape):
    waveforms = 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    audio = embedded(
        PROMPTS, initial_audio_waveforms=waveforms, initial_audio_sampling_rate=44100, num_waveforms_per_prompt=2
    ).audios
    assert audio.shape == (4, 1, 1600)
    assert np.isfinite(audio).all()


@pytest.mark.parametrize(("samples", "rate"), [(1, 16000), (2, 44100), (6, 192000)])
def test_one_sample_of_initial_audio_is_enough(embedded, samples, rate):
    audio = embedded("rain", initial_audio_waveforms=np.ones(samples), initial_audio_sampling_rate=rate).audios
    assert audio.shape == (1, 1, 1)


def test_reversed_initial_audio_is_that_sound(embedded):
    sound = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)[::-1]
    given = latents_of(embedded, initial_audio_waveforms=sound, initial_audio_sampling_rate=16000)
    copied = latents_of(embedded, initial_audio_waveforms=sound.copy(), initial_audio_sampling_rate=16000)
    torch.testing.assert_close(given, copied, rtol=0, atol=0)


def test_silent_initial_audio_is_fine(embedded):
    audio = embedded("rain", initial_audio_waveforms=np.zeros(8000), initial_audio_sampling_rate=16000).audios
    assert np.isfinite(audio).all()


# Callbacks


def test_callback_sees_and_changes_latents(pipe):
    steps = []

    def zero_at_the_end(pipe, step, timestep, tensors):
        steps.append((step, pipe.num_timesteps, pipe.guidance_scale, pipe.nu))
        if step == 2:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    latents = latents_of(pipe, num_inference_steps=3, guidance_scale=3.0, callback_on_step_end=zero_at_the_end)
    assert steps == [(i, 3, 3.0, 1.0) for i in range(3)]
    assert latents.abs().sum() == 0


def test_callback_can_interrupt(pipe):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1
        return tensors

    latents_of(pipe, num_inference_steps=5, callback_on_step_end=stop)
    assert steps == [0, 1]
    assert latents_of(pipe, num_inference_steps=2).isfinite().all()  # the next call starts afresh
    assert not pipe.interrupt


class Recorder(PipelineCallback):
    def __init__(self, name):
        super().__init__()
        self.seen = []
        self.name = name

    @property
    def tensor_inputs(self):
        return [self.name]

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        self.seen.append(sorted(callback_kwargs))
        return callback_kwargs


def test_pipeline_callbacks_get_the_tensors_they_name(pipe):
    first, second = Recorder("latents"), Recorder("prompt_embeds")
    latents_of(pipe, num_inference_steps=2, callback_on_step_end=first)
    assert first.seen == [["latents"]] * 2
    both = MultiPipelineCallbacks([first, second])
    latents_of(pipe, num_inference_steps=2, callback_on_step_end=both)
    assert second.seen == [["latents", "prompt_embeds"]] * 2


def test_callback_can_change_the_prompt(pipe):
    def turn_round(pipe, step, timestep, tensors):
        return {"prompt_embeds": -tensors["prompt_embeds"]}

    changed = latents_of(
        pipe,
        num_inference_steps=2,
        callback_on_step_end=turn_round,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert not torch.allclose(changed, latents_of(pipe, num_inference_steps=2))


@pytest.mark.parametrize("name", ["attention_mask", "negative_attention_mask"])
def test_callback_can_change_the_masks(embedded, name):
    def hide_all_but_one(pipe, step, timestep, tensors):
        return {name: torch.arange(tensors[name].shape[1]).expand_as(tensors[name]) < 1}

    settings = {"num_inference_steps": 2, "nu": 1.5, "negative_prompt": "wind and rain"}
    changed = latents_of(
        embedded, callback_on_step_end=hide_all_but_one, callback_on_step_end_tensor_inputs=[name], **settings
    )
    assert not torch.allclose(changed, latents_of(embedded, **settings))


def test_every_callback_tensor_can_be_asked_for(pipe):
    seen = {}

    def keep(pipe, step, timestep, tensors):
        seen.update(tensors)
        return tensors

    names = pipe._callback_tensor_inputs
    latents_of(pipe, nu=1.5, callback_on_step_end=keep, callback_on_step_end_tensor_inputs=names)
    # AudioLDM's prompts are one vector each, without a mask.
    missing = {name for name in names if "mask" in name and pipe.conditioning.prompt_embeds_ndim == 2}
    assert {name for name in names if isinstance(seen[name], torch.Tensor)} == set(names) - missing


# diffusers' pipeline contract


def test_call_has_the_arguments_diffusers_users_expect():
    names = inspect.signature(SoundCTMPipeline.__call__).parameters
    expected = "prompt audio_length_in_s num_inference_steps guidance_scale negative_prompt num_waveforms_per_prompt"
    expected += " generator latents prompt_embeds negative_prompt_embeds output_type return_dict callback_on_step_end"
    expected += " callback_on_step_end_tensor_inputs sigmas"
    assert set(expected.split()) <= set(names)


def test_offload_sequence_names_every_model(pipe):
    models = {name for name, value in pipe.components.items() if isinstance(value, torch.nn.Module)}
    assert models <= set(pipe.model_cpu_offload_seq.split("->"))


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_stays_close_and_gives_float32_sound(family, tiny_pipeline):
    pipe = tiny_pipeline(family)
    full = latents_of(pipe, num_inference_steps=2, nu=1.5)
    assert pipe.to(dtype=torch.bfloat16) is pipe
    predicts_epsilon = pipe.scheduler.config.prediction_type == "epsilon"
    assert pipe.denoiser.dtype == (torch.float32 if predicts_epsilon else torch.bfloat16)
    assert pipe.vae.dtype == pipe.text_encoder.dtype == torch.bfloat16
    half = latents_of(pipe, num_inference_steps=2, nu=1.5)
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.1 * full.abs().mean()
    audio = pipe("rain", generator=seeded(0)).audios
    assert audio.dtype == np.float32 and np.isfinite(audio).all()


@pytest.mark.parametrize("dtype", [torch.float16, {"default": torch.bfloat16, "vae": torch.float32}])
def test_an_epsilon_denoiser_is_loaded_in_float32(dtype, tiny_pipeline, tmp_path):
    tiny_pipeline("audioldm").save_pretrained(tmp_path)
    pipe = SoundCTMPipeline.from_pretrained(tmp_path, torch_dtype=dtype)
    default = dtype["default"] if isinstance(dtype, dict) else dtype
    assert pipe.unet.dtype == torch.float32 and pipe.vocoder.dtype == default
    assert pipe.vae.dtype == (torch.float32 if isinstance(dtype, dict) else default)
    assert pipe.to("cpu", torch.bfloat16).unet.dtype == torch.float32


@pytest.mark.parametrize("family", ["audioldm", "tango"])
def test_what_the_rounding_of_stored_weights_costs_is_said_where_it_counts(family, tiny_pipeline, tmp_path, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    pipe = tiny_pipeline(family)
    is_epsilon = pipe.scheduler.config.prediction_type == "epsilon"
    for dtype in (torch.float32, torch.float16):
        pipe.unet.to(dtype)
        pipe.save_pretrained(tmp_path / str(dtype))
        caplog.clear()
        SoundCTMPipeline.from_pretrained(tmp_path / str(dtype))
        assert ("stored in torch.float16" in caplog.text) == (dtype == torch.float16 and is_epsilon)
    SoundCTMPipeline.from_pretrained(tmp_path / str(dtype), unet=pipe.unet.float())
    assert caplog.text.count("stored in") == is_epsilon


def test_an_epsilon_network_in_half_precision_is_refused_where_it_is_too_coarse(tiny_pipeline):
    pipe = tiny_pipeline("audioldm")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"inside torch\.autocast"):
        pipe("rain")
    pipe.unet.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"epsilon and the denoiser is in torch\.bfloat16.*float32"):
        pipe("rain")
    assert pipe("rain", sigmas=[1.0, 0.1], output_type="latent").audios.isfinite().all()


def test_progress_bar_has_one_tick_a_step(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    latents_of(pipe, num_inference_steps=3)
    pipe.set_progress_bar_config(disable=True)
    assert "3/3" in capsys.readouterr().err
