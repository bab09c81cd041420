"""Segments and losses of the autoencoder and the vocoder."""

import numpy as np
import pytest
import torch

from diffusers_soundctm.audio import LogMel, log_mel, peak_normalize
from diffusers_soundctm.training.first_stage_losses import (
    MelLoss,
    MultiResolutionSTFTLoss,
    SpectrogramDiscriminator,
    cut_segments,
    discriminator_loss,
    draw_starts,
    feature_matching_loss,
    frequency_loss,
    generator_loss,
    kl_divergence,
)


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).integers(-9000, 9000, (5, 16000), dtype=np.int16)


def test_a_segments_mel_is_a_cut_of_the_clips_mel(clips):
    chosen, starts = torch.tensor([3, 0, 4]), torch.tensor([0, 17, 80])
    padded = cut_segments(clips, chosen, starts, 20, 1024, 160)
    assert padded.shape == (3, 19 * 160 + 1024)
    whole = peak_normalize(torch.from_numpy(clips[chosen].astype(np.float32)))
    for row, start in enumerate(starts.tolist()):
        expected = log_mel(whole[row])[start : start + 20]
        torch.testing.assert_close(LogMel()(padded[row], center=False), expected, atol=1e-4, rtol=1e-4)
        sound = whole[row, start * 160 : (start + 20) * 160]
        torch.testing.assert_close(padded[row, 512 : 512 + len(sound)], sound)


def test_silent_clips_stay_silent(clips):
    assert cut_segments(np.zeros_like(clips), torch.arange(5), torch.zeros(5).long(), 10, 1024, 160).abs().max() == 0


def test_loud_segments_are_preferred(clips):
    quiet = clips.copy()
    quiet[:, 8000:] = 0
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(5).repeat(40)
    plain = draw_starts(quiet, which, 10, 160, generator)
    loud = draw_starts(quiet, which, 10, 160, generator, candidates=4)
    assert plain.min() >= 0 and plain.max() <= 90
    assert (loud < 50).float().mean() > 0.9 > (plain < 50).float().mean()


def test_kl_is_that_of_the_distributions():
    mean, logvar = torch.randn(3, 4), torch.randn(3, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(mean, logvar), expected)


def test_spectral_losses_are_zero_at_the_sound_and_stay_sane_in_silence():
    sound = torch.randn(2, 8000) * 0.1
    for loss in (MelLoss(LogMel()), MultiResolutionSTFTLoss()):
        assert loss(sound, sound).item() == pytest.approx(0, abs=1e-6)
        assert loss(sound, -sound).item() == pytest.approx(0, abs=1e-5)  # blind to sign, as the ear is
        assert loss(sound * 0.5, sound) > loss(sound * 0.9, sound) > 0
        generated = (sound * 1e-3).requires_grad_()
        against_silence = loss(generated, torch.zeros_like(sound))
        against_silence.backward()
        assert against_silence < 5 and generated.grad.isfinite().all()


def test_frequency_loss_finds_the_frequency_of_a_tone():
    frequency = 443.0
    padded = 0.3 * torch.sin(2 * torch.pi * frequency / 16000 * torch.arange(31 * 160 + 1024))[None]
    centers = torch.arange(513) * 16000 / 1024
    true = 2 * torch.pi * (frequency - centers) * 160 / 16000
    wrong = 2 * torch.pi * (frequency + 30 - centers) * 160 / 16000
    window = torch.hann_window(1024)
    losses = [frequency_loss(o.expand(1, 32, 513), padded, window, 160).item() for o in (true, wrong)]
    assert losses[0] < 0.05 < losses[1]


def test_adversarial_losses_have_their_optimum_where_the_theory_says():
    assert discriminator_loss([torch.ones(3)], [-torch.ones(3)]) == 0
    assert discriminator_loss([-torch.ones(3)], [torch.ones(3)]) == 4
    assert generator_loss([torch.ones(3)]) == 0 < generator_loss([torch.zeros(3)])
    features = [torch.randn(2, 3), torch.randn(4)]
    assert feature_matching_loss(features, features) == 0
    assert feature_matching_loss(features, [2 * f for f in features]).item() == pytest.approx(1)


def test_the_discriminator_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    discriminator = SpectrogramDiscriminator(n_ffts=(256, 512), channels=4)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    time = torch.arange(4000) / 16000
    for _ in range(40):
        tones = 0.3 * torch.sin(2 * torch.pi * (200 + 800 * torch.rand(4, 1)) * time)
        loss = discriminator_loss(discriminator(tones)[0], discriminator(0.1 * torch.randn(4, 4000))[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.7
    silent = torch.zeros(1, 4000, requires_grad=True)
    generator_loss(discriminator(silent)[0]).backward()
    assert silent.grad.isfinite().all()
