"""The differentiable front end equals CLAP's own, and its embedding guides the sampler."""

import numpy as np
import pytest
import torch
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

from diffusers_soundctm import audio
from diffusers_soundctm.control import ClapEmbedding, EmbeddingSimilarityObjective, LossGuidance
from diffusers_soundctm.control.clap import resample_spectrum


def clap(fused, tokenizer=None):
    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    sound = ClapAudioConfig(
        spec_size=64,
        num_mel_bins=16,
        window_size=4,
        patch_size=2,
        patch_stride=[2, 2],
        patch_embeds_hidden_size=16,
        hidden_size=32,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        num_hidden_layers=2,
        enable_fusion=fused,
        fusion_type="aff_2d" if fused else None,
        enable_patch_fusion=fused,
        projection_dim=12,
    )
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=sound.to_dict(), projection_dim=12))
    truncation = "fusion" if fused else "rand_trunc"
    extractor = ClapFeatureExtractor(feature_size=16, max_length_s=1, truncation=truncation)
    return ClapEmbedding(model, extractor, tokenizer)


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("samples", [48000, 20000])
def test_features_are_the_extractors(fused, samples):
    ear, waveform = clap(fused), noise(2, samples)
    expected = ear.extractor([np.asarray(row) for row in waveform], sampling_rate=48000, return_tensors="pt")
    torch.testing.assert_close(ear.features(waveform, 48000), expected.input_features.float(), rtol=1e-3, atol=1e-2)


def test_spectral_resampling_is_soxrs():
    waveform = noise(2, 16000) * torch.hann_window(16000)
    spectral, soxr = resample_spectrum(waveform, 16000, 48000), audio.resample(waveform, 16000, 48000)
    # soxr removes the last few percent below the Nyquist frequency.
    assert (spectral - soxr).square().mean() < 0.06 * soxr.square().mean()


@pytest.mark.parametrize("fused", [False, True])
def test_embedding_has_a_gradient_and_unit_length(fused):
    waveform = noise(2, 16000).requires_grad_()
    embedding = clap(fused)(waveform, 16000)
    assert embedding.shape == (2, 12)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    embedding[:, 0].sum().backward()
    assert waveform.grad.abs().max() > 0


def test_text_is_a_point_of_the_same_space_and_guides(tiny_pipeline):
    ear = clap(False, tiny_pipeline("audioldm").tokenizer)
    target = ear.text(["rain", "wind"])
    assert target.shape == (2, 12)
    pipe = tiny_pipeline("embedded")
    guidance = LossGuidance(EmbeddingSimilarityObjective(ear, target))
    latents = pipe(["rain", "wind"], callback_on_step_end=guidance, output_type="latent").audios
    assert latents.isfinite().all() and guidance.num_skipped == 0 and guidance.losses[0].shape == (2,)
