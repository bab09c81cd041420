"""Guidance lowers its objective for each waveform and with every kind of sampling, and rejects unusable input."""

import gc

import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks

from diffusers_soundctm.control import IntensityObjective, KnownRegion, LossGuidance, MelMatchObjective
from diffusers_soundctm.control.guidance import normalized_step
from diffusers_soundctm.control.sound import Sound
from diffusers_soundctm.preconditioning import c_in, c_out, c_skip


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("embedded")


def noise(pipe, batch=1):
    samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
    return torch.randn(batch, *pipe.latent_shape(samples), generator=torch.Generator().manual_seed(0))


def final(pipe, batch=1, **kwargs):
    kwargs = {"num_inference_steps": 4, "output_type": "latent", "latents": noise(pipe, batch)} | kwargs
    prompt = kwargs.pop("prompt", ["rain"] * batch)
    return pipe(prompt, **kwargs).audios


def target(value):
    """Mean log-mel of each half of the sound: cheap, smooth, and 0 when it is met."""

    def objective(sound):
        return (sound.mel.mean(dim=(1, 2)) - torch.as_tensor(value)).square()

    return objective


def loss_of(pipe, objective, latents):
    with torch.no_grad():
        return objective(Sound.of_latents(pipe, latents))


@pytest.fixture
def gaussian(pipe, monkeypatch):
    """A pipeline whose student is exact for latents N(0, σ_data²): G(z, t, s) = z·c_in(t)/c_in(s)."""
    kind = pipe.scheduler.config.prediction_type, pipe.scheduler.config.sigma_data

    def predict(model_input, timestep, target_sigma, *condition):
        sigma = (4 * timestep).exp()
        ratio = target_sigma / sigma
        denoised = (c_in(sigma, *kind) / c_in(target_sigma, *kind) - ratio) / (1 - ratio)
        return (denoised - c_skip(sigma, *kind)) / c_out(sigma, *kind) * model_input / c_in(sigma, *kind)

    monkeypatch.setattr(pipe, "predict", predict)
    return pipe


@pytest.mark.parametrize("steps", [1, 4])
def test_each_step_goes_exactly_as_far_as_promised_if_latents_are_gaussian(gaussian, steps):
    def level(sound):
        return sound.latents.mean(dim=(1, 2, 3))

    goal = loss_of(gaussian, level, final(gaussian, num_inference_steps=steps)) + 0.02

    def distance(sound):
        return (level(sound) - goal).abs()

    def reached(objective):
        guidance = LossGuidance(objective)
        guided = final(gaussian, num_inference_steps=steps, callback_on_step_end=guidance)
        return torch.cat([*guidance.losses, loss_of(gaussian, objective, guided)])

    expected = torch.zeros(steps + 1)
    expected[0] = 0.02
    torch.testing.assert_close(reached(distance), expected, rtol=1e-3, atol=1e-5)
    # The step that brings a linear loss to 0 halves the distance whose square is the loss.
    expected = 0.02**2 * 0.25 ** torch.arange(steps + 1)
    torch.testing.assert_close(reached(lambda sound: distance(sound).square()), expected, rtol=0.01, atol=0)


def test_every_family_is_guided(family_pipe):
    pipe = family_pipe
    objective = target(loss_of(pipe, lambda sound: sound.mel.mean(dim=(1, 2)), final(pipe)).item() + 0.05)
    # With random networks, a step achieves less.
    guidance = LossGuidance(objective, scale=2, inner_steps=3)
    before, after = (loss_of(pipe, objective, final(pipe, callback_on_step_end=c)) for c in (None, guidance))
    assert after < 0.1 * before
    assert len(guidance.losses) == 4 and guidance.num_skipped == 0


@pytest.mark.parametrize(
    "options",
    [{"nu": 1.5}, {"gamma": 0.5, "generator": torch.Generator().manual_seed(0)}, {"num_inference_steps": 1}],
    ids=["nu", "gamma", "one step"],
)
def test_every_way_of_sampling_is_guided(pipe, options):
    def run(callback):
        if "generator" in options:
            options["generator"].manual_seed(0)
        return final(pipe, callback_on_step_end=callback, **options)

    objective = target(loss_of(pipe, lambda sound: sound.mel.mean(dim=(1, 2)), run(None)).item() + 0.05)
    assert loss_of(pipe, objective, run(LossGuidance(objective))) < loss_of(pipe, objective, run(None))


def test_each_sample_goes_to_its_own_target_as_it_would_alone(pipe):
    plain = loss_of(pipe, lambda sound: sound.mel.mean(dim=(1, 2)), final(pipe, 2))
    goals = plain + torch.tensor([0.05, -0.05])
    both = final(pipe, 2, callback_on_step_end=LossGuidance(target(goals), scale=2, inner_steps=3))
    reached = loss_of(pipe, lambda sound: sound.mel.mean(dim=(1, 2)), both)
    assert (reached - goals).abs().max() < 0.02
    guidance = LossGuidance(target(goals[1:]), scale=2, inner_steps=3)
    alone = final(pipe, latents=noise(pipe, 2)[1:], callback_on_step_end=guidance)
    torch.testing.assert_close(alone[0], both[1], rtol=1e-3, atol=1e-3)


def test_waveforms_of_one_prompt_share_its_target(pipe):
    guidance = LossGuidance(IntensityObjective(torch.tensor([[-20.0, -20.0], [-60.0, -60.0]])))
    latents = final(
        pipe, 4, prompt=["rain", "a dog barks"], num_waveforms_per_prompt=2, callback_on_step_end=guidance,
        num_inference_steps=2,
    )  # fmt: skip
    assert latents.isfinite().all() and guidance.losses[0].shape == (4,)


def test_levels_outside_start_and_stop_are_left_alone(pipe):
    guidance = LossGuidance(target(3.0), start_sigma=50.0, stop_sigma=0.1)
    final(pipe, callback_on_step_end=guidance)
    inside = sum(0.1 <= sigma <= 50 for sigma in pipe.scheduler.sigmas[:-1].tolist())
    assert len(guidance.losses) == inside < 4
    nowhere = LossGuidance(target(3.0), start_sigma=1e-3)
    torch.testing.assert_close(final(pipe, callback_on_step_end=nowhere), final(pipe), rtol=0, atol=0)


def test_inner_steps_go_further(pipe):
    objective = target(loss_of(pipe, lambda sound: sound.mel.mean(dim=(1, 2)), final(pipe)).item() + 0.5)
    once, thrice = (
        loss_of(pipe, objective, final(pipe, callback_on_step_end=LossGuidance(objective, scale=0.05, inner_steps=n)))
        for n in (1, 3)
    )
    assert thrice < once


def test_checkpointing_changes_nothing_but_memory(pipe):
    with_it, without = (
        final(pipe, callback_on_step_end=LossGuidance(target(-3.0), checkpointing=on), num_inference_steps=2)
        for on in (True, False)
    )
    torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-4)


def test_step_is_no_longer_than_allowed_and_no_longer_than_needed():
    gradient = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [0.0, 0.0], [float("nan"), 1.0]])
    loss = torch.tensor([1.0, 1e6, -1.0, 1.0, 1.0])
    step, skipped = normalized_step(loss, gradient, largest=2.0)
    assert (step[0] * gradient[0]).sum().item() == pytest.approx(1)  # brings a linear loss to 0
    for i in (1, 2):
        assert step[i].square().mean().sqrt().item() == pytest.approx(2)
    assert step[3:].abs().sum() == 0 and skipped == 1


@pytest.mark.parametrize("steps", [1, 4])
def test_largest_step_has_the_size_of_the_sample_it_is_made_at(pipe, steps):
    sizes = []

    class Measure(LossGuidance):
        def callback_fn(self, pipeline, step, timestep, tensors):
            before = tensors["latents"]
            tensors = super().callback_fn(pipeline, step, timestep, tensors)
            sizes.append((tensors["latents"] - before).square().mean().sqrt())
            return tensors

    final(pipe, callback_on_step_end=Measure(target(1e6), scale=0.1), num_inference_steps=steps)
    sigmas, sigma_data = pipe.scheduler.sigmas, pipe.scheduler.config.sigma_data
    size = (sigmas.square() + sigma_data**2).sqrt()
    torch.testing.assert_close(torch.stack(sizes), -0.1 * sigmas.diff() * size[1:] / size[:-1])


def test_scale_may_follow_the_noise_level(pipe):
    seen = []

    def scale(sigma):
        seen.append(sigma)
        return 0.1

    final(pipe, callback_on_step_end=LossGuidance(target(3.0), scale=scale), num_inference_steps=3)
    torch.testing.assert_close(torch.tensor(seen), pipe.scheduler.sigmas[:-1])


def test_bfloat16_network_gets_a_float32_gradient(tiny_pipeline):
    pipe = tiny_pipeline("embedded").to(torch.bfloat16)
    guidance = LossGuidance(target(-3.0))
    latents = final(pipe, callback_on_step_end=guidance, num_inference_steps=2)
    assert latents.dtype == torch.float32 and latents.isfinite().all() and guidance.losses[0].dtype == torch.float32
    assert not torch.equal(latents, final(pipe, num_inference_steps=2))


def test_gradient_that_is_nan_at_one_level_is_skipped_and_counted(pipe, caplog):
    calls = []

    def sometimes_nan(sound):
        calls.append(1)
        loss = target(-3.0)(sound)
        return loss * float("nan") if len(calls) == 2 else loss

    guidance = LossGuidance(sometimes_nan)
    assert final(pipe, callback_on_step_end=guidance).isfinite().all()
    assert guidance.num_skipped == 1
    final(pipe, callback_on_step_end=guidance)
    assert guidance.num_skipped == 0  # counted per call


def test_several_at_once_and_weights_come_back(pipe):
    quiet, alike = target(-4.0), MelMatchObjective((0.1 * torch.randn(16000), 16000), band=(0, 2000))
    callbacks = MultiPipelineCallbacks([LossGuidance(quiet), LossGuidance(alike)])
    both = final(pipe, callback_on_step_end=callbacks, num_inference_steps=2)
    assert not torch.equal(both, final(pipe, callback_on_step_end=LossGuidance(quiet), num_inference_steps=2))
    assert all(weight.requires_grad for weight in pipe.denoiser.parameters())


def test_an_objective_may_call_the_pipeline(pipe):
    plain = target(-6.0)

    def nested(sound):
        final(pipe, prompt="wind", num_inference_steps=2, guidance_scale=1.0, gamma=0.5)
        return plain(sound)

    expected, result = (
        final(pipe, nu=1.5, guidance_scale=2.0, callback_on_step_end=LossGuidance(objective))
        for objective in (plain, nested)
    )
    assert torch.equal(result, expected)


def test_fifty_calls_leave_nothing_behind(pipe):
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    guidance = LossGuidance(IntensityObjective([-40, -15], "waveform"))
    z_0 = torch.zeros(1, *pipe.latent_shape(3200))
    callbacks = MultiPipelineCallbacks([guidance, KnownRegion(z_0, torch.ones(z_0.shape[2]))])
    counts = []
    for _ in range(50):
        pipe("rain", audio_length_in_s=0.2, output_type="latent", callback_on_step_end=callbacks)
        counts.append(tensors() if len(counts) in (4, 49) else None)
    assert counts[4] == counts[49]


def test_the_end_that_is_cut_off_is_not_looked_at(pipe):
    frames = []

    def look(sound):
        frames.append((sound.mel.shape[1], sound.waveform.shape[1]))
        return sound.mel.square().mean(dim=(1, 2))

    pipe("rain", audio_length_in_s=0.99, output_type="latent", callback_on_step_end=LossGuidance(look))
    assert frames == [(99, 15840)]


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda sound: sound.mel.mean(dim=(1, 2)) * float("nan"), "finite"),
        (lambda sound: sound.mel.mean(), "one number per waveform"),
        (lambda sound: sound.mel.mean(dim=(1, 2)).detach(), "no gradient"),
        (lambda sound: torch.ones(len(sound.mel), requires_grad=True), "no gradient"),
        (lambda sound: 0.5, "float"),
        (IntensityObjective({0: -20, 40: -30}), "40 s"),
        (IntensityObjective(torch.full((3, 2), -20.0)), "3 rows"),
    ],
)
def test_unusable_objectives_are_named(pipe, objective, message):
    with pytest.raises((ValueError, TypeError), match=message):
        final(pipe, callback_on_step_end=LossGuidance(objective))


def test_a_scale_that_points_away_from_the_goal_is_named(pipe):
    with pytest.raises(ValueError, match="`scale` returned -1"):
        final(pipe, callback_on_step_end=LossGuidance(target(0.0), scale=lambda sigma: -1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "louder"}, "`objective`"),
        ({"scale": 0}, "`scale`"),
        ({"scale": float("nan")}, "`scale`"),
        ({"inner_steps": 0}, "`inner_steps`"),
        ({"start_sigma": 1, "stop_sigma": 2}, "`stop_sigma`"),
    ],
)
def test_bad_arguments_are_named_at_once(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        LossGuidance(**({"objective": target(0.0)} | arguments))


def test_inference_mode_is_refused_with_the_remedy(pipe):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        final(pipe, callback_on_step_end=LossGuidance(target(0.0)))
