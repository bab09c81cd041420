"""The mel front end compared with librosa's, levels, resampling, and audio files."""

import json
import logging

import librosa
import numpy as np
import pytest
import soundfile
import torch
from transformers import SpeechT5HifiGanConfig

from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import (
    LogMel,
    as_samples,
    fade_edges,
    leave_headroom,
    limit_peak,
    log_mel,
    normalize_loudness,
    peak_normalize,
    read_audio,
    read_tags,
    resample,
    true_peak,
    write_audio,
)


@pytest.mark.parametrize(
    "settings", [{}, {"sampling_rate": 22050, "n_fft": 512, "hop_length": 128, "n_mels": 40, "fmin": 50.0}]
)
def test_log_mel_is_librosas(settings):
    waveform = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    rate, n_fft, hop = (
        settings.get("sampling_rate", 16000),
        settings.get("n_fft", 1024),
        settings.get("hop_length", 160),
    )
    expected = librosa.feature.melspectrogram(
        y=waveform, sr=rate, n_fft=n_fft, hop_length=hop, n_mels=settings.get("n_mels", 64), power=1.0,
        fmin=settings.get("fmin", 0.0), pad_mode="reflect",
    )  # fmt: skip
    expected = np.log(np.maximum(expected, 1e-5)).T[: 20000 // hop]
    np.testing.assert_allclose(log_mel(torch.from_numpy(waveform), **settings), expected, atol=1e-4)


def test_log_mel_shapes_floor_and_gradient():
    assert log_mel(torch.zeros(2, 3, 81920)).shape == (2, 3, 512, 64)
    assert log_mel(torch.zeros(1600)).unique().item() == pytest.approx(np.log(1e-5))
    waveform = torch.randn(1, 1600, requires_grad=True)
    log_mel(waveform).sum().backward()
    assert waveform.grad.isfinite().all() and waveform.grad.abs().sum() > 0
    assert log_mel(torch.zeros(1600, dtype=torch.bfloat16)).dtype == torch.float32


def test_log_mel_of_a_padded_waveform_is_the_centered_one():
    waveform = torch.randn(16000)
    padded = torch.nn.functional.pad(waveform[None, None], (512, 512), mode="reflect")[0, 0]
    torch.testing.assert_close(LogMel()(padded, center=False)[:100], LogMel()(waveform))


def test_too_short_a_waveform_is_named():
    with pytest.raises(ValueError, match=r"`waveform` has 512 samples; .* needs 513"):
        log_mel(torch.zeros(512))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        ({"sampling_rate": 22050, "n_fft": 2048, "hop_length": 256, "model_in_dim": 80},
         {"sampling_rate": 22050, "n_fft": 2048, "hop_length": 256, "n_mels": 80}),
        ({"sampling_rate": 16000, "upsample_rates": [5, 4, 2, 2, 2], "model_in_dim": 64}, {}),
        ({"sampling_rate": 48000, "upsample_rates": [6, 5, 4, 2, 2], "model_in_dim": 256},
         {"sampling_rate": 48000, "n_fft": 2048, "hop_length": 480, "n_mels": 256, "fmin": 20.0, "fmax": 24000.0}),
    ],
    ids=["default", "istft", "hifigan_16k", "hifigan_48k"],
)  # fmt: skip
def test_the_front_end_follows_the_vocoder(config, expected):
    waveform = torch.randn(8192, generator=torch.Generator().manual_seed(0))
    assert torch.equal(LogMel.for_vocoder(config)(waveform), log_mel(waveform, **expected))


def test_the_configurations_of_models_are_accepted():
    vocoder = ISTFTVocoder(n_fft=512, hop_length=128, hidden_size=8, num_layers=1, intermediate_size=8)
    assert torch.equal(LogMel.for_vocoder(vocoder.config).filterbank, vocoder.filters)
    config = SpeechT5HifiGanConfig(upsample_rates=[10, 16], model_in_dim=64)
    assert (LogMel.for_vocoder(config).n_fft, LogMel.for_vocoder(config).hop_length) == (1024, 160)


def test_an_unknown_vocoder_is_named_with_the_remedy():
    with pytest.raises(ValueError, match=r"22050 Hz with hop length 256 is not a known .* add the `n_fft`"):
        LogMel.for_vocoder({"sampling_rate": 22050, "upsample_rates": [8, 8, 4], "model_in_dim": 80})


def test_levels():
    waveforms = torch.tensor([[0.1, -0.2], [3.0, -1.0], [0.0, 0.0]])
    torch.testing.assert_close(peak_normalize(waveforms).abs().amax(1), torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(limit_peak(waveforms), torch.tensor([[0.1, -0.2], [1.0, -1 / 3], [0.0, 0.0]]))


def test_resampling_keeps_the_tone():
    time = torch.arange(44100) / 44100
    tone = torch.stack([torch.sin(2 * torch.pi * f * time) for f in (440, 1000)])[None]
    resampled = resample(tone, 44100, 16000)
    assert resampled.shape == (1, 2, 16000)
    assert resampled.squeeze(0).numpy().__abs__().max() == pytest.approx(1, abs=0.02)
    assert torch.fft.rfft(resampled[0]).abs().argmax(-1).tolist() == [440, 1000]
    assert resample(tone, 16000, 16000) is tone


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_files_keep_sound_and_tags(tmp_path, suffix):
    waveform = torch.rand(2, 1600) - 0.5
    settings = json.dumps({"prompt": "la pluie à Noël", "steps": 4})
    path = write_audio(tmp_path / f"a{suffix}", waveform, 16000, {"title": "la pluie", "comment": settings})
    read, rate = read_audio(path)
    assert rate == 16000
    torch.testing.assert_close(read, waveform, atol=1 / 32000, rtol=0)
    assert read_tags(path)["comment"] == settings and read_tags(path)["title"] == "la pluie"
    assert read_audio(path, 8000)[0].shape == (2, 800)
    assert list(tmp_path.iterdir()) == [path]


def test_too_loud_a_sound_is_scaled_not_clipped(tmp_path):
    path = write_audio(tmp_path / "a.wav", torch.tensor([2.0, -1.0, 0.5]), 16000)
    torch.testing.assert_close(read_audio(path)[0], torch.tensor([[1.0, -0.5, 0.25]]), atol=1e-4, rtol=0)


def test_bad_input_is_named_and_leaves_no_file(tmp_path):
    sound = torch.zeros(100)
    with pytest.raises(ValueError, match=r"ends in '.mp4'; choose one of .wav, .flac"):
        write_audio(tmp_path / "a.mp4", sound, 16000)
    with pytest.raises(ValueError, match="NaN"):
        write_audio(tmp_path / "a.wav", sound * float("nan"), 16000)
    with pytest.raises(ValueError, match="shape"):
        write_audio(tmp_path / "a.wav", sound[None, None], 16000)
    for name, channels in (("a.wav", 1025), ("a.flac", 9), ("a.wav", 0)):
        with pytest.raises(ValueError, match=f"`waveform` has {channels} channels"):
            write_audio(tmp_path / name, np.zeros((channels, 10)), 16000)
    for name, rate in (("a.wav", 0), ("a.wav", -1), ("a.wav", 2**31), ("a.wav", 16000.0), ("a.flac", 655351)):
        with pytest.raises(ValueError, match="`sampling_rate`"):
            write_audio(tmp_path / name, sound, rate)
    with pytest.raises(ValueError, match="mood"):
        write_audio(tmp_path / "a.wav", sound, 16000, {"mood": "blue"})
    with pytest.raises(OSError, match="cannot be written"):
        write_audio(tmp_path / "no" / "a.wav", sound, 16000)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="cannot be read"):
        read_audio(tmp_path / "missing.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match="cannot be read"):
        read_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match="no samples"):
        read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_an_empty_tag_is_left_out(tmp_path, suffix):
    path = write_audio(tmp_path / f"sound{suffix}", torch.full((160,), 0.5), 16000, {"title": "", "comment": "kept"})
    assert soundfile.SoundFile(path).copy_metadata() == {"comment": "kept"}


@pytest.mark.parametrize(("suffix", "cut"), [(".wav", True), (".flac", False)])
def test_a_long_tag_does_not_cost_the_others(tmp_path, suffix, cut, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    title, comment = "é" * 1500, "c" * 2000
    path = write_audio(tmp_path / f"a{suffix}", torch.full((160,), 0.5), 16000, {"title": title, "comment": comment})
    assert read_tags(path) == {"title": title[:1000] if cut else title, "comment": comment}
    assert ("`title` has 3000 bytes" in caplog.text and ".flac" in caplog.text) == cut


@pytest.mark.parametrize(("suffix", "channels", "rate"), [(".wav", 1024, 1), (".flac", 8, 655350)])
def test_the_widest_files_can_be_written(tmp_path, suffix, channels, rate):
    path = write_audio(tmp_path / f"a{suffix}", np.zeros((channels, 10)), np.int64(rate))
    assert (read_audio(path)[0].shape, soundfile.info(path).samplerate) == ((channels, 10), rate)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = write_audio(tmp_path / "a.flac", torch.zeros(100), 16000)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        write_audio(path, torch.full((100,), float("inf")), 16000)
    assert path.read_bytes() == before


# Loudness


def test_true_peak_sees_between_the_samples():
    # A quarter of the sampling rate, sampled at 45°: the samples reach 0.71 and the wave 1.
    wave = torch.sin(torch.arange(16000) * torch.pi / 2 + torch.pi / 4)
    assert wave.max().item() == pytest.approx(0.7071, abs=1e-3)
    assert true_peak(wave, 16000).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("rate", "seconds"), [(16000, 2.0), (44100, 0.2)])
def test_loudness_is_reached_by_scaling_alone(rate, seconds):
    import pyloudnorm

    waveform = 0.02 * torch.randn(1, round(rate * seconds), generator=torch.Generator().manual_seed(0))
    result = normalize_loudness(waveform, rate, -23)
    meter = pyloudnorm.Meter(rate, block_size=min(0.4, seconds * 0.99))
    assert meter.integrated_loudness(result[0].numpy()) == pytest.approx(-23, abs=0.2)
    ratio = result / waveform
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_peaks_come_before_loudness():
    clicks = torch.zeros(32000)
    clicks[::4000] = 0.5
    result = normalize_loudness(clicks, 16000, -14, max_true_peak=-1)
    assert 20 * true_peak(result, 16000).log10().item() == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(16000), 16000, -23), "silent"),
        ((torch.full((16000,), float("nan")), 16000, -23), "NaN"),
        ((torch.ones(16000), 16000, 3), "`loudness`"),
        ((torch.ones(16000), 16000, float("nan")), "`loudness`"),
        ((torch.ones(16000), 16000, -23, 1.0), "`max_true_peak`"),
        ((torch.ones(100), 16000, -23), "0.1 s"),
    ],
)
def test_bad_loudness_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        normalize_loudness(*arguments)


# Dtypes of samples


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([0.5, -2.0]), [0.5, -2.0]),
        (torch.tensor([0.5, -1.0], dtype=torch.bfloat16), [0.5, -1.0]),
        (np.array([16384, -32768], np.int16), [0.5, -1.0]),
        (np.array([16384, -32768], ">i2"), [0.5, -1.0]),
        (np.array([-32768, 16384], np.int16)[::-1], [0.5, -1.0]),
        (np.array([2**30, -(2**31)], np.int32), [0.5, -1.0]),
        (np.array([64, -128], np.int8), [0.5, -1.0]),
        (np.array([192, 0, 128], np.uint8), [0.5, -1.0, 0.0]),
    ],
    ids=["float64", "bfloat16", "int16", "big_endian", "reversed", "int32", "int8", "uint8"],
)
def test_samples_are_scaled_by_the_full_scale_of_their_dtype(tmp_path, samples, expected):
    converted = as_samples(samples)
    assert converted.dtype == torch.float32 and converted.tolist() == expected
    write_audio(tmp_path / "a.flac", samples, 16000)
    peak = max(1, max(map(abs, expected)))
    torch.testing.assert_close(read_audio(tmp_path / "a.flac")[0][0] * peak, torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "samples",
    [[1, 2], np.array([1j]), torch.tensor([True]), np.array([1], np.uint16), np.array(["a"]), np.array([None]), "a"],
    ids=["int64", "complex", "bool", "uint16", "strings", "objects", "text"],
)
def test_samples_without_a_full_scale_are_refused_by_name(samples):
    with pytest.raises(TypeError, match=r"`sound` (has the dtype \w+, which has no full scale|is of the type)"):
        as_samples(samples, "sound")


def test_edges_are_faded_and_the_rest_is_unchanged():
    level = torch.full((2, 1000), 0.5)
    faded = fade_edges(level, 16000, seconds=0.005)
    assert faded[:, 0].abs().max() == faded[:, -1].abs().max() == 0
    assert torch.equal(faded[:, 80:-80], level[:, 80:-80]) and (faded[:, :80].diff(dim=-1) > 0).all()
    assert fade_edges(level[:, :3], 16000).shape == (2, 3)  # shorter than both fades


def test_headroom_keeps_the_balance_of_channels():
    loud = torch.tensor([[0.5, -1.0], [0.25, 0.0]])
    assert torch.allclose(leave_headroom(loud), loud * 10 ** (-1 / 20))
    assert torch.equal(leave_headroom(loud / 2), loud / 2)


def test_bits_per_sample(tmp_path):
    fine = torch.tensor([0.1, 0.2]) + 2**-20
    errors = []
    for bits in (16, 24):
        write_audio(tmp_path / "a.wav", fine, 16000, bits=bits)
        errors.append((read_audio(tmp_path / "a.wav")[0][0] - fine).abs().max().item())
    assert errors[1] < 2**-22 < errors[0]
    with pytest.raises(ValueError, match="`bits` is 8"):
        write_audio(tmp_path / "a.wav", fine, 16000, bits=8)
