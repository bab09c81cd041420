"""Known audio is kept, the rest is generated, and the level continues across every seam."""

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks

from diffusers_soundctm.control import KnownRegion, LossGuidance, generate_long, inpaint
from diffusers_soundctm.control.inpainting import mirror_fill

RATE, SAMPLES = 16000, 20480
PROMPT = "rain on a tin roof"


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("embedded")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return 0.1 * torch.randn(*shape, generator=generator(seed))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_known_positions_carry_the_samplers_noise_and_end_known(family_pipe, gamma):
    pipe = family_pipe
    samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
    z_0 = 0.5 * torch.randn(1, *pipe.latent_shape(samples), generator=generator(1))
    mask = (torch.arange(z_0.shape[2]) < 16).float()
    levels = []

    def look(pipe, step, timestep, tensors):
        tensors = known(pipe, step, timestep, tensors)
        levels.append((tensors["latents"] - z_0)[:, :, :16].std() / pipe.scheduler.sigmas[step + 1])
        return tensors

    known = KnownRegion(z_0, mask, generator(2))
    result = pipe(
        [PROMPT] * 2,
        num_inference_steps=4,
        gamma=gamma,
        generator=generator(),
        output_type="latent",
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=known.tensor_inputs,
    ).audios
    # Three standard errors of the standard deviation of the known values of two waveforms.
    tolerance = 3 / (2 * 2 * z_0[:, :, :16].numel()) ** 0.5
    torch.testing.assert_close(torch.stack(levels), torch.ones(4), rtol=max(tolerance, 0.05), atol=0)
    sigma_min = pipe.scheduler.config.sigma_min
    assert (result - z_0)[:, :, :16].abs().max() < 6 * sigma_min < (result - z_0)[:, :, 16:].abs().max()


def test_hole_is_filled_and_the_rest_stays_to_the_sample(pipe):
    sound = noise(1, SAMPLES)
    result = inpaint(pipe, PROMPT, sound, RATE, [(0.5, 0.8)], num_inference_steps=2, generator=generator())
    assert result.shape == (1, 1, SAMPLES)
    fade = RATE // 20
    torch.testing.assert_close(result[0, :, : 8000 - fade], sound[:, : 8000 - fade])
    torch.testing.assert_close(result[0, :, 12800 + fade :], sound[:, 12800 + fade :])
    assert not torch.allclose(result[0, :, 8000:12800], sound[:, 8000:12800], atol=1e-3)


def test_holes_continuations_and_long_sounds_with_every_family(family_pipe):
    pipe = family_pipe
    length, rate = pipe.default_audio_length_in_s, pipe.sampling_rate
    sound = noise(1, pipe.num_channels, round(length * rate))
    call = {"num_inference_steps": 2, "generator": generator()}
    filled = inpaint(pipe, PROMPT, sound, rate, [(0.45 * length, 0.6 * length)], **call)
    assert filled.shape == sound.shape
    start, end = round(0.45 * length * rate), round(0.6 * length * rate)
    changed = (filled - sound).abs().amax(dim=(0, 1))
    assert changed[start:end].max() > 1e-3
    if end - start > rate // 20:  # long enough for crossfades
        assert changed[: start - rate // 20].max() == 0 == changed[end + rate // 20 :].max()
    longer = inpaint(pipe, PROMPT, sound[..., : len(sound[0, 0]) // 2], rate, audio_length_in_s=length, **call)
    assert longer.shape == sound.shape and longer[..., -10:].abs().max() > 0
    long = generate_long(pipe, PROMPT, 2.5 * length, overlap_in_s=0.3 * length, **call)
    assert long.shape == (1, pipe.num_channels, round(2.5 * length * rate)) and long.isfinite().all()


def test_channels_and_level_of_a_waveform_model_are_the_sounds_own(tiny_pipeline):
    pipe = tiny_pipeline("dit")
    heard = []
    encode = pipe.encode_audio
    pipe.encode_audio = lambda sound, *args: heard.append(sound) or encode(sound, *args)
    quiet = 0.1 * noise(1, 2, SAMPLES)  # two channels, but the model has one
    result = inpaint(pipe, PROMPT, quiet, RATE, [(0.5, 0.8)], num_inference_steps=1, generator=generator())
    torch.testing.assert_close(heard[0][:, 0, :8000], quiet.mean(dim=1)[:, :8000])
    plain = pipe.decode_latents(encode(heard[0], RATE, SAMPLES)).detach()
    # The generated part is not scaled to the peak of the known part.
    assert result.shape == (1, 1, SAMPLES) and result.abs().max() > 0.2 * plain.abs().max()


def test_what_was_in_the_hole_does_not_matter(pipe):
    sound = noise(1, SAMPLES)
    other = sound.clone()
    other[:, 8000:12800] = 0.9
    results = [
        inpaint(pipe, PROMPT, x, RATE, [(0.5, 0.8)], num_inference_steps=2, generator=generator())
        for x in (sound, other)
    ]
    torch.testing.assert_close(*results)


def test_level_of_the_sound_is_kept(pipe):
    sound = noise(1, SAMPLES)
    loud, quiet = (
        inpaint(pipe, PROMPT, x, RATE, [(0.5, 0.8)], num_inference_steps=2, generator=generator())
        for x in (sound, 0.1 * sound)
    )
    torch.testing.assert_close(0.1 * loud, quiet, rtol=1e-2, atol=1e-4)


def test_continuation_and_several_sounds_a_prompt(pipe):
    sounds = noise(2, 2, 6000)  # two channels
    result = inpaint(
        pipe,
        [PROMPT, "a dog barks"],
        sounds,
        RATE,
        audio_length_in_s=1.0,
        num_inference_steps=2,
        num_waveforms_per_prompt=2,
    )
    assert result.shape == (4, 1, RATE)
    torch.testing.assert_close(result[:, 0, :5000], sounds.mean(dim=1)[[0, 0, 1, 1], :5000])
    assert (result[:, 0, 6000:].abs().amax(dim=1) > 1e-4).all()


def test_guidance_acts_with_replacement_and_across_the_seam(pipe):
    def louder(sound):
        return (sound.mel.mean(dim=(1, 2)) - 1).square()

    sound, kwargs = noise(1, SAMPLES), {"num_inference_steps": 2}
    plain, guided, seam = (
        inpaint(pipe, PROMPT, sound, RATE, [(0.5, 0.8)], generator=generator(), **kwargs, **more)
        for more in ({}, {"callback_on_step_end": LossGuidance(louder)}, {"seam_scale": 0.5})
    )
    for other in (guided, seam):
        assert other.isfinite().all() and not torch.allclose(plain, other, atol=1e-4)
        torch.testing.assert_close(plain[..., :6000], other[..., :6000])


def test_recording_at_another_rate_is_resampled_and_said_so(pipe, monkeypatch):
    said = []
    monkeypatch.setattr("diffusers_soundctm.control.sound.logger.warning", said.append)
    assert inpaint(pipe, PROMPT, noise(44100), 44100, [(0.2, 0.4)], num_inference_steps=1).shape == (1, 1, RATE)
    assert "44100 to 16000" in said[0]


def test_mirror_fill_continues_both_sides():
    ramp = torch.arange(1.0, 13.0)[None]
    torch.testing.assert_close(mirror_fill(ramp, [(9, 12)])[0, 9:], torch.tensor([9.0, 8, 7]))
    torch.testing.assert_close(mirror_fill(ramp, [(0, 2)])[0, :2], torch.tensor([4.0, 3]))
    torch.testing.assert_close(mirror_fill(ramp, [(2, 8)])[0, 2:8][[0, -1]], torch.tensor([2.0, 9]))


@pytest.mark.parametrize("prompt", [PROMPT, [PROMPT, "a dog barks"]])
def test_long_sounds_have_their_length_and_keep_their_level(pipe, prompt):
    prompts = []
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda prompt, *args, **kwargs: prompts.append(prompt) or encode(prompt, *args, **kwargs)
    try:
        sound = generate_long(
            pipe, prompt, 4.0, overlap_in_s=0.4, num_inference_steps=2, generator=generator(),
            num_waveforms_per_prompt=2,
        )  # fmt: skip
    finally:
        del pipe.encode_prompt
    assert sound.shape == (2, 1, 64000) and sound.isfinite().all()
    # Each piece of 1.28 s adds 0.88 s, and the seams are in the middle of the overlaps.
    assert len(prompts) == 5 and set(prompts) == ({prompt} if isinstance(prompt, str) else set(prompt))
    decibels = 20 * sound[:, 0].reshape(2, -1, 800).square().mean(dim=-1).sqrt().log10()
    steps = decibels.diff(dim=1).abs()
    seams = (torch.arange(1, 5) * 14080 + 3200) // 800
    assert steps[:, seams - 1].mean() < steps.quantile(0.95)


def test_pieces_go_on_where_the_last_one_ended(pipe):
    latents = []
    decode = pipe.decode_latents
    pipe.decode_latents = lambda z: latents.append(z) or decode(z)
    try:
        generate_long(pipe, PROMPT, 2.0, overlap_in_s=0.4, num_inference_steps=2)
    finally:
        del pipe.decode_latents
    torch.testing.assert_close(latents[0][:, :, -10:], latents[1][:, :, :10], rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spans": []}, "`spans`"),
        ({"spans": [(0.5, 0.5)]}, "`spans`"),
        ({"spans": (0.5, 0.8)}, "`spans`"),
        ({"spans": [(0.5, 0.8)], "callback_on_step_end": lambda *_: {}}, "PipelineCallback"),
        ({"spans": [(3, 4)]}, "ends at 1.28"),
        ({"spans": [(0, 9)]}, "whole audio"),
        ({"spans": [(0.05, 1.28)]}, "hardly anything"),
        ({}, "nothing to generate"),
        ({"waveforms": torch.zeros(SAMPLES), "spans": [(0.5, 0.8)]}, "silent"),
        ({"waveforms": torch.full((SAMPLES,), float("nan")), "spans": [(0.5, 0.8)]}, "finite"),
        ({"sampling_rate": 0, "spans": [(0.5, 0.8)]}, "`sampling_rate`"),
        ({"audio_length_in_s": 31}, "generate_long"),
    ],
)
def test_bad_input_to_inpaint_is_named(pipe, arguments, message):
    given = {"waveforms": noise(1, SAMPLES), "sampling_rate": RATE} | arguments
    with pytest.raises((ValueError, TypeError), match=message):
        inpaint(pipe, PROMPT, **given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pipe: KnownRegion(torch.zeros(2, 2), torch.ones(2)), "`latents`"),
        (lambda pipe: KnownRegion(torch.zeros(1, 8, 32, 16), torch.zeros(32)), "zero everywhere"),
        (lambda pipe: KnownRegion(torch.zeros(1, 8, 32, 16), torch.full((32,), 2.0)), "goes up to 2"),
        (lambda pipe: KnownRegion(torch.zeros(1, 8, 32, 16), torch.ones(5)), "`mask`"),
        (
            lambda pipe: pipe(PROMPT, callback_on_step_end=KnownRegion(torch.zeros(1, 8, 31, 16), torch.ones(31))),
            "those of the call",
        ),
        (lambda pipe: generate_long(pipe, PROMPT, -1), "`audio_length_in_s`"),
        (lambda pipe: generate_long(pipe, PROMPT, 5, overlap_in_s=1), "`overlap_in_s`"),
        (lambda pipe: generate_long(pipe, [], 5, overlap_in_s=0.4), "`prompt`"),
        (lambda pipe: generate_long(pipe, [PROMPT] * 3, 2, overlap_in_s=0.4), "longer than 2.16 s"),
    ],
)
def test_bad_regions_and_lengths_are_named(pipe, make, message):
    with pytest.raises(ValueError, match=message):
        make(pipe)


def test_callbacks_run_in_order(pipe):
    z_0 = torch.zeros(1, 8, 32, 16)
    callbacks = [LossGuidance(lambda sound: sound.mel.square().mean(dim=(1, 2))), KnownRegion(z_0, torch.ones(32))]
    result = pipe(PROMPT, output_type="latent", callback_on_step_end=MultiPipelineCallbacks(callbacks)).audios
    assert result.abs().max() < 6 * pipe.scheduler.config.sigma_min  # the replacement acts last
