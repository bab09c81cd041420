"""Pitch and sketches: measured within a quarter tone, without octave errors, on voices that are synthesized."""

import math

import pytest
import torch

from diffusers_soundctm import audio
from diffusers_soundctm.control import LossGuidance, PitchObjective, SketchObjective, Sound, sketch_curves

RATE, SECONDS = 16000, 2
TIME = torch.arange(SECONDS * RATE) / RATE
MELODY = torch.tensor([262.0, 294.0, 330.0, 392.0])[(TIME * 2).long().clamp(max=3)]
VOICES = {  # Hz at each sample
    "sweep": 90 * 2 ** (1.8 * TIME / SECONDS),
    "high sweep": 300 * 2 ** (2 * TIME / SECONDS),
    "vibrato": 220 * 2 ** (0.5 / 12 * torch.sin(2 * math.pi * 5 * TIME)),
    "hummed melody": MELODY,
}


def voice(hertz, decay=1.0, level=1.0):
    """A harmonic tone (samples,) with partials that fall by 6·decay dB per octave, and some breath."""
    phase = 2 * math.pi * torch.cumsum(hertz.double(), 0) / RATE
    partials = [torch.sin(h * phase) / h**decay * (h * hertz < RATE / 2) for h in range(1, 20)]
    breath = 0.003 * torch.randn(len(hertz), generator=torch.Generator().manual_seed(0))
    return audio.peak_normalize((sum(partials).float() + breath)[None])[0] * level


def sound_of(waveform):
    return Sound(None, None, None, RATE, audio.LogMel()).of_waveform(waveform[None])


@pytest.mark.parametrize("domain", ["mel", "waveform"])
@pytest.mark.parametrize("name", VOICES)
def test_pitch_is_measured_without_octave_errors(name, domain):
    for decay in (0.0, 1.0, 2.0):
        sound = sound_of(voice(VOICES[name], decay))
        objective = PitchObjective(VOICES[name][::160], domain=domain)
        assert objective.within(sound).item() > 0.9
        assert objective.octave_errors(sound).item() == 0
        assert objective(sound).item() < 0.5
        half_tone_higher = PitchObjective(VOICES[name][::160] * 2 ** (1 / 12), domain=domain)
        assert half_tone_higher(sound).item() > 1.5 and half_tone_higher.within(sound).item() < 0.1


def test_octaves_are_counted_as_octave_errors():
    sound = sound_of(voice(VOICES["vibrato"]))
    for factor in (0.5, 2):
        objective = PitchObjective(VOICES["vibrato"][::160] * factor)
        assert objective.octave_errors(sound).item() > 0.95 and objective.within(sound).item() == 0
        assert objective.error(sound).item() == pytest.approx(1, abs=0.05)


def test_unvoiced_frames_do_not_count():
    sound = sound_of(voice(MELODY))
    right = (TIME[::160] < 1.0).float()
    wrong_at_the_end = torch.where(right > 0, MELODY[::160], 700)
    everywhere, voiced = PitchObjective(wrong_at_the_end), PitchObjective(wrong_at_the_end, confidence=right)
    assert voiced.within(sound).item() > 0.9 > 0.6 > everywhere.within(sound).item()
    assert voiced(sound).item() < 0.5 < everywhere(sound).item()


def test_the_gradient_raises_the_pitch_of_a_mel():
    target = PitchObjective({0: 330.0}, domain="mel")
    mel = sound_of(voice(torch.full_like(TIME, 311.0))).mel
    sound = Sound(mel, lambda latents: latents, None, RATE, audio.LogMel())
    before = target(sound).item()
    for _ in range(30):
        mel = mel.detach().requires_grad_()
        sound = Sound(mel, lambda latents: latents, None, RATE, audio.LogMel())
        (gradient,) = torch.autograd.grad(target(sound).sum(), mel)
        mel = mel - 20 * gradient / gradient.norm()
    assert target(sound).item() < 0.1 * before
    assert target.within(sound).item() > 0.9


@pytest.mark.parametrize("name", ["sweep", "hummed melody"])
def test_a_sketch_has_the_curves_of_the_voice(name):
    swell = 10 ** (torch.linspace(-30, 0, len(TIME)) / 20)
    curves = sketch_curves(0.02 * swell * voice(VOICES[name]), RATE)
    assert [len(curves[name]) for name in ("loudness", "brightness", "pitch", "confidence")] == [20, 20, 50, 50]
    middle = slice(5, 45)
    assert curves["loudness"][17] - curves["loudness"][2] == pytest.approx(30 * 15 / 19, abs=3)
    wanted = VOICES[name][torch.linspace(0, len(TIME) - 1, 50).long()].log2().numpy()
    cents = abs(1200 * (torch.from_numpy(curves["pitch"]).log2().numpy() - wanted))[middle]
    confident = curves["confidence"][middle] >= 0.5
    assert confident.mean() > 0.6 and (cents[confident] < 50).mean() > 0.9
    # The recording itself follows its sketch; one with another loudness or melody does not.
    sketch = SketchObjective.from_audio(0.02 * swell * voice(VOICES[name]), RATE, domain="waveform")
    same, flat = sound_of(swell * voice(VOICES[name])), sound_of(voice(VOICES[name]))
    other = sound_of(swell * voice(500 + 0 * TIME))
    assert 10 * sketch(same).item() < min(sketch(flat).item(), sketch(other).item())


def test_curves_can_be_left_out():
    sketch = SketchObjective.from_audio(voice(MELODY), RATE, brightness=False, pitch=False)
    assert list(sketch.parts) == ["loudness"]
    with pytest.raises(ValueError, match="needs a curve"):
        SketchObjective.from_audio(voice(MELODY), RATE, loudness=False, brightness=False, pitch=False)


def test_noise_has_no_pitch_and_silence_no_brightness_of_its_own():
    noise = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    curves = sketch_curves(torch.cat([noise, torch.zeros(RATE)]), RATE)
    assert (curves["confidence"] < 0.5).all()
    assert curves["brightness"][-1] == pytest.approx(curves["brightness"][8], rel=0.15)
    unvoiced = SketchObjective(pitch=curves["pitch"], confidence=curves["confidence"])
    assert unvoiced(sound_of(voice(MELODY))).item() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PitchObjective({0: 30.0}), "`curve` goes from 30 to 30"),
        (lambda: PitchObjective({0: 200.0}, domain="latent"), "`domain` is 'latent'"),
        (lambda: PitchObjective([200.0, 200.0], confidence=[0.0, 2.0]), "`confidence`"),
        (lambda: SketchObjective(), "needs a curve"),
        (lambda: SketchObjective.from_audio(torch.zeros(RATE), RATE), "`waveform` is silent"),
    ],
    ids=["low", "domain", "confidence", "nothing", "silent"],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sketch_guides_a_pipeline(tiny_pipeline):
    pipe = tiny_pipeline("embedded")
    sketch = SketchObjective.from_audio(voice(MELODY), RATE)
    guidance = LossGuidance(sketch, inner_steps=2)
    call = {"num_inference_steps": 2, "audio_length_in_s": 1.0}
    plain = pipe("rain", generator=torch.Generator().manual_seed(0), **call).audios
    guided = pipe("rain", generator=torch.Generator().manual_seed(0), callback_on_step_end=guidance, **call).audios
    assert len(guidance.losses) == 2 and guidance.num_skipped == 0
    assert abs(guided - plain).max() > 1e-4
