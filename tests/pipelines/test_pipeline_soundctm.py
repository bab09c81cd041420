"""The pipeline's contract, on tiny real components of every family."""

import inspect
import json
import logging
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.hub.trust import REMOTE_CODE
from diffusers_soundctm.preconditioning import karras_sigmas

FAMILIES = ("embedded", "tango", "audioldm", "dit")
PROMPTS = ["rain on a tin roof", "a dog barks"]
# A batch of another size rounds differently, and an epsilon network's output is multiplied by sigma = 80.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(family, tiny_pipeline):
    return tiny_pipeline(family)


@pytest.fixture(scope="module")
def embedded(tiny_pipeline):
    return tiny_pipeline("embedded")


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def latents_of(pipe, prompt="rain on a tin roof", *, seed=0, **kwargs):
    kwargs.setdefault("generator", seeded(*seed) if isinstance(seed, tuple) else seeded(seed))
    return pipe(prompt, output_type="latent", **kwargs).audios


def counting_calls(module):
    """Batch sizes of the calls made to `module`, filled in as they happen."""
    sizes = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append((args[0] if args else kwargs["input_ids"]).shape[0]), with_kwargs=True
    )
    return sizes, handle


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
    pipe.to(dtype=torch.bfloat16)
    half = latents_of(pipe, num_inference_steps=2, nu=1.5)
    assert half.dtype == torch.float32
    # At sigma 80 an epsilon network's rounding error is multiplied by 80.
    assert (half - full).abs().mean() < 0.1 * full.abs().mean()
    audio = pipe("rain", generator=seeded(0)).audios
    assert audio.dtype == np.float32 and np.isfinite(audio).all()


def test_progress_bar_has_one_tick_a_step(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    latents_of(pipe, num_inference_steps=3)
    pipe.set_progress_bar_config(disable=True)
    assert "3/3" in capsys.readouterr().err


# Saving and loading


def test_save_and_load(pipe, tmp_path):
    expected = latents_of(pipe, num_inference_steps=2, nu=1.5)
    pipe.save_pretrained(tmp_path)
    loaded = SoundCTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert list(loaded.config.guidance_scale_range) == [2.0, 5.0]
    assert loaded.dtype == torch.float32
    torch.testing.assert_close(latents_of(loaded, num_inference_steps=2, nu=1.5), expected)
    assert not list(tmp_path.rglob("*.bin"))
    assert {path.read_bytes() for path in tmp_path.rglob("*.py")} == {REMOTE_CODE}


def test_loading_gives_no_warnings(pipe, tmp_path, caplog):
    for name in ("diffusers", "transformers"):
        logging.getLogger(name).propagate = True
    pipe.save_pretrained(tmp_path)
    SoundCTMPipeline.from_pretrained(tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_save_and_load_in_half_precision_with_variant(embedded, embedded_folder, tmp_path):
    half = SoundCTMPipeline.from_pretrained(embedded_folder, torch_dtype=torch.float16)
    assert {model.dtype for model in (half.unet, half.vae, half.vocoder, half.text_encoder)} == {torch.float16}
    half.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded = SoundCTMPipeline.from_pretrained(tmp_path, variant="fp16", torch_dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.text_encoder.dtype == torch.float32
    reference = latents_of(embedded)
    assert (latents_of(loaded) - reference).abs().mean() < 0.02 * reference.abs().mean()
    with pytest.raises((OSError, ValueError)):
        SoundCTMPipeline.from_pretrained(tmp_path)  # has only the fp16 variant


def test_optional_components_may_be_left_out(embedded, tmp_path):
    embeds, mask, *_ = embedded.encode_prompt("rain", do_nu_sampling=False)
    components = {**embedded.components, "text_encoder": None, "tokenizer": None}
    SoundCTMPipeline(**components).save_pretrained(tmp_path)
    loaded = SoundCTMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.text_encoder is None and loaded.tokenizer is None
    torch.testing.assert_close(
        latents_of(loaded, None, prompt_embeds=embeds, attention_mask=mask), latents_of(embedded, "rain")
    )
    with pytest.raises(ValueError, match="text_encoder"):
        loaded("rain")


def test_components_can_be_passed(embedded, embedded_folder):
    loaded = SoundCTMPipeline.from_pretrained(embedded_folder, unet=embedded.unet, text_encoder=None, tokenizer=None)
    assert loaded.unet is embedded.unet and loaded.text_encoder is None


def test_broken_folders_are_named(embedded_folder, tmp_path):
    import shutil

    def copy(name):
        return shutil.copytree(embedded_folder, tmp_path / name)

    with pytest.raises(OSError, match=r"model_index\.json"):
        SoundCTMPipeline.from_pretrained(tmp_path)
    no_vae = copy("no-vae")
    shutil.rmtree(no_vae / "vae")
    with pytest.raises(OSError, match="vae"):
        SoundCTMPipeline.from_pretrained(no_vae)
    no_weights = copy("no-weights")
    (no_weights / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="unet"):
        SoundCTMPipeline.from_pretrained(no_weights)
    no_index = copy("no-json")
    for content in ("{", "[]"):
        (no_index / "model_index.json").write_text(content)
        with pytest.raises(OSError, match=r"model_index\.json"):
            SoundCTMPipeline.from_pretrained(no_index)
    lfs_pointer = copy("lfs-pointer")
    for file in ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json"):
        complete = (lfs_pointer / file).read_text()
        (lfs_pointer / file).write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(OSError, match=f"{file} is not valid JSON"):
            SoundCTMPipeline.from_pretrained(lfs_pointer)
        (lfs_pointer / file).write_text(complete)
    for component, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        damaged = copy(f"damaged-{len(file)}")
        weights = damaged / component / f"{file}.safetensors"
        complete = weights.read_bytes()
        for content in (complete[:-1], complete[:500], b"\xff" * 100, b""):
            weights.write_bytes(content)
            with pytest.raises(OSError, match=f"{component}/{file}"):
                SoundCTMPipeline.from_pretrained(damaged)


def test_a_tokenizer_needs_its_vocabulary(embedded, embedded_folder, tmp_path):
    import shutil

    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(OSError, match=r"model/tokenizer lacks its vocabulary \(tokenizer\.json, or vocab\.txt"):
        SoundCTMPipeline.from_pretrained(folder)
    SoundCTMPipeline.from_pretrained(folder, tokenizer=embedded.tokenizer)
    words = sorted(embedded.tokenizer.vocab, key=embedded.tokenizer.vocab.get)
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(words))  # BERT's older file
    loaded = SoundCTMPipeline.from_pretrained(folder)
    assert loaded.tokenizer("rain on a roof").input_ids == embedded.tokenizer("rain on a roof").input_ids


def test_a_teacher_is_not_taken_for_a_soundctm(tiny_pipeline, tmp_path, capsys):
    from diffusers_soundctm import CTMScheduler
    from diffusers_soundctm.cli import main
    from tiny_teachers import make_teacher

    make_teacher("audioldm", tmp_path, tiny_pipeline)
    with pytest.raises(ValueError, match=r"is a teacher.*AudioLDMPipeline.*train_ctm\.py.*`from_teacher`"):
        SoundCTMPipeline.from_pretrained(tmp_path)
    pipe = SoundCTMPipeline.from_pretrained(tmp_path, scheduler=CTMScheduler())
    assert isinstance(pipe.scheduler, CTMScheduler)
    capsys.readouterr()
    assert main(["generate", "rain", "--model", str(tmp_path), "-o", str(tmp_path / "rain.wav")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("soundctm: error: ") and "is a teacher" in error and "\n" not in error


def test_folders_of_other_kinds_say_what_they_are(embedded_folder, tiny_pipeline, tmp_path):
    from diffusers_soundctm.lora import add_lora, save_lora
    from tiny_teachers import make_teacher

    for family, pipeline in (("stable_audio", "StableAudioPipeline"), ("stable_audio_3", "StableAudio3Pipeline")):
        make_teacher(family, tmp_path / family, tiny_pipeline)
        with pytest.raises(ValueError, match=rf"is a teacher, not a SoundCTM: it holds a {pipeline}, .*`from_teacher`"):
            SoundCTMPipeline.from_pretrained(tmp_path / family)
    make_teacher("tango", tmp_path / "tango", tiny_pipeline)
    with pytest.raises(OSError, match=r"pipeline with a UNet2DConditionModel.*`SoundCTMPipeline.from_teacher`"):
        SoundCTMPipeline.from_pretrained(tmp_path / "tango")
    with pytest.raises(OSError, match=r"one ISTFTVocoder, not a pipeline.*`ISTFTVocoder.from_pretrained`"):
        SoundCTMPipeline.from_pretrained(embedded_folder / "vocoder")
    unet = tiny_pipeline("tango").unet
    add_lora(unet, 1)
    save_lora(unet, tmp_path / "adapter")
    with pytest.raises(OSError, match=r"holds an adapter.*`load_lora_weights`"):
        SoundCTMPipeline.from_pretrained(tmp_path / "adapter")


def test_pickled_weights_are_refused(embedded, embedded_folder, tmp_path):
    import shutil

    folder = shutil.copytree(embedded_folder, tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(embedded.unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="unet"):
        SoundCTMPipeline.from_pretrained(folder)


def test_embedded_model_without_weights_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", tmp_path)
    with pytest.raises(FileNotFoundError, match="Reinstall"):
        SoundCTMPipeline.from_embedded()


def test_embedded_model_loads_half_precision_files_in_float32(monkeypatch, embedded_folder, tmp_path):
    SoundCTMPipeline.from_pretrained(embedded_folder, torch_dtype=torch.float16).save_pretrained(tmp_path)
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", tmp_path)
    pipe = SoundCTMPipeline.from_embedded()
    assert {model.dtype for model in (pipe.unet, pipe.vae, pipe.vocoder, pipe.text_encoder)} == {torch.float32}


# Bad input

NOISE = torch.zeros(1, 8, 32, 16)
AUDIO = {"initial_audio_waveforms": np.zeros(1600), "initial_audio_sampling_rate": 16000}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": 3}),
        ("prompt", {"prompt": ["rain", None]}),
        ("prompt", {"prompt": None}),
        ("prompt_embeds", {"prompt_embeds": torch.zeros(1, 3, 16)}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": torch.zeros(1, 3, 17)}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": torch.zeros(1, 16)}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": torch.zeros(0, 3, 16)}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": torch.zeros(1, 0, 16)}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": torch.zeros(())}),
        ("prompt_embeds", {"prompt": None, "prompt_embeds": np.zeros((1, 3, 16))}),
        ("prompt_embeds` contains NaN", {"prompt": None, "prompt_embeds": torch.full((1, 3, 16), float("nan"))}),
        ("negative_prompt_embeds", {"negative_prompt_embeds": torch.zeros(3, 3, 16), "nu": 0.5}),
        ("mask", {"prompt": None, "prompt_embeds": torch.zeros(1, 3, 16), "attention_mask": torch.ones(1, 4)}),
        ("mask", {"prompt": None, "prompt_embeds": torch.zeros(1, 3, 16), "attention_mask": np.ones((1, 3))}),
        ("mask", {"attention_mask": torch.ones(1, 4)}),
        ("negative_prompt", {"negative_prompt": ["a", "b"], "nu": 0.5}),
        ("negative_prompt", {"negative_prompt": 1, "nu": 0.5}),
        ("num_inference_steps", {"num_inference_steps": 0}),
        ("num_inference_steps", {"num_inference_steps": 1.5}),
        ("num_inference_steps", {"num_inference_steps": True}),
        ("num_inference_steps", {"num_inference_steps": np.float64(2)}),
        ("num_waveforms_per_prompt", {"num_waveforms_per_prompt": 0}),
        ("gamma", {"gamma": -0.1}),
        ("gamma", {"gamma": 1.1}),
        ("gamma", {"gamma": float("nan")}),
        ("guidance_scale", {"guidance_scale": float("inf")}),
        ("nu", {"nu": "1"}),
        ("audio_length_in_s", {"audio_length_in_s": 0}),
        ("audio_length_in_s", {"audio_length_in_s": -1}),
        ("audio_length_in_s", {"audio_length_in_s": 30.1}),
        ("audio_length_in_s", {"audio_length_in_s": float("nan")}),
        ("sigmas", {"sigmas": [80.0]}),
        ("sigmas", {"sigmas": [1.0, 2.0]}),
        ("sigmas", {"sigmas": [80.0, 0.0]}),
        ("generator", {"generator": [torch.Generator()] * 2}),
        ("generator", {"generator": 42}),
        ("generator", {"generator": [42]}),
        ("generator", {"generator": (torch.Generator(),)}),
        ("latents", {"latents": NOISE * float("nan")}),
        ("latents", {"latents": NOISE[:, :, :0]}),
        ("latents", {**AUDIO, "latents": NOISE[:, :, :3]}),
        ("latents", {"latents": NOISE[:, :4]}),
        ("latents", {"latents": NOISE[0]}),
        ("latents", {"latents": NOISE[..., :8]}),
        ("latents", {"latents": NOISE, "audio_length_in_s": 5.12}),
        ("latents", {"latents": NOISE.numpy()}),
        ("output_type", {"output_type": "wav"}),
        ("`callback_on_step_end`", {"callback_on_step_end": 3}),
        ("`callback_on_step_end`", {"callback_on_step_end": [print]}),
        ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
        ("initial_audio_waveforms", {**AUDIO, "initial_audio_waveforms": np.zeros(0)}),
        ("initial_audio_waveforms", {"initial_audio_waveforms": np.ones(1), "initial_audio_sampling_rate": 44100}),
        ("initial_audio_waveforms", {**AUDIO, "initial_audio_waveforms": np.full(1600, np.nan)}),
        ("initial_audio_waveforms", {**AUDIO, "initial_audio_waveforms": "rain.wav"}),
        ("initial_audio_waveforms", {**AUDIO, "initial_audio_waveforms": np.zeros((3, 1600))}),
        ("initial_audio_waveforms", {**AUDIO, "initial_audio_waveforms": np.zeros((1, 1, 1, 1600))}),
        ("initial_audio_sampling_rate", {"initial_audio_waveforms": np.zeros(1600)}),
        ("initial_audio_sampling_rate", {"initial_audio_sampling_rate": 16000}),
        ("strength", {"strength": 0.5}),
        ("strength", {**AUDIO, "strength": 0.0}),
        ("strength", {**AUDIO, "strength": 1.5}),
        ("strength", {**AUDIO, "strength": 0.5, "sigmas": [80.0, 0.002]}),
    ],
)
def test_bad_input_is_named_before_any_network_runs(embedded, name, arguments):
    calls, handles = zip(*(counting_calls(model) for model in (embedded.unet, embedded.text_encoder)), strict=True)
    with pytest.raises((ValueError, TypeError), match=name):
        embedded(**{"prompt": "rain", **arguments})
    for handle in handles:
        handle.remove()
    assert calls == ([], [])


def test_network_of_unknown_length_asks_for_one(tiny_pipeline):
    pipe = tiny_pipeline("embedded")
    pipe.denoiser.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match="audio_length_in_s"):
        pipe("rain")
    assert pipe("rain", audio_length_in_s=0.5).audios.shape == (1, 1, 8000)


def test_guidance_outside_the_trained_range_warns_and_names_it(embedded, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    with caplog.at_level(logging.WARNING):
        latents_of(embedded, guidance_scale=7.5)
        assert "[2.0, 5.0]" in caplog.text and "7.5" in caplog.text
        caplog.clear()
        latents_of(embedded, guidance_scale=5.0)
        assert caplog.text == ""


def test_unused_negative_prompt_warns(embedded, caplog):
    with caplog.at_level(logging.WARNING):
        latents_of(embedded, negative_prompt="wind")
    assert "negative_prompt" in caplog.text


def test_a_prompt_that_is_cut_is_named(tiny_pipeline, caplog):
    pipe = tiny_pipeline("audioldm")
    logging.getLogger("diffusers_soundctm").propagate = True
    long = "rain on a tin roof " * 4
    embeds, *_ = pipe.encode_prompt(["rain", long, long[:30]])
    (record,) = caplog.records
    assert repr(long) in record.getMessage() and "60 tokens" in record.getMessage()
    torch.testing.assert_close(embeds[1:2], pipe.encode_prompt(long + "wind")[0])


def test_config_is_plain_json(embedded_folder):
    index = json.loads((embedded_folder / "model_index.json").read_text())
    assert index["unet"] == ["diffusers_soundctm", "CTMUNet2DConditionModel"]
    assert index["_class_name"] == ["pipeline", "SoundCTMPipeline"]


def test_the_stock_class_loads_what_was_saved(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "copies"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    pipe.save_pretrained(tmp_path / "model")
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert isinstance(stock, SoundCTMPipeline) and type(stock.denoiser) is type(pipe.denoiser)
    assert stock.config.guidance_scale_range == [2.0, 5.0]
    stock.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents_of(stock), latents_of(pipe), **CLOSE)
    stock.save_pretrained(tmp_path / "again")
    index = json.loads((tmp_path / "again" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "SoundCTMPipeline"]


def test_loading_saved_pipelines_runs_no_loader_and_keeps_the_class(embedded_folder, tmp_path, monkeypatch):
    class MyPipeline(SoundCTMPipeline):
        pass

    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "copies"))
    pipe = MyPipeline.from_pretrained(embedded_folder)
    assert type(pipe) is MyPipeline and not (tmp_path / "copies").exists()
    pipe.save_pretrained(tmp_path / "mine")
    assert type(SoundCTMPipeline.from_pretrained(tmp_path / "mine")) is SoundCTMPipeline


def test_from_pipe_shares_the_components(pipe):
    again = SoundCTMPipeline.from_pipe(pipe)
    assert again.components == pipe.components
    assert again.config.guidance_scale_range == pipe.config.guidance_scale_range
    other = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert SoundCTMPipeline.from_pipe(pipe, scheduler=other).scheduler is other


def test_components_alone_keep_the_range_of_guidance(pipe, tmp_path):
    assert SoundCTMPipeline(**pipe.components).config.guidance_scale_range == [2.0, 5.0]
    pipe.denoiser.save_pretrained(tmp_path)
    denoiser = type(pipe.denoiser).from_pretrained(tmp_path)
    again = SoundCTMPipeline.from_components(
        {**pipe.components, "unet": None, "transformer": None}
        | {name: denoiser for name in ("unet", "transformer") if pipe.components[name] is not None}
    )
    assert again.config.guidance_scale_range == [2.0, 5.0]
    wider = SoundCTMPipeline(**pipe.components, guidance_scale_range=(1, 6))
    assert wider.config.guidance_scale_range == wider.denoiser.config.guidance_scale_range == [1, 6]


# Which component is the student


def test_denoiser_is_the_one_component_that_exists(pipe, family, tmp_path):
    name, other = ("transformer", "unet") if family == "dit" else ("unet", "transformer")
    assert pipe.denoiser is getattr(pipe, name) and getattr(pipe, other) is None
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index[other] == [None, None] and index[name][1] == type(pipe.denoiser).__name__
    assert (tmp_path / name).is_dir() and not (tmp_path / other).exists()


def test_folder_with_a_transformer_stored_as_unet_loads(tiny_pipeline, tmp_path, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    pipe = tiny_pipeline("dit")
    pipe.save_pretrained(tmp_path)
    (tmp_path / "transformer").rename(tmp_path / "unet")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["unet"] = index.pop("transformer")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    old = SoundCTMPipeline.from_pretrained(tmp_path)
    assert "Save the pipeline again" in caplog.text
    assert old.unet is None
    torch.testing.assert_close(latents_of(old), latents_of(pipe))
    old.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "transformer").is_dir() and not (tmp_path / "new" / "unet").exists()


def test_two_students_are_refused(embedded, tiny_pipeline):
    with pytest.raises(ValueError, match="`unet` and a `transformer`"):
        SoundCTMPipeline.from_components({**embedded.components, "transformer": tiny_pipeline("dit").transformer})


def test_components_may_be_left_out(embedded):
    parts = {"unet": embedded.unet, "scheduler": embedded.scheduler}
    pipe = SoundCTMPipeline.from_components(parts, guidance_scale_range=(2.0, 5.0))
    assert pipe.denoiser is embedded.unet and pipe.vae is None and pipe.config.guidance_scale_range == [2.0, 5.0]
