"""Objectives measure what they document, in the documented units, and reject unusable input."""

import math

import pytest
import torch

from diffusers_soundctm import audio
from diffusers_soundctm.control import (
    BandEnergyObjective,
    EmbeddingSimilarityObjective,
    IntensityObjective,
    LatentMatchObjective,
    LoopObjective,
    MelMatchObjective,
    OnsetObjective,
    Sound,
    SpectralCentroidObjective,
    WaveformMatchObjective,
)
from diffusers_soundctm.control.objectives import evaluate

RATE, SAMPLES = 16000, 32000


def sound_of(waveform):
    return Sound(None, None, None, RATE, audio.LogMel()).of_waveform(waveform)


def noise(seed=0, batch=1, samples=SAMPLES):
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def tone(frequency, samples=SAMPLES):
    return torch.sin(2 * math.pi * frequency * torch.arange(samples) / RATE)[None]


@pytest.mark.parametrize(("domain", "tolerance"), [("waveform", 0.1), ("mel", 2.0)])
def test_intensity_is_the_level_in_db(domain, tolerance):
    objective = IntensityObjective([-20.0, -20.0], domain)
    sound = sound_of(torch.cat([0.1 * noise(), 0.01 * noise(1)]))
    level = objective.measure(sound)
    assert level.shape == (2, SAMPLES // 160)
    torch.testing.assert_close(level.mean(dim=1), torch.tensor([-20.0, -40.0]), rtol=0, atol=tolerance)
    assert objective.error(sound)[1].item() == pytest.approx(20, abs=tolerance)


def test_all_ways_to_give_a_curve_agree():
    sound = sound_of(0.1 * noise())
    last = (SAMPLES // 160 - 1) / 100
    ways = [
        {0: -40, last: -20},
        [(0, -40), (last, -20)],
        lambda seconds: -40 + 20 * seconds / last,
        torch.tensor([-40.0, -20.0]),
        torch.tensor([[-40.0, -30.0, -20.0]]).numpy(),
    ]
    targets = [IntensityObjective(way, smoothing=0).target(sound) for way in ways]
    for target in targets:
        torch.testing.assert_close(target, targets[0], rtol=0, atol=1e-3)
    assert targets[0][0, 0].item() == pytest.approx(-40) and targets[0][0, -1].item() == pytest.approx(-20)


def test_two_points_at_one_time_are_a_step_in_the_order_given():
    sound = sound_of(0.1 * noise())
    middle = SAMPLES / RATE / 2
    for before, after in ((-15, -40), (-40, -15)):
        curve = IntensityObjective([(0, before), (middle, before), (middle, after)], smoothing=0).target(sound)[0]
        frames = len(curve) // 2
        assert (curve[: frames - 1] == before).all() and (curve[frames + 1 :] == after).all()


def test_objectives_can_be_summed():
    sound = sound_of(0.1 * noise())
    loud, quiet = IntensityObjective({0: -20}), IntensityObjective({0: -50})
    torch.testing.assert_close(sum([loud, quiet])(sound), loud(sound) + quiet(sound))


def test_a_recording_at_another_rate_gives_its_own_curve_and_is_said_to_be_resampled(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("diffusers_soundctm.control.sound.logger.warning", said.append)
    swell = torch.linspace(0.01, 0.3, 2 * 44100) * noise(2, samples=2 * 44100).clamp(-3, 3)[0]
    path = audio.write_audio(tmp_path / "swell.wav", swell, 44100)
    objective = IntensityObjective(path, "waveform")
    same = sound_of(audio.resample(swell[None], 44100, RATE))
    assert objective(same).item() < 0.01
    assert len(said) == 1 and "`curve` is resampled from 44100 to 16000 Hz" in said[0]
    assert objective(sound_of(same.waveform.flip(1))).item() > 50


def test_each_sample_has_its_own_target_and_neighbors_share():
    sound = sound_of(0.1 * noise(batch=4))
    target = IntensityObjective(torch.tensor([[-20.0, -20.0], [-40.0, -40.0]])).target(sound)
    torch.testing.assert_close(target[:, 0], torch.tensor([-20.0, -20, -40, -40]))
    with pytest.raises(ValueError, match="3 rows for 4 waveforms"):
        IntensityObjective(torch.full((3, 2), -20.0))(sound)


def test_band_energy_and_centroid_follow_the_frequency():
    low, high = sound_of(0.1 * tone(500)), sound_of(0.1 * tone(4000))
    band = BandEnergyObjective([-20, -20], band=(300, 800))
    assert band.measure(low).mean() > band.measure(high).mean() + 30
    centroid = SpectralCentroidObjective({0: 4000})
    assert centroid.error(high).item() < 0.1
    assert centroid.error(low).item() == pytest.approx(3, abs=0.3)  # octaves


def test_onsets_follow_the_reference_rhythm():
    seconds = torch.arange(SAMPLES) / RATE
    drums = [0.3 * noise(i) * torch.exp(-20 * ((seconds - shift) % 0.5)) for i, shift in enumerate((0, 0, 0.25))]
    objective = OnsetObjective((drums[0], RATE))
    assert objective(sound_of(drums[1])).item() < 0.3 < 0.8 < objective(sound_of(drums[2])).item()


def test_loop_prefers_ends_that_meet():
    ramp = torch.linspace(0.001, 0.3, SAMPLES)
    assert LoopObjective()(sound_of(ramp * noise())).item() > 5 * LoopObjective()(sound_of(0.1 * noise())).item()


def test_mel_match_counts_only_its_band_and_spans():
    reference = 0.1 * noise()
    brighter = sound_of(reference + tone(6000))
    assert MelMatchObjective((reference, RATE))(brighter).item() > 0.1
    assert MelMatchObjective((reference, RATE), band=(0, 4000))(brighter).item() < 0.01
    later = reference.clone()
    later[:, RATE:] *= 4
    spans = MelMatchObjective((reference[0], RATE), spans=[(0.1, 0.5), (0.6, 0.9)])
    assert spans(sound_of(later)).item() < 1e-6 < 0.1 < MelMatchObjective((reference, RATE))(sound_of(later)).item()


def test_waveform_match_is_relative_to_the_reference():
    reference = 0.1 * noise()
    objective = WaveformMatchObjective((reference, RATE), spans=[(0, 1)])
    loss = objective(sound_of(torch.cat([reference, 0 * reference, 2 * reference])))
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 1.0]))


def test_latent_match_counts_only_its_mask():
    target = torch.randn(4, 6, 2)
    sound = Sound(torch.stack([target, target + torch.arange(6.0)[:, None]]), None, None, RATE, audio.LogMel())
    target = target[None]
    loss = LatentMatchObjective(target, torch.tensor([0, 0, 1, 1, 0, 0]))(sound)
    torch.testing.assert_close(loss, torch.tensor([0.0, (4 + 9) / 2]))
    with pytest.raises(ValueError, match="the sound's is"):
        LatentMatchObjective(target[:, :, :5])(sound)


def test_embedding_similarity_takes_any_model():
    def embed(waveform, sampling_rate):
        return torch.stack([waveform.clamp(min=0).mean(1), waveform.clamp(max=0).mean(1)], 1)

    up = EmbeddingSimilarityObjective(embed, torch.tensor([1.0, 0.0]))
    loss = up(sound_of(torch.cat([noise().abs(), -noise().abs()])))
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0]))


def test_waveforms_that_come_from_latents_have_a_mel_and_a_level(tiny_pipeline):
    pipe = tiny_pipeline("dit")
    latents = torch.randn(2, *pipe.latent_shape(20480), generator=torch.Generator().manual_seed(0)).requires_grad_()
    sound = Sound.of_latents(pipe, latents, num_samples=19999)
    assert sound.waveform.shape == (2, 19999) and sound.mel.shape == (2, 124, 64)
    torch.testing.assert_close(sound.mel, audio.log_mel(pipe.decode_latents(latents)[:, 0, :19999]))
    for objective in (IntensityObjective([-30, -10]), IntensityObjective([-30, -10], "waveform"), LoopObjective()):
        (gradient,) = torch.autograd.grad(objective(sound)[0], latents, retain_graph=True)
        assert gradient.isfinite().all() and gradient[0].abs().sum() > 0 == gradient[1].abs().sum()
    stereo = sound.of_waveform(torch.stack([0.1 * noise(batch=2), 0.3 * noise(batch=2)], dim=1))
    torch.testing.assert_close(stereo.waveform, 0.2 * noise(batch=2))


def test_objectives_add_and_have_weights_and_gradients():
    def quiet(sound):
        return sound.mel.mean(dim=(1, 2))

    waveform = (0.1 * noise(batch=2)).requires_grad_()
    parts = [IntensityObjective([-30, -10]), OnsetObjective((noise(5).cumsum(1) / 100, RATE)), LoopObjective()]
    total = 0.5 * parts[0] + parts[1] * 2 + parts[2] + quiet
    sound = sound_of(waveform)
    loss = evaluate(total, sound)
    expected = 0.5 * parts[0](sound) + 2 * parts[1](sound) + parts[2](sound) + quiet(sound)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss[0], waveform)
    assert gradient.isfinite().all() and gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0  # waveforms do not affect each other


def test_gradient_is_finite_at_silence():
    waveform = torch.zeros(1, SAMPLES, requires_grad=True)
    sound = sound_of(waveform)
    loss = IntensityObjective([-20, -20], "waveform")(sound) + SpectralCentroidObjective({0: 500})(sound)
    assert torch.autograd.grad(loss.sum(), waveform)[0].isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntensityObjective([0.1, 0.5]), "dB relative to full scale"),
        (lambda: IntensityObjective([-20, math.nan]), "NaN"),
        (lambda: IntensityObjective([-20]), "n ≥ 2"),
        (lambda: IntensityObjective([(-1, -20)]), "0 or more"),
        (lambda: IntensityObjective([-20, -30], "spectrum"), "`domain`"),
        (lambda: IntensityObjective((torch.zeros(100), RATE)), "silent"),
        (lambda: IntensityObjective("missing.wav"), "missing.wav"),
        (lambda: SpectralCentroidObjective([1, 2]), "Hz"),
        (lambda: OnsetObjective([1, 1]), "constant"),
        (lambda: BandEnergyObjective([-20, -20], band=(500, 100)), "`band`"),
        (lambda: MelMatchObjective((torch.zeros(100), RATE)), "silent"),
        (lambda: MelMatchObjective((torch.ones(100), RATE), spans=[]), "`spans`"),
        (lambda: WaveformMatchObjective((torch.ones(100), RATE), spans=[(2, 1)]), "`spans`"),
        (lambda: LatentMatchObjective(torch.zeros(1, 4, 6, 2), torch.zeros(6)), "zero everywhere"),
        (lambda: LatentMatchObjective(torch.zeros(1, 4, 6, 2), torch.ones(5)), "`mask`"),
    ],
)
def test_bad_arguments_are_named_at_once(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (IntensityObjective({0: -20, 12: -30}), "a point at 12 s"),
        (IntensityObjective(lambda seconds: seconds[:3]), "one value per time"),
        (MelMatchObjective((noise(), RATE), spans=[(5, 6)]), "contain no part"),
        (MelMatchObjective((noise(), RATE), band=(9000, 9500)), "`band`"),
        (lambda sound: sound.mel.mean(), "one number per waveform"),
        (lambda sound: 3.0, "float"),
    ],
)
def test_what_only_the_sound_shows_is_named_at_the_first_call(objective, message):
    with pytest.raises((ValueError, TypeError), match=message):
        evaluate(objective, sound_of(0.1 * noise()))
