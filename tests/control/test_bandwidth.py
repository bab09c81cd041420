"""The known band is kept, the missing band is generated, and audio above the cutoff is ignored."""

import math

import pytest
import torch

from diffusers_soundctm.control import LossGuidance, extend_bandwidth
from diffusers_soundctm.control.bandwidth import split_bands

RATE, SAMPLES, PROMPT = 16000, 16000, "rain on a tin roof"


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("embedded")


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tone(frequency):
    return 0.1 * torch.hann_window(SAMPLES) * torch.sin(2 * math.pi * frequency * torch.arange(SAMPLES) / RATE)[None]


def level(waveforms, low, high):
    """Level in dB between two frequencies."""
    power = torch.fft.rfft(waveforms * torch.hann_window(waveforms.shape[-1])).abs().square()
    hertz = torch.linspace(0, RATE / 2, power.shape[-1])
    return 10 * power[..., (hertz > low) & (hertz < high)].mean(dim=-1).log10()


def extend(pipe, waveforms, **kwargs):
    kwargs = {"cutoff": 2000, "num_inference_steps": 2, "generator": torch.Generator().manual_seed(0)} | kwargs
    return extend_bandwidth(pipe, PROMPT, waveforms, RATE, **kwargs)


def test_bands_keep_the_level_of_unrelated_sounds_and_their_place_in_time():
    first, second = noise(4, SAMPLES), noise(4, SAMPLES, seed=1)
    mixed = split_bands(first, RATE, 2000)[0] + split_bands(second, RATE, 2000)[1]
    for low, high in ((200, 1500), (1600, 2000), (2100, 7900)):
        assert (level(mixed, low, high).mean() - level(first, low, high).mean()).abs() < 0.5
    click = torch.zeros(1, SAMPLES)
    click[:, 5000] = 1
    assert [band.abs().argmax().item() for band in split_bands(click, RATE, 2000)] == [5000, 5000]


def test_known_band_stays_and_the_missing_one_comes(pipe):
    sound = split_bands(noise(1, SAMPLES), RATE, 2000)[0]
    result = extend(pipe, sound)
    assert result.shape == (1, 1, SAMPLES)
    assert (level(result[:, 0], 100, 1500) - level(sound, 100, 1500)).abs() < 0.1
    assert level(result[:, 0], 2500, 7500) > level(sound, 2500, 7500) + 20


def test_waveform_models_extend_at_the_sounds_own_level(tiny_pipeline):
    pipe = tiny_pipeline("dit")
    sound = split_bands(noise(2, SAMPLES), RATE, 2000)[0][None]  # stereo, for a model of one channel
    result = extend_bandwidth(pipe, PROMPT, sound, RATE, 2000, 2, generator=torch.Generator().manual_seed(0))
    assert result.shape == (1, 1, SAMPLES)
    assert (level(result[:, 0], 100, 1500) - level(sound.mean(dim=1), 100, 1500)).abs() < 0.1
    assert level(result[:, 0], 2500, 7500) > level(sound.mean(dim=1), 2500, 7500) + 20


def test_what_is_above_the_cutoff_does_not_matter(pipe):
    sound = split_bands(noise(1, SAMPLES), RATE, 2000)[0]
    torch.testing.assert_close(extend(pipe, sound), extend(pipe, sound + tone(6000)), rtol=0, atol=1e-3)


def test_level_is_the_sounds_and_every_sample_has_its_own(pipe):
    sound = noise(2, SAMPLES) * torch.tensor([[1.0], [0.1]])
    kwargs = {"num_inference_steps": 1, "num_waveforms_per_prompt": 2}
    result = extend_bandwidth(pipe, [PROMPT] * 2, sound, RATE, 2000, **kwargs)
    assert result.shape == (4, 1, SAMPLES)
    low = split_bands(sound, RATE, 1500)[0].repeat_interleave(2, dim=0)
    difference = split_bands(result[:, 0], RATE, 1500)[0] - low
    assert difference[:, 500:-500].abs().max() < 1e-3


def test_further_guidance_acts(pipe):
    sound = noise(1, SAMPLES)
    quiet = LossGuidance(lambda sound: (sound.mel.mean(dim=(1, 2)) + 11).square())
    assert not torch.allclose(extend(pipe, sound), extend(pipe, sound, callback_on_step_end=quiet), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoff": 0}, "`cutoff`"),
        ({"cutoff": 8000}, "`cutoff`"),
        ({"cutoff": float("nan")}, "`cutoff`"),
        ({"waveforms": tone(5000)}, "silent below"),
        ({"waveforms": torch.zeros(1, 0)}, "`waveforms`"),
        ({"scale": -1}, "`scale`"),
    ],
)
def test_bad_input_is_named(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        extend(pipe, **({"waveforms": noise(1, SAMPLES)} | arguments))
