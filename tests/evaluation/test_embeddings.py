import importlib.util
from pathlib import Path

import numpy as np
import pytest

from diffusers_soundctm.evaluation import AisfxEmbedding, load_embedding

RATE = 16000


@pytest.fixture(scope="module")
def aisfx():
    pytest.importorskip("aisfx")
    return load_embedding()


def tone(frequency, seconds=2.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_level_does_not_matter_and_kind_does(aisfx):
    noise = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1
    loud, quiet, other, hiss = aisfx.embed(np.stack([tone(440), tone(440, amplitude=0.05), tone(466), noise]), RATE)
    assert loud.shape == (512,)
    assert cosine(loud, quiet) > 0.999
    assert cosine(loud, hiss) < cosine(loud, other)


def test_a_batch_is_embedded_as_its_clips_are(aisfx):
    waveforms = np.stack([tone(100 * i) for i in range(1, 11)])
    together = aisfx.embed(waveforms, RATE)
    alone = np.concatenate([aisfx.embed(waveforms[i : i + 1], RATE) for i in range(10)])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)


def test_features_are_the_packages_own_network_on_one_block(aisfx):
    """2.3 s are one block of 100 frames, on which the authors' forward can be called as it is."""
    import torch

    waveform = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 99 * 1024)).astype(np.float32))
    spectrum = torch.stft(waveform, 2048, 1024, window=torch.hann_window(2048), return_complex=True).abs() ** 2
    frames = torch.log10(1 + 1e4 * (aisfx.mel_filters @ spectrum)).transpose(1, 2) / 9.457798957824707
    assert frames.shape == (1, 100, 96)
    with torch.inference_mode():
        expected = aisfx.network(frames)
        actual = aisfx._features(waveform)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_silence_is_finite(aisfx):
    assert np.isfinite(aisfx.embed(np.zeros((1, RATE), np.float32), RATE)).all()


def test_bad_waveforms_are_named(aisfx):
    with pytest.raises(ValueError, match=r"pass \(N, samples\)"):
        aisfx.embed(np.zeros(RATE, np.float32), RATE)
    with pytest.raises(ValueError, match=r"at least 0.2 s"):
        aisfx.embed(np.zeros((1, 100), np.float32), RATE)


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "aisfx.inference", None)
    with pytest.raises(ImportError, match="pip install --no-deps aisfx"):
        AisfxEmbedding()


@pytest.mark.parametrize("name", ["clap", "no_such_module:Thing", "collections:no_such_thing"])
def test_unknown_embedding(name):
    with pytest.raises(ValueError, match=r"package\.module:factory"):
        load_embedding(name)


def test_kept_embeddings_are_of_weights_and_configuration(tiny_pipeline):
    # By its path: the examples have a module of the same name.
    spec = importlib.util.spec_from_file_location(
        "benchmarks_common", Path(__file__).parents[2] / "benchmarks/common.py"
    )
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)
    digest = common.digest

    pipe = tiny_pipeline("embedded")
    networks = [pipe.unet, pipe.vae, pipe.vocoder, pipe.text_encoder]
    before = digest(*networks)
    assert digest(*networks) == before
    iterations = pipe.vocoder.config.mel_iterations
    pipe.vocoder.register_to_config(mel_iterations=iterations + 4)
    assert digest(*networks) != before
    pipe.vocoder.register_to_config(mel_iterations=iterations)
    pipe.unet.register_to_config(_name_or_path="elsewhere")
    assert digest(*networks) == before
