"""Metrics of the papers: what they compute with stand-ins for the libraries, whose weights are not at hand here."""

import sys
import types

import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, ClapTextConfig

from diffusers_soundctm.evaluation import compare, frechet_distance
from diffusers_soundctm.evaluation import published_metrics as published
from diffusers_soundctm.evaluation.published_metrics import (
    Clap,
    check_known_pairs,
    check_metrics,
    compute_metrics,
    read_captions,
)

RATE = 16000


def write(folder, count, level, seed):
    folder.mkdir()
    generator = np.random.default_rng(seed)
    for i in range(count):
        soundfile.write(folder / f"sound{i}.wav", level * generator.standard_normal(RATE), RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def folders(tmp_path):
    return write(tmp_path / "generated", 6, 0.1, 0), write(tmp_path / "reference", 6, 0.2, 1)


def stand_in(monkeypatch, name, **content):
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def bands(waveform, count=4):
    """Frames of 0.1 s → log power in `count` bands."""
    frames = waveform[: len(waveform) // 1600 * 1600].reshape(-1, 1600)
    power = np.abs(np.fft.rfft(frames)) ** 2
    return np.log(np.stack([band.mean(1) for band in np.array_split(power, count, axis=1)], 1) + 1e-6)


def test_vggish_distance_is_over_all_windows(folders, monkeypatch):
    asked = {}

    class FrechetAudioDistance:
        def __init__(self, **settings):
            asked.update(settings)

        def get_embeddings(self, waveforms, rate):
            assert rate == RATE and len(waveforms) == 1
            return bands(waveforms[0])

    stand_in(monkeypatch, "frechet_audio_distance", FrechetAudioDistance=FrechetAudioDistance)
    distance = compute_metrics(["fad-vggish"], *folders)["fad-vggish"]
    embeddings = [
        np.concatenate([bands(soundfile.read(path, dtype="float32")[0]) for path in sorted(folder.glob("*.wav"))])
        for folder in folders
    ]
    assert embeddings[0].shape == (60, 4)  # ten windows of six sounds
    assert distance == pytest.approx(frechet_distance(*embeddings), rel=1e-5) and distance > 1
    assert asked == {"model_name": "vggish", "sample_rate": 16000}


def test_openl3_distance_does_not_depend_on_the_level(folders, monkeypatch):
    def get_audio_embedding(waveform, rate, model, hop_size, verbose):
        assert (rate, model, hop_size) == (44100, "env 512 mel256", 0.5) and np.abs(waveform).max() < 0.9
        return bands(waveform), None

    def load_audio_embedding_model(input_repr, content_type, embedding_size):
        return f"{content_type} {embedding_size} {input_repr}"

    models = types.SimpleNamespace(load_audio_embedding_model=load_audio_embedding_model)
    stand_in(monkeypatch, "openl3", get_audio_embedding=get_audio_embedding, models=models)
    near = compute_metrics(["fd-openl3"], *folders)["fd-openl3"]
    assert 0 <= near < 1  # the same noise, twice as loud


def test_passt_divergence_over_pairs(tmp_path, folders, monkeypatch):
    class Passt(torch.nn.Module):
        def forward(self, waveforms):
            assert waveforms.shape == (1, 320000)  # 10 s at 32 kHz
            return torch.stack([waveforms.std(dim=1) * 10, torch.zeros(1)], -1)

    base = stand_in(monkeypatch, "hear21passt.base", get_basic_model=lambda mode: Passt())
    stand_in(monkeypatch, "hear21passt", base=base)
    generated, reference = folders
    assert compute_metrics(["kl-passt"], generated, generated)["kl-passt"] == pytest.approx(0, abs=1e-5)
    assert compute_metrics(["kl-passt"], generated, reference)["kl-passt"] > 0

    long = tmp_path / "long"
    long.mkdir()
    soundfile.write(long / "sound0.wav", 0.1 * np.random.default_rng(0).standard_normal(17 * RATE), RATE)
    assert compute_metrics(["kl-passt"], long, long)["kl-passt"] == pytest.approx(0, abs=1e-5)
    (reference / "sound3.wav").unlink()
    with pytest.raises(ValueError, match=r"`reference` lacks sound3 of `generated` \(1 missing\)"):
        compute_metrics(["kl-passt"], generated, reference)


class KnowsHiss:
    """Tells loud from quiet and "hiss" from other words."""

    def embed_text(self, texts):
        return np.array([[1.0, 0.0] if "hiss" in text else [0.0, 1.0] for text in texts])

    def embed(self, waveforms, rate):
        flat = np.abs(np.fft.rfft(waveforms)).max(1) < 0.1 * waveforms.shape[1]
        return np.array([[1.0, 0.0] if noise else [0.0, 1.0] for noise in flat])


class TellsNothingApart(KnowsHiss):
    """Every text is the same to it, and fits every sound."""

    def embed_text(self, texts):
        return np.full((len(texts), 2), 0.5**0.5)


def test_clap_score_after_the_known_pairs(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "Clap", KnowsHiss)
    captions = {f"sound{i}": "hiss" if i < 3 else "a dog barks" for i in range(6)}
    assert compute_metrics(["clap"], folders[0], captions=captions) == {"clap": 0.5}
    monkeypatch.setattr(published, "Clap", TellsNothingApart)
    with pytest.raises(ValueError, match="does not tell white noise from a beep"):
        compute_metrics(["clap"], folders[0], captions=captions)
    del captions["sound5"]
    with pytest.raises(ValueError, match="`captions` lacks sound5"):
        compute_metrics(["clap"], folders[0], captions=captions)


def tiny_clap(folder, tiny_pipeline):
    torch.manual_seed(0)
    extractor = ClapFeatureExtractor(feature_size=16, max_length_s=2, truncation="rand_trunc")
    audio_config = ClapAudioConfig(
        num_mel_bins=16,
        spec_size=64,
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        window_size=4,
        patch_size=4,
        patch_stride=[4, 4],
    )
    text_config = ClapTextConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = ClapModel(ClapConfig(text_config=text_config, audio_config=audio_config, projection_dim=8))
    model.save_pretrained(folder)
    ClapProcessor(extractor, tiny_pipeline("audioldm").tokenizer).save_pretrained(folder)
    return str(folder)


def test_clap_of_transformers_with_random_weights_fails_the_known_pairs(tmp_path, tiny_pipeline):
    clap = Clap(tiny_clap(tmp_path, tiny_pipeline))
    texts = clap.embed_text(["rain", "a dog barks loud"])
    sounds = clap.embed(np.random.default_rng(0).standard_normal((3, RATE)).astype(np.float32), RATE)
    assert texts.shape == (2, 8) and sounds.shape == (3, 8)
    for embeddings in (texts, sounds):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    check_known_pairs(KnowsHiss())
    with pytest.raises(ValueError, match="scores are meaningless"):
        check_known_pairs(clap)


def test_captions_of_both_kinds_of_csv(tmp_path):
    file = tmp_path / "test.csv"
    file.write_text('file_name,caption\ndata/test/Y7fm.wav,Constant rattling noise\nb.flac,"Rain, then wind "\n')
    assert read_captions(file) == {"Y7fm": "Constant rattling noise", "b": "Rain, then wind"}
    file.write_text("audiocap_id,youtube_id,start_time,caption\n91139,r1nic,130,A woman talks\n")
    assert read_captions(file) == {"91139": "A woman talks"}
    file.write_text("file_name,caption\na.wav,Rain\nx/a.wav,Wind\n")
    with pytest.raises(ValueError, match="names a twice"):
        read_captions(file)
    for text in ("caption\nRain\n", "file_name,caption\n", "file_name,text\na.wav,Rain\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="needs the columns `caption`"):
            read_captions(file)
    for row in ("a.wav,", ",Rain", "a.wav"):
        file.write_text(f"file_name,caption\n{row}\n")
        with pytest.raises(ValueError, match="a row without a name or a caption"):
            read_captions(file)


def test_what_is_not_installed_or_unknown(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "openl3", None)
    names = [f"sound{i}" for i in range(6)]
    check_metrics(["clap"], names, folders[1])
    for early_or_late in (
        lambda: check_metrics(["fd-openl3"], names, folders[1]),
        lambda: compute_metrics(["fd-openl3"], *folders),
    ):
        with pytest.raises(ImportError, match="pip install openl3"):
            early_or_late()
    monkeypatch.setitem(published.LIBRARIES, "kl-passt", "numpy")
    with pytest.raises(ValueError, match="`reference` lacks other"):
        check_metrics(["kl-passt"], [*names, "other"], folders[1])
    with pytest.raises(ValueError, match=r"`metrics` has \['fid'\]"):
        compute_metrics(["fid"], *folders)
    (folders[0] / "sub").mkdir()
    (folders[0] / "sub" / "sound1.wav").write_bytes((folders[0] / "sound1.wav").read_bytes())
    with pytest.raises(ValueError, match="files of the same name"):
        compute_metrics(["clap"], folders[0])
    (folders[0] / "sub" / "sound1.wav").unlink()
    monkeypatch.setattr(published, "_library", lambda *_: types.SimpleNamespace(FrechetAudioDistance=lambda **_: None))
    with pytest.raises(ValueError, match="`reference` is missing"):
        compute_metrics(["fad-vggish"], folders[0])


def test_evaluate_adds_them(folders, tmp_path, monkeypatch):
    class Bands:
        def embed(self, waveforms, rate):
            return np.stack([bands(waveform).mean(0) for waveform in waveforms]).astype(np.float32)

    monkeypatch.setattr(published, "Clap", KnowsHiss)
    monkeypatch.setattr("diffusers_soundctm.evaluation.embeddings.load_embedding", lambda _: Bands())
    rows = "".join(f"sound{i}.wav,hiss\n" for i in range(6))
    (tmp_path / "test.csv").write_text(f"file_name,caption\n{rows}")
    results = compare(*map(str, folders), duration=1.0, metrics=["clap"], captions=str(tmp_path / "test.csv"))
    assert results["published"] == {"clap": 1.0}
