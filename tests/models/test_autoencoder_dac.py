"""Waveform autoencoder: shapes, slicing, tiling and errors. conversion/test_first_stages.py tests its numbers."""

import pytest
import torch

from diffusers_soundctm import AutoencoderDAC


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    vae = AutoencoderDAC(4, (2, 4, 2), 32, latent_channels=3).eval()
    for name, parameter in vae.named_parameters():
        if not name.endswith("alpha"):
            parameter.data = 0.4 * torch.randn(parameter.shape) / parameter[0].numel() ** 0.5
    return vae


@torch.no_grad()
def test_shapes_and_lengths(vae):
    assert vae.hop_length == 16
    distribution = vae.encode(torch.randn(2, 1, 100)).latent_dist
    assert distribution.mean.shape == distribution.std.shape == (2, 3, 7)  # padded to 112 samples
    assert vae.decode(distribution.sample()).sample.shape == (2, 1, 112)
    assert vae(torch.randn(2, 1, 100)).sample.shape == (2, 1, 100)
    with pytest.raises(ValueError, match=r"shape \(2, 100\)"):
        vae.encode(torch.randn(2, 100))


@torch.no_grad()
@pytest.mark.parametrize("frames", [40, 41, 7])
def test_parts_give_the_same_waveform(vae, frames):
    latents = torch.randn(2, 3, frames)
    whole = vae.decode(latents).sample
    vae.enable_tiling()
    vae.enable_slicing()
    vae.tile_length = 8
    parts = vae.decode(latents).sample
    vae.disable_tiling()
    vae.disable_slicing()
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)


def test_context_reaches_as_far_as_the_decoder(vae):
    latents = torch.zeros(1, 3, 101).requires_grad_()
    reached = []
    for sample in (50 * 16, 51 * 16 - 1):  # the first and last sample of a frame
        (gradient,) = torch.autograd.grad(vae.decode(latents).sample[0, 0, sample], latents)
        reached.append(gradient.abs().sum(dim=(0, 1)).nonzero().flatten())
    farthest = max(50 - reached[0].min().item(), reached[1].max().item() - 50)
    assert farthest <= vae.decoder_context <= farthest + 2


def test_ratios_are_checked():
    for arguments in ({"downsampling_ratios": (2, 3)}, {"downsampling_ratios": (2, 4), "upsampling_ratios": (4, 4)}):
        with pytest.raises(ValueError, match="even numbers with the same product"):
            AutoencoderDAC(4, decoder_hidden_size=8, latent_channels=2, **arguments)
