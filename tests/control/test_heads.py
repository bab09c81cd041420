"""Latent heads learn to read curves off noisy latents, are saved as a folder, and guide without network and decoder."""

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline, audio
from diffusers_soundctm.control import (
    BandEnergyObjective,
    IntensityObjective,
    LatentHeads,
    LossGuidance,
    MelMatchObjective,
    PitchObjective,
    Sound,
    SpectralCentroidObjective,
)
from diffusers_soundctm.control.heads import FOLDER, head_loss, head_targets
from diffusers_soundctm.control.pitch import pitch_bins

CALL = {"num_inference_steps": 2, "audio_length_in_s": 0.5, "output_type": "latent"}


def tiny_heads(**config):
    torch.manual_seed(0)
    return LatentHeads(in_channels=128, hidden_size=16, num_layers=1, **config).eval()


def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def pipe(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_heads_learn_the_curves_of_noisy_latents():
    """Latents that hold the loudness in one channel: the heads find it at low noise, and the mean at high noise."""
    heads = tiny_heads(means=(-30.0, 10.0, 0.1), stds=(10.0, 1.0, 0.1)).train()
    optimizer = torch.optim.Adam(heads.parameters(), 5e-3)
    random = torch.Generator().manual_seed(1)

    def batch(sigma):
        loudness = -30 + 10 * torch.randn(8, 6, generator=random).repeat_interleave(4, dim=1)
        latents = 0.5 * torch.randn(8, 8, 6, 16, generator=random)
        latents[:, 0] = 0.05 * (loudness[:, ::4, None] + 30)
        targets = {"loudness": loudness, "brightness": 0 * loudness + 10, "onsets": 0 * loudness + 0.1}
        targets["pitch"] = torch.full((8, 6, len(pitch_bins())), 1 / len(pitch_bins()))
        return latents + sigma[:, None, None, None] * torch.randn(latents.shape, generator=random), targets

    for _ in range(150):
        sigma = 10 ** (4 * torch.rand(8, generator=random) - 2)
        noisy, targets = batch(sigma)
        losses = head_loss(heads(noisy, sigma), targets, (10.0, 1.0, 0.1))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    errors = {}
    for level in (0.01, 100.0):
        noisy, targets = batch(torch.full((8,), level))
        with torch.no_grad():
            errors[level] = (heads(noisy, torch.tensor(level))["loudness"] - targets["loudness"]).abs().mean().item()
    assert errors[0.01] < 4 < 6 < errors[100.0] < 12


def test_targets_are_the_measures_of_a_sound():
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 16000)[None]
    sound = Sound(None, None, None, 16000, audio.LogMel()).of_waveform(0.1 * tone)
    targets = head_targets(sound, frames_per_position=4)
    assert targets["loudness"].shape == targets["onsets"].shape == (1, 50)
    assert targets["loudness"].mean().item() == pytest.approx(-23, abs=0.5)
    assert targets["pitch"].shape == (1, 12, len(pitch_bins()))
    assert 2 ** pitch_bins()[targets["pitch"][0, 6].argmax()].item() == pytest.approx(440, rel=0.03)
    torch.testing.assert_close(targets["pitch"].sum(dim=-1), torch.ones(1, 12))


def test_a_folder_keeps_the_readings(tmp_path):
    heads = tiny_heads()
    heads.save_pretrained(tmp_path)
    again = LatentHeads.from_pretrained(tmp_path)
    noisy, sigma = torch.randn(2, 8, 5, 16), torch.tensor([0.1, 10.0])
    first, second = heads(noisy, sigma), again(noisy, sigma)
    assert [curve.shape for curve in first.values()] == [(2, 20)] * 3 + [(2, 20, len(pitch_bins()))]
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_guidance_by_heads_runs_neither_network_nor_decoder_again(pipe, monkeypatch):
    calls = []
    for module, name in ((pipe.unet, "forward"), (pipe.vae, "decode")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, o=original, n=name, **k: (calls.append(n), o(*a, **k))[1])
    heads = tiny_heads()
    objective = IntensityObjective({0: -20}) + SpectralCentroidObjective({0: 900}) + PitchObjective({0: 300})
    guidance = LossGuidance(objective, heads=heads)
    plain = pipe("rain", generator=generator(), **CALL).audios
    guided = pipe("rain", generator=generator(), callback_on_step_end=guidance, **CALL).audios
    assert calls == ["forward"] * 4
    sigma = torch.tensor(pipe.scheduler.config.sigma_min)
    before, after = (objective(heads.sound(pipe, latents, sigma, 8000)).item() for latents in (plain, guided))
    assert after < before and len(guidance.losses) == 2


def test_heads_of_the_model_are_used_where_they_suffice(pipe, tmp_path):
    loudness = IntensityObjective({0: -20})
    assert LatentHeads.of_pipeline(pipe) is None
    pipe.save_pretrained(tmp_path)
    heads = tiny_heads()
    heads.save_pretrained(tmp_path / FOLDER)
    equipped = SoundCTMPipeline.from_pretrained(tmp_path)
    equipped.set_progress_bar_config(disable=True)

    def made(objective, pipe, heads):
        guidance = LossGuidance(objective, heads=heads)
        return pipe("rain", generator=generator(), callback_on_step_end=guidance, **CALL).audios

    torch.testing.assert_close(made(loudness, equipped, "auto"), made(loudness, pipe, heads))
    torch.testing.assert_close(made(loudness, equipped, None), made(loudness, pipe, "auto"))
    band = BandEnergyObjective({0: -40}, band=(300, 3000))
    torch.testing.assert_close(made(band, equipped, "auto"), made(band, pipe, None))
    mixed = loudness + MelMatchObjective((torch.randn(8000), 16000))
    with pytest.raises(ValueError, match="`heads` do not read all"):
        LossGuidance(mixed, heads=heads)
    with pytest.raises(ValueError, match="`heads` is 'yes'"):
        LossGuidance(loudness, heads="yes")
