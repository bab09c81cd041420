"""Vocoder: durations, saving, half precision, and the effect of the resonators."""

import pytest
import torch

from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import log_mel
from diffusers_soundctm.hub import embedded_folder


@pytest.fixture
def vocoder():
    torch.manual_seed(0)
    return ISTFTVocoder(hidden_size=16, num_layers=2, intermediate_size=32).eval()


@pytest.mark.parametrize("num_frames", [1, 2, 7, 64, 513])
def test_every_frame_gives_one_hop(vocoder, num_frames):
    waveform = vocoder(torch.randn(2, num_frames, 64))
    assert waveform.shape == (2, num_frames * 160) and waveform.dtype == torch.float32
    assert waveform.isfinite().all()


def test_batched_and_alone_are_the_same_and_repeatable(vocoder):
    mel = torch.randn(3, 20, 64) - 4
    torch.testing.assert_close(vocoder(mel)[1], vocoder(mel[1]))
    assert torch.equal(vocoder(mel), vocoder(mel))


def test_bad_mels_are_named(vocoder):
    for shape in [(20, 80), (64,), (1, 1, 20, 64), (1, 0, 64)]:
        with pytest.raises(ValueError, match=r"`mel` has shape .*pass \(batch, frames, 64\)"):
            vocoder(torch.zeros(shape))


def test_saved_and_loaded_it_is_the_same(vocoder, tmp_path):
    vocoder.save_pretrained(tmp_path)
    mel = torch.randn(10, 64)
    assert torch.equal(ISTFTVocoder.from_pretrained(tmp_path)(mel), vocoder(mel))
    assert vocoder.config.model_in_dim == 64 and vocoder.config.hop_length == 160


def test_bfloat16_weights_give_a_float32_sound(vocoder, tmp_path):
    vocoder.save_pretrained(tmp_path)
    mel = torch.randn(10, 64) - 4
    half = ISTFTVocoder.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    for sound in (half(mel.bfloat16()), vocoder.to(torch.bfloat16)(mel)):
        assert sound.dtype == torch.float32 and sound.isfinite().all()


def test_gradient_reaches_mel_and_weights(vocoder):
    mel = (torch.randn(1, 12, 64) - 4).requires_grad_()
    vocoder(mel).square().sum().backward()
    assert mel.grad.isfinite().all() and mel.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in vocoder.parameters())


def test_silence_stays_near_silence_and_loud_mels_stay_finite(vocoder):
    assert vocoder(torch.full((64, 64), -11.5)).abs().max() < 1e-2
    assert vocoder(torch.full((64, 64), 40.0)).isfinite().all()


@pytest.mark.parametrize("frequency", [230.0, 441.3, 1007.0])
def test_a_resonator_holds_a_steady_tone_of_any_frequency(vocoder, frequency):
    frames, bins = 200, 513
    center = round(frequency / 16000 * 1024)
    offset = 2 * torch.pi * (frequency / 16000 - center / 1024) * 160
    log_magnitude = torch.full((1, frames, bins), -10.0)
    log_magnitude[..., center - 1 : center + 2] = torch.tensor([3.0, 3.7, 3.0])
    retention = torch.ones(1, frames, bins)
    # A tone rotates its bin and both neighbors alike; without it, each bin rotates by its own advance.
    offsets = torch.full((1, frames, bins), offset) - 2 * torch.pi * (torch.arange(bins) - center) * 160 / 1024
    drive = torch.zeros(1, frames, bins, dtype=torch.complex64)
    drive[:, 0] = 1.0
    waveform = vocoder.synthesize(log_magnitude, retention, offsets, drive)[0, 2000:-2000]
    spectrum = torch.fft.rfft(waveform * torch.hann_window(len(waveform)), n=16 * len(waveform)).abs()
    assert spectrum.argmax().item() * 16000 / (16 * len(waveform)) == pytest.approx(frequency, abs=0.5)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_loaded_in_half_precision_a_long_tone_keeps_its_phase(dtype, error):
    tone = 0.5 * torch.sin(2 * torch.pi * 3001.3 * torch.arange(5 * 16000) / 16000)
    mel = log_mel(tone[None])
    folder = embedded_folder() / "vocoder"
    expected, sound = (
        ISTFTVocoder.from_pretrained(folder, dtype=given).requires_grad_(False)(mel) for given in (torch.float32, dtype)
    )
    assert (sound - expected).norm() < error * expected.norm()


def test_noise_is_left_as_rough_as_it_is():
    mel = log_mel(0.1 * torch.randn(1, 5 * 16000, generator=torch.Generator().manual_seed(0)))

    def fast_changes(mel: torch.Tensor) -> torch.Tensor:
        """Energy of the log-mel's changes 8 to 20 times a second."""
        power = torch.fft.rfft(mel - mel.mean(dim=1, keepdim=True), dim=1).abs().square()
        rates = torch.fft.rfftfreq(mel.shape[1], 0.01)
        return power[:, (rates >= 8) & (rates < 20)].sum()

    left, error = {}, {}
    for iterations in (0, 4):
        vocoder = ISTFTVocoder.from_pretrained(embedded_folder() / "vocoder", mel_iterations=iterations)
        with torch.no_grad():
            sound = log_mel(vocoder(mel))
        left[iterations], error[iterations] = fast_changes(sound) / fast_changes(mel), (sound - mel).abs().mean()
    assert left[4] > 0.8 and left[4] > left[0]
    assert error[4] < 0.3 * error[0]


def test_a_tuple_holds_the_waveform():
    vocoder = ISTFTVocoder(hidden_size=8, num_layers=1, intermediate_size=8)
    for mel in (torch.zeros(2, 5, 64), torch.zeros(5, 64)):
        (waveform,) = vocoder(mel, return_dict=False)
        assert torch.equal(waveform, vocoder(mel))
