"""Waveforms become latents in one way, whoever asks, and only once."""

import numpy as np
import pytest
import torch

from diffusers_soundctm.audio import LogMel, log_mel, peak_normalize
from diffusers_soundctm.data import Clips
from diffusers_soundctm.data.latents import denormalize_latents, encode, encode_latents, fingerprint, normalize_latents

CAPTIONS = [["rain on a tin roof", "rain"], ["a dog barks"], ["loud rain"]]


@pytest.fixture
def clips():
    waveforms = np.random.default_rng(0).integers(-3000, 3000, (3, 5120)).astype(np.int16)
    return Clips(waveforms, CAPTIONS, None, [])


def test_latents_are_the_scaled_mode_of_the_normalized_clip(tiny_pipeline, clips, tmp_path):
    vae = tiny_pipeline("embedded").vae
    latents = encode_latents(vae, clips, tmp_path, batch_size=2)
    waveform = peak_normalize(torch.from_numpy(clips.waveforms[2:].astype("float32") / 32768))
    with torch.no_grad():
        expected = vae.encode(log_mel(waveform)[:, None]).latent_dist.mode() * vae.config.scaling_factor
    assert latents.shape == (3, 8, 8, 16)
    torch.testing.assert_close(latents[2:].float(), expected, rtol=1e-2, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("family", ["embedded", "dit"])
def test_pipeline_and_training_encode_alike(tiny_pipeline, family):
    pipe = tiny_pipeline(family)
    waveforms = 0.3 * torch.randn(2, 1, 5120, generator=torch.Generator().manual_seed(0))
    front_end = None if pipe.encodes_waveforms else LogMel.for_vocoder(pipe.vocoder.config)
    latents = encode(pipe.vae, waveforms, front_end)
    assert torch.equal(latents, pipe.encode_audio(waveforms, pipe.sampling_rate, 5120))
    assert torch.equal(encode(pipe.vae, waveforms[:, 0], front_end), latents)


@torch.no_grad()
def test_statistics_of_the_autoencoder_are_honored(tiny_pipeline):
    vae = tiny_pipeline("dit").vae
    waveforms = 0.3 * torch.randn(2, 1, 5120, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(vae.config[name])[:, None] for name in ("latents_mean", "latents_std"))
    expected = vae.config.scaling_factor * (vae.encode(waveforms).latent_dist.mode() - mean) / std
    torch.testing.assert_close(encode(vae, waveforms), expected)
    torch.testing.assert_close(denormalize_latents(vae, normalize_latents(vae, expected)), expected)


@torch.no_grad()
def test_statistics_of_a_mel_autoencoder_are_honored_too(tiny_pipeline):
    vae = tiny_pipeline("embedded").vae
    waveforms = 0.3 * torch.randn(1, 5120, generator=torch.Generator().manual_seed(0))
    plain = encode(vae, waveforms)
    vae.register_to_config(latents_mean=[0.5] * 8, latents_std=[2.0] * 8)
    factor = vae.config.scaling_factor
    torch.testing.assert_close(encode(vae, waveforms), (plain - factor * 0.5) / 2)


@torch.no_grad()
def test_posterior_is_sampled_with_the_noise_given(tiny_pipeline):
    vae = tiny_pipeline("embedded").vae
    waveforms = 0.3 * torch.randn(2, 5120, generator=torch.Generator().manual_seed(0))
    mode = encode(vae, waveforms)
    noise = torch.randn(mode.shape, generator=torch.Generator().manual_seed(1))
    posterior = vae.encode(log_mel(peak_normalize(waveforms))[:, None]).latent_dist
    expected = mode + vae.config.scaling_factor * posterior.std * noise
    torch.testing.assert_close(encode(vae, waveforms, noise=noise), expected)
    torch.testing.assert_close(encode(vae, waveforms, noise=0 * noise), mode)


@torch.no_grad()
def test_front_end_is_the_vocoders(tiny_pipeline, clips, tmp_path):
    pipe = tiny_pipeline("embedded")
    other = LogMel.for_vocoder({**pipe.vocoder.config, "n_fft": 2048})
    waveforms = 0.3 * torch.randn(1, 5120, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(encode(pipe.vae, waveforms, other), encode(pipe.vae, waveforms))
    default = LogMel.for_vocoder(pipe.vocoder.config)
    torch.testing.assert_close(encode(pipe.vae, waveforms, default), encode(pipe.vae, waveforms))
    cached = [encode_latents(pipe.vae, clips, tmp_path, front_end=front_end) for front_end in (default, other)]
    assert not torch.equal(*cached)


def test_latents_are_encoded_once_for_the_same_weights_and_clips(tiny_pipeline, clips, tmp_path, monkeypatch):
    vae = tiny_pipeline("embedded").vae
    latents = encode_latents(vae, clips, tmp_path)
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", None)
    assert torch.equal(encode_latents(vae, clips, tmp_path), latents)

    monkeypatch.setattr(vae, "encode", encode)
    next(vae.parameters()).data += 0.1
    assert not torch.equal(encode_latents(vae, clips, tmp_path), latents)


def test_one_sample_and_the_order_of_clips_tell_caches_apart(tmp_path):
    waveforms = np.random.default_rng(0).integers(-3000, 3000, (600, 2, 40)).astype(np.int16)
    np.save(tmp_path / "clips.npy", waveforms)
    assert fingerprint(np.load(tmp_path / "clips.npy", mmap_mode="r")) == fingerprint(waveforms)
    repaired = waveforms.copy()
    repaired[301, 1, 7] += 1
    others = [repaired, waveforms[::-1], waveforms[:300], waveforms.reshape(600, 80)]
    assert len({fingerprint(array) for array in [waveforms, *others]}) == 5


def test_no_half_written_cache(tiny_pipeline, clips, tmp_path, monkeypatch):
    def full_disk(tensors, path, *more):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        encode_latents(tiny_pipeline("embedded").vae, clips, tmp_path)
    assert list(tmp_path.iterdir()) == []
