"""Variations, prompt morphs, the noise hash and the drift score."""

import math

import pytest
import torch

from diffusers_soundctm.control import PromptMorph, drift, noise_hash, vary

PROMPT, OTHER = "rain on a tin roof", "a dog barks"


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("embedded")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_variations_lie_at_their_angle_on_the_sphere(amount):
    latents = noise(2, 8, 32, 16)
    variations = vary(latents, amount, 3, generator(1))
    assert variations.shape == (6, 8, 32, 16)
    flat, origin = variations.flatten(1), latents.repeat_interleave(3, dim=0).flatten(1)
    torch.testing.assert_close(flat.norm(dim=1), origin.norm(dim=1))
    cosine = torch.nn.functional.cosine_similarity(flat, origin)
    torch.testing.assert_close(cosine, torch.full((6,), math.cos(amount * math.pi / 2)), rtol=0, atol=1e-5)
    if amount:
        assert torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0) < 0.999


def test_dial_is_one_path_and_the_sound_follows_it(pipe):
    latents = noise(1, *pipe.latent_shape(20480))
    amounts = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    path = torch.cat([vary(latents, amount, generator=generator(1)) for amount in amounts])
    sounds = pipe([PROMPT] * len(amounts), latents=path, output_type="latent").audios
    distances = (sounds - sounds[:1]).flatten(1).norm(dim=1)
    assert distances.argsort().tolist() == list(range(len(amounts)))
    assert distances[0] < 0.01 * distances[1]


@pytest.mark.parametrize("family", ["embedded", "tango", "audioldm"])
@pytest.mark.parametrize("nu", [1.0, 1.5])
def test_morph_ends_at_both_prompts(tiny_pipeline, family, nu):
    pipe = tiny_pipeline(family)
    kwargs = {"latents": noise(2, *pipe.latent_shape(20480)), "output_type": "latent", "nu": nu}
    first, second = (pipe([prompt] * 2, **kwargs).audios for prompt in (PROMPT, OTHER))
    morph = pipe([PROMPT] * 2, callback_on_step_end=PromptMorph(OTHER, 0.32, 0.96), **kwargs).audios
    assert (first - second).abs().mean() > 1e-3
    # A latent position lasts 0.04 s.
    torch.testing.assert_close(morph[:, :, :8], first[:, :, :8], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(morph[:, :, 24:], second[:, :, 24:], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(morph[:, :, 15:17].mean(), (first + second)[:, :, 15:17].mean() / 2, rtol=0, atol=0.01)


def test_every_family_varies_and_morphs(family_pipe):
    pipe = family_pipe
    samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
    latents = vary(noise(1, *pipe.latent_shape(samples)), 0.3, 2, generator(1))
    kwargs = {"latents": latents, "output_type": "latent"}
    first, second = (pipe([prompt] * 2, **kwargs).audios for prompt in (PROMPT, OTHER))
    morph = pipe([PROMPT] * 2, callback_on_step_end=PromptMorph(OTHER), **kwargs).audios
    # At both ends, half a position away from the pure prompt.
    weight = 0.5 / latents.shape[2]
    for here, there, position in ((first, second, 0), (second, first, -1)):
        expected = torch.lerp(here, there, weight)[:, :, position]
        torch.testing.assert_close(morph[:, :, position], expected, rtol=1e-3, atol=1e-3)


def test_morph_runs_with_noise_steps_and_several_waveforms(pipe):
    morph = PromptMorph([OTHER, PROMPT])
    kwargs = {"num_inference_steps": 3, "gamma": 0.5, "num_waveforms_per_prompt": 2, "output_type": "latent"}
    result = pipe([PROMPT, OTHER], generator=generator(), callback_on_step_end=morph, **kwargs).audios
    plain = pipe([PROMPT, OTHER], generator=generator(), **kwargs).audios
    assert result.shape == plain.shape and result.isfinite().all() and not torch.allclose(result, plain)


def test_noise_hash_tells_noise_apart_and_nothing_else():
    latents = noise(1, 8, 4, 4)
    assert noise_hash(latents) == noise_hash(latents.double().clone()) and len(noise_hash(latents)) == 16
    changed = latents.clone()
    changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(9.0))
    assert noise_hash(changed) != noise_hash(latents) != noise_hash(latents.reshape(1, 8, 16, 1))


def test_drift_is_0_for_the_same_sound_at_any_level_and_about_1_for_unrelated_ones():
    def bursts(seed, position):
        seconds = torch.arange(32000) / 16000
        return noise(32000, seed=seed) * torch.exp(-20 * (seconds - position).clamp(min=0)) * (seconds > position)

    sound = bursts(0, 0.5)
    assert drift(sound, 0.3 * sound, 16000).item() == pytest.approx(0, abs=1e-4)
    assert drift(sound, bursts(1, 0.5), 16000) < 0.1  # the same event
    assert drift(sound, bursts(0, 1.5), 16000) > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pipe: vary(noise(1, 8, 4, 4), 1.5), "`amount`"),
        (lambda pipe: vary(noise(1, 8, 4, 4), float("nan")), "`amount`"),
        (lambda pipe: vary(noise(1, 8, 4, 4), 0.5, 0), "`num_variations`"),
        (lambda pipe: vary(noise(4, 4), 0.5), "`latents`"),
        (lambda pipe: vary(noise(2, 8, 4, 4), 0.5, 2, [torch.Generator()] * 2), "pass 4"),
        (lambda pipe: PromptMorph(OTHER, 2, 1), "`start_in_s`"),
        (lambda pipe: pipe([PROMPT] * 2, callback_on_step_end=PromptMorph([OTHER] * 3)), "3 strings for 2"),
        (lambda pipe: drift(torch.zeros(16000), torch.ones(16000), 16000), "silent"),
        (lambda pipe: drift(torch.ones(100), torch.ones(100), 16000), "0.1 s"),
    ],
)
def test_bad_input_is_named(pipe, make, message):
    with pytest.raises(ValueError, match=message):
        make(pipe)
