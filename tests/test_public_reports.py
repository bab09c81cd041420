"""Symptoms that users of diffusion and audio libraries report in public, tried here: one test per symptom."""

import csv
import logging

import numpy as np
import pytest
import soundfile
import torch
from diffusers import AutoencoderKL

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import normalize_loudness, read_audio, write_audio
from diffusers_soundctm.data import load_clips
from diffusers_soundctm.training import checkpoints

RATE = 16000
SHORT = {"audio_length_in_s": 0.3}


def seeded(*seeds: int):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def sound(seconds: float = 0.3, channels: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(1, channels, round(seconds * RATE), generator=seeded(0))


def latents(pipe, prompt, **options) -> torch.Tensor:
    return pipe(prompt, output_type="latent", **SHORT, **options).audios


# Generation


def initial_audio_has_no_effect(pipe, caplog):
    """The noise is scaled to the schedule's start, and the encoded audio drowns in it."""
    (encoded,) = pipe.encode_audio(sound(), RATE, round(0.3 * RATE))

    def start(strength: float) -> torch.Tensor:
        seen = []
        pipe("rain", strength=strength, generator=seeded(1), output_type="latent",
             initial_audio_waveforms=sound(), initial_audio_sampling_rate=RATE,
             callback_on_step_end=lambda *given: seen.append(given[-1]["previous_latents"]),
             callback_on_step_end_tensor_inputs=["previous_latents"])  # fmt: skip
        return seen[0][0]

    near, far = ((start(strength) - encoded).square().mean() for strength in (0.02, 1.0))
    assert near < 0.1 * encoded.square().mean() < far


def float32_audio_into_a_half_precision_model(pipe, caplog):
    """The autoencoder's weights are half, and the audio that a user passes is float32."""
    pipe.to(torch.bfloat16)
    audio = pipe("rain", initial_audio_waveforms=sound(), initial_audio_sampling_rate=RATE).audios
    assert np.isfinite(audio).all()


def waveforms_of_a_half_precision_model_cannot_be_written(pipe, caplog):
    assert pipe.to(torch.bfloat16)("rain", **SHORT).audios.dtype == np.float32


def stereo_audio_into_a_mono_model(pipe, caplog):
    call = {"initial_audio_sampling_rate": RATE, "output_type": "latent"}
    mono, stereo = (pipe("rain", initial_audio_waveforms=x, generator=seeded(1), **call).audios
                    for x in (sound(), sound().expand(1, 2, -1)))  # fmt: skip
    torch.testing.assert_close(mono, stereo, rtol=1e-4, atol=1e-4)


def a_negative_prompt_raises_attribute_error(pipe, caplog):
    assert not torch.equal(
        latents(pipe, "rain", nu=2.0, generator=seeded(1)),
        latents(pipe, "rain", nu=2.0, generator=seeded(1), negative_prompt="wind"),
    )


def a_negative_prompt_acts_on_the_first_of_a_batch_only(pipe, caplog):
    options = {"nu": 2.0, "negative_prompt": "wind"}
    both = latents(pipe, ["rain", "a dog barks"], generator=seeded(1, 2), **options)
    for row, (prompt, seed) in enumerate((("rain", 1), ("a dog barks", 2))):
        alone = latents(pipe, prompt, generator=seeded(seed), **options)
        torch.testing.assert_close(both[row], alone[0], rtol=1e-3, atol=1e-3)


def the_third_of_a_batch_cannot_be_made_alone(pipe, caplog):
    batch = latents(pipe, "rain", num_waveforms_per_prompt=4, generator=seeded(1, 2, 3, 4))
    torch.testing.assert_close(batch[2:3], latents(pipe, "rain", generator=seeded(3)), rtol=1e-3, atol=1e-3)


def waveforms_of_two_prompts_change_places(pipe, caplog):
    batch = latents(pipe, ["rain", "a dog barks"], num_waveforms_per_prompt=2, generator=seeded(1, 2, 3, 4))
    torch.testing.assert_close(batch[2:3], latents(pipe, "a dog barks", generator=seeded(3)), rtol=1e-3, atol=1e-3)


def the_same_seed_gives_another_sound_on_the_second_call(pipe, caplog):
    assert torch.equal(*(latents(pipe, "rain", num_inference_steps=2, gamma=0.5, generator=seeded(1)) for _ in "12"))


def given_embeddings_are_encoded_again(pipe, caplog):
    embeds, mask, *_ = pipe.encode_prompt("rain", do_nu_sampling=False)
    expected = latents(pipe, "rain", generator=seeded(1))
    pipe.text_encoder = pipe.tokenizer = None
    found = latents(pipe, None, prompt_embeds=embeds, attention_mask=mask, generator=seeded(1))
    torch.testing.assert_close(found, expected)


def a_long_sound_is_silent(pipe, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    audio = pipe("rain", audio_length_in_s=3.0, generator=seeded(1)).audios
    assert "trained on" in caplog.text and all(np.abs(part).max() > 1e-4 for part in np.split(audio[0, 0], 10))


def nan_latents_become_silence_without_a_word(pipe, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    pipe("rain", callback_on_step_end=lambda *given: {"latents": given[-1]["latents"] * torch.nan}, **SHORT)
    assert "NaN or infinite samples" in caplog.text


def a_callback_cannot_stop_a_call(pipe, caplog):
    steps = []

    def stop(call, step, timestep, tensors):
        steps.append(step)
        call._interrupt = True
        return tensors

    pipe("rain", num_inference_steps=5, callback_on_step_end=stop, **SHORT)
    assert steps == [0]


def a_float_length_breaks_the_shape(pipe, caplog):
    """Durations that are no whole number of samples or latent positions."""
    for seconds in (0.1, 0.123456, 1 / 3):
        assert pipe("rain", audio_length_in_s=seconds).audios.shape[-1] == round(seconds * RATE)


def a_moved_folder_is_not_found(pipe, caplog):
    """Components of another pipeline are shared, and both go on."""
    other = SoundCTMPipeline(**pipe.components)
    expected = latents(pipe, "rain", num_inference_steps=2, generator=seeded(1))
    latents(other, "a dog barks", num_inference_steps=4)
    assert torch.equal(latents(pipe, "rain", num_inference_steps=2, generator=seeded(1)), expected)


GENERATION = [
    initial_audio_has_no_effect, float32_audio_into_a_half_precision_model,
    waveforms_of_a_half_precision_model_cannot_be_written, stereo_audio_into_a_mono_model,
    a_negative_prompt_raises_attribute_error, a_negative_prompt_acts_on_the_first_of_a_batch_only,
    the_third_of_a_batch_cannot_be_made_alone, waveforms_of_two_prompts_change_places,
    the_same_seed_gives_another_sound_on_the_second_call, given_embeddings_are_encoded_again, a_long_sound_is_silent,
    nan_latents_become_silence_without_a_word, a_callback_cannot_stop_a_call, a_float_length_breaks_the_shape,
    a_moved_folder_is_not_found,
]  # fmt: skip


@pytest.mark.parametrize("symptom", GENERATION, ids=lambda symptom: symptom.__name__)
@pytest.mark.parametrize("family", ["embedded", "tango"])
def test_generation(family, symptom, tiny_pipeline, caplog):
    symptom(tiny_pipeline(family), caplog)


# Files


def loud_samples_wrap_around(folder):
    write_audio(folder / "a.wav", torch.tensor([0.5, -2.0, 1.0]), RATE)
    assert soundfile.read(folder / "a.wav", dtype="int16")[0].tolist() == pytest.approx([8192, -32768, 16384], abs=1)


def nan_samples_are_written_as_silence(folder):
    with pytest.raises(ValueError, match="nothing was written"):
        write_audio(folder / "a.wav", torch.tensor([0.5, torch.nan]), RATE)
    assert not list(folder.iterdir())


def a_float_file_is_read_as_silence(folder):
    soundfile.write(folder / "a.wav", np.full(100, 0.25), RATE, subtype="FLOAT")
    assert read_audio(folder / "a.wav")[0].unique().tolist() == [0.25]


def silence_normalized_to_a_loudness_is_nan(folder):
    with pytest.raises(ValueError, match="silent"):
        normalize_loudness(torch.zeros(1, RATE), RATE, -23.0)


def a_corrupt_clip_ends_the_epoch(folder):
    captions = write_clips(folder, 120)
    (folder / "3.wav").write_bytes(b"no sound")
    clips = load_clips(str(folder), num_samples=800)
    assert len(clips) == 119 and clips.captions[3] == [captions[4]] and clips.skipped[0].endswith("3.wav")


def captions_are_shifted_by_one(folder):
    captions = write_clips(folder, 5)
    assert load_clips(str(folder), num_samples=800).captions == [[caption] for caption in captions]
    text = (folder / "metadata.csv").read_text().replace('"a dog, then 2\nand rain"', "a dog, then 2")
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.csv, line \d+: 3 fields"):
        load_clips(str(folder), num_samples=800)


def a_file_of_another_name_is_missing(folder):
    write_clips(folder, 3)
    (folder / "1.wav").rename(folder / "1.WAV.bak")
    with pytest.raises(ValueError, match=r"1 of 3 clips .* cannot be used.*1\.wav"):
        load_clips(str(folder), num_samples=800)


def write_clips(folder, count: int) -> list[str]:
    """Clips with captions that hold commas, quotes and line breaks."""
    captions = [f"a dog, then {number}\nand rain" if number == 2 else f'a "{number}", loud' for number in range(count)]
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file_name", "caption"), *((f"{n}.wav", caption) for n, caption in enumerate(captions))])
    for number in range(count):
        soundfile.write(folder / f"{number}.wav", 0.1 * np.random.default_rng(number).standard_normal(800), RATE)
    return captions


FILES = [
    loud_samples_wrap_around, nan_samples_are_written_as_silence, a_float_file_is_read_as_silence,
    silence_normalized_to_a_loudness_is_nan, a_corrupt_clip_ends_the_epoch, captions_are_shifted_by_one,
    a_file_of_another_name_is_missing,
]  # fmt: skip


@pytest.mark.parametrize("symptom", FILES, ids=lambda symptom: symptom.__name__)
def test_files(symptom, tmp_path):
    symptom(tmp_path)


# Training


def run_of(steps: int) -> dict:
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    return {"model": model, "optimizer": optimizer,
            "lr": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)}  # fmt: skip


def go_on(state: dict, first: int, last: int) -> list[float]:
    losses = []
    for step in range(first, last):
        x = torch.randn(4, 2, generator=seeded(step))
        loss = (state["model"](x) - x.sum(dim=1, keepdim=True)).square().mean()
        state["optimizer"].zero_grad()
        loss.backward()
        state["optimizer"].step()
        state["lr"].step()
        losses.append(loss.item())
    return losses


def test_the_loss_jumps_or_the_learning_rate_begins_again_after_a_restart(tmp_path):
    whole, first, second = (run_of(8) for _ in range(3))
    expected = go_on(whole, 0, 8)
    go_on(first, 0, 4)
    checkpoints.save_checkpoint(tmp_path, 4, first)
    assert checkpoints.resume("latest", tmp_path, second) == 4
    assert go_on(second, 4, 8) == expected[4:]
    assert second["lr"].get_last_lr() == whole["lr"].get_last_lr()


def test_a_checkpoint_of_a_full_disk_replaces_the_good_one(tmp_path, monkeypatch):
    state = run_of(1)
    checkpoints.save_checkpoint(tmp_path, 1, state)
    monkeypatch.setattr(torch, "save", lambda stored, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoints.save_checkpoint(tmp_path, 1, state)
    assert checkpoints.load_checkpoint(tmp_path / "checkpoint-1", run_of(1)) == 1


def test_a_save_that_is_interrupted_leaves_a_model_that_loads_with_random_weights(tmp_path):
    model = AutoencoderKL(block_out_channels=[8], norm_num_groups=4)
    checkpoints.save_model(model, tmp_path / "vae")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named"):
        AutoencoderKL.from_pretrained(tmp_path / "vae")
    checkpoints.save_model(model, tmp_path / "vae")
    same = AutoencoderKL.from_pretrained(tmp_path / "vae").state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in model.state_dict().items())
