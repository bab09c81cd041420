"""Latents and prompt embeddings that are computed once."""

import numpy as np
import pytest
import torch

from diffusers_soundctm.audio import log_mel, peak_normalize
from diffusers_soundctm.data import Clips
from diffusers_soundctm.data.latents import encode_latents, fingerprint
from diffusers_soundctm.data.prompts import embed_captions

CAPTIONS = [["rain on a tin roof", "rain"], ["a dog barks"], ["loud rain"]]


@pytest.fixture
def clips():
    waveforms = np.random.default_rng(0).integers(-3000, 3000, (3, 5120)).astype(np.int16)
    return Clips(waveforms, CAPTIONS, None, [])


def test_latents_are_the_scaled_mode_of_the_normalised_clip(tiny_pipeline, clips, tmp_path):
    vae = tiny_pipeline("embedded").vae
    latents = encode_latents(vae, clips, tmp_path, batch_size=2, dtype=torch.float32)
    waveform = peak_normalize(torch.from_numpy(clips.waveforms[2:].astype("float32") / 32768))
    with torch.no_grad():
        expected = vae.encode(log_mel(waveform)[:, None]).latent_dist.mode() * vae.config.scaling_factor
    assert latents.shape == (3, 8, 8, 16)
    torch.testing.assert_close(latents[2:].float(), expected, rtol=1e-2, atol=1e-2)


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
    def full_disk(tensors, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("diffusers_soundctm.data.latents.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        encode_latents(tiny_pipeline("embedded").vae, clips, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["embedded", "audioldm"])
def test_prompt_table_gives_what_the_text_encoder_gives(tiny_pipeline, tmp_path, family):
    pipe = tiny_pipeline(family)
    table = embed_captions(pipe.conditioning, CAPTIONS, tmp_path, batch_size=2)
    indices = [0, table.wordings[0][0], table.wordings[1][0]]
    embeds, mask = table.embeds(torch.tensor(indices))
    expected, expected_mask = pipe.conditioning.encode(["", "rain on a tin roof", "a dog barks"], torch.device("cpu"))
    if mask is None:
        assert expected_mask is None
    else:
        assert torch.equal(mask, expected_mask)
        expected = expected * mask[..., None]
    torch.testing.assert_close(embeds, expected, rtol=2e-3, atol=2e-3)


def test_wordings_are_drawn_evenly_and_dropped_at_the_rate(tiny_pipeline, tmp_path):
    table = embed_captions(tiny_pipeline("embedded").conditioning, CAPTIONS, tmp_path)
    drawn = table.draw(torch.zeros(20_000, dtype=torch.long), 0.1, torch.Generator().manual_seed(0))
    shares = {index: (drawn == index).double().mean().item() for index in (0, *table.wordings[0])}
    assert list(shares.values()) == pytest.approx([0.1, 0.45, 0.45], abs=0.015)
