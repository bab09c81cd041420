"""Noise, noise levels, Fourier transform and vocoder are those of torch and of the pipeline in PyTorch."""

import numpy as np
import pytest
import torch

from diffusers_soundctm import CTMScheduler, ISTFTVocoder
from diffusers_soundctm.onnx import NoiseGenerator, sampling
from diffusers_soundctm.onnx.real_vocoder import RealSTFT, RealVocoder, resonate
from diffusers_soundctm.onnx.weights import per_channel_int8
from diffusers_soundctm.preconditioning import jump


@pytest.mark.parametrize("shape", [(1,), (7,), (15,), (16,), (17,), (31, 3), (2, 8, 24, 16)], ids=str)
@pytest.mark.parametrize("seed", [0, 123, 2**32 + 5, 2**63 - 1])
def test_noise_is_that_of_torch(shape, seed):
    ours, theirs = NoiseGenerator(seed), torch.Generator().manual_seed(seed)
    for size in (shape, shape, (3,), shape):  # single values are drawn in pairs, of which one is kept
        expected = torch.randn(size, generator=theirs).numpy()
        found = ours.randn(size)
        assert found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_generator_starts_again_and_refuses_other_seeds():
    generator = NoiseGenerator(3)
    first = generator.randn((20,))
    assert not np.array_equal(generator.randn((20,)), first)
    assert np.array_equal(generator.manual_seed(3).randn((20,)), first)
    for seed in (-1, 2**64, 1.5, True):
        with pytest.raises(ValueError, match=r"`seed` is .*choose an integer"):
            NoiseGenerator(seed)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("prediction_type", ["edm", "epsilon"])
def test_levels_and_jumps_are_the_schedulers(gamma, prediction_type):
    scheduler = CTMScheduler(prediction_type=prediction_type)
    config = scheduler.config
    z, g = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for n in (1, 2, 5, 16):
        expected = scheduler.make_schedule(n, gamma=gamma)
        found = sampling.levels(
            sampling.karras_sigmas(n, config.sigma_min, config.sigma_max, config.rho), config.sigma_min, gamma
        )
        for name in ("sigmas", "target_sigmas", "noise_sigmas"):
            values = getattr(found, name)
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, getattr(expected, name).numpy(), rtol=2e-7, atol=1e-6, err_msg=name)
        levels = found.sigmas[0], found.target_sigmas[0]
        landed = sampling.jump(g.numpy(), z.numpy(), *levels)
        assert landed.dtype == np.float32
        np.testing.assert_allclose(landed, jump(g, z, *map(float, levels)).numpy(), atol=1e-6)


@pytest.mark.parametrize("points, hop_length", [(1024, 160), (512, 128), (600, 150), (2048, 480)])
def test_the_fourier_transform_is_torchs(points, hop_length):
    window, num_frames = torch.hann_window(points), 24
    stft, waveform = RealSTFT(window, hop_length), torch.randn(2, num_frames * hop_length)
    complex_spectrum = torch.stft(waveform, points, hop_length, window=window, return_complex=True)[..., :num_frames]
    expected = complex_spectrum.transpose(1, 2).flatten(0, 1)[:, stft.bins]
    real, imaginary = stft.transform(waveform, num_frames)
    torch.testing.assert_close(real, expected.real, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(imaginary, expected.imag * stft.signs, atol=1e-4, rtol=1e-5)
    assert len(set(stft.bins[~stft.repeated].tolist())) == points // 2 + 1 == (~stft.repeated).sum()
    inverse = torch.istft(complex_spectrum, points, hop_length, window=window, length=num_frames * hop_length)
    found = stft.invert((real, imaginary), num_frames, stft.envelope(num_frames))
    torch.testing.assert_close(found, inverse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block, blocks", [(1, 9), (4, 7), (16, 2), (16, 1)])
def test_the_scan_is_the_recursion(block, blocks):
    shape = (2, block * blocks, 5)
    turn, drive = torch.polar(torch.rand(shape), torch.randn(shape)), torch.randn(shape, dtype=torch.complex64)
    states = [drive[:, 0]]
    for t in range(1, shape[1]):
        states.append(drive[:, t] + turn[:, t] * states[-1])
    parts = resonate((turn.real, turn.imag), (drive.real, drive.imag), block, doublings=4)
    torch.testing.assert_close(torch.complex(*parts), torch.stack(states, 1))


@pytest.mark.parametrize("multiple, num_frames", [(4, 4), (8, 24), (32, 96)])
@torch.no_grad()
def test_the_vocoder_in_real_arithmetic_is_the_vocoder(multiple, num_frames):
    torch.manual_seed(0)
    vocoder = ISTFTVocoder(hidden_size=16, num_layers=1, intermediate_size=32).eval()
    torch.nn.init.normal_(vocoder.head.weight, std=0.3)
    mel = torch.randn(2, num_frames, 64) - 5
    found, expected = RealVocoder(vocoder, 3000, multiple)(mel), vocoder(mel)
    assert found.shape == expected.shape and expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_int8_keeps_each_channel_within_half_a_step(axis):
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 5, 4)) * 10.0 ** rng.integers(-3, 3, (6, 5, 4))).astype(np.float32)
    weight[0] = 0
    stored, scale = per_channel_int8(weight, axis)
    assert stored.dtype == np.int8 and scale.size == weight.shape[axis]
    assert (np.abs(stored * scale - weight) <= scale / 2 * 1.001).all()
