"""Wrong arguments of a call are named before any network runs."""

import logging

import numpy as np
import pytest
import torch

from pipeline_calls import AUDIO, counting_calls, latents_of

NOISE = torch.zeros(1, 8, 32, 16)


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
    assert "60 tokens of the prompt 'rain on a tin roof" in record.getMessage()
    assert record.getMessage().endswith(f"it ignores {long[-len('ain on a tin roof ') :]!r}.")
    torch.testing.assert_close(embeds[1:2], pipe.encode_prompt(long + "wind")[0])
