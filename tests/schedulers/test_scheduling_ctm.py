"""CTMScheduler: the sampler of the paper, and diffusers' scheduler contract."""

import logging
import math

import diffusers
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from transformers import AutoTokenizer, T5EncoderModel

import golden
from diffusers_soundctm import CTMScheduler
from diffusers_soundctm.preconditioning import FLOW_TYPES, PREDICTION_TYPES
from diffusers_soundctm.schedulers import scheduling_ctm

GAMMA = {"determinisitc": 0.0, "onestep": 0.0, "cm_multistep": 1.0}  # spelled as in the official code


def scheduler_of(prediction_type: str, **kwargs) -> CTMScheduler:
    """A scheduler with its default noise levels, or σ from 0.01 to 100 for a flow teacher, which has no default."""
    ends = {"sigma_min": 0.01, "sigma_max": 100.0} if prediction_type in FLOW_TYPES else {}
    return CTMScheduler(prediction_type=prediction_type, **ends, **kwargs)


def noise_like_sample(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 4, 8, 4, generator=torch.Generator().manual_seed(seed))


def run_chain(scheduler: CTMScheduler, generator=None, start: int = 0, sample: torch.Tensor | None = None):
    """Run the sampler with a fixed nonlinear function in place of the network."""
    sample = scheduler.init_noise_sigma * noise_like_sample() if sample is None else sample
    for timestep in scheduler.timesteps[start:]:
        output = torch.tanh(scheduler.scale_model_input(sample, timestep)) + timestep.cos()
        sample = scheduler.step(output, timestep, sample, generator=generator).prev_sample
    return sample


class TestGolden:
    @pytest.fixture(scope="class")
    def encode(self):
        tokenizer = AutoTokenizer.from_pretrained(golden.FOLDER / "tiny-t5")
        encoder = T5EncoderModel.from_pretrained(golden.FOLDER / "tiny-t5").eval()

        def encode(prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
            tokens = tokenizer(prompts, padding=True, return_tensors="pt")
            return encoder(**tokens).last_hidden_state, tokens.attention_mask.bool()

        return encode

    @torch.no_grad()
    def test_whole_chains_match_the_reference(self, encode, monkeypatch):
        tensors, cases = golden.read("samplers.safetensors"), golden.read("samplers.json")["cases"]
        for case in cases:
            scheduler = CTMScheduler(case["sigma_min"], case["sigma_max"], sigma_data=0.25)
            steps, sigmas = case["steps"] if case["sampler"] != "onestep" else 1, None
            if "ts" in case:
                low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
                steps, sigmas = None, [(high + i / (steps - 1) * (low - high)) ** 7 for i in case["ts"]]
            scheduler.set_timesteps(steps, gamma=GAMMA.get(case["sampler"], case.get("gamma")), sigmas=sigmas)
            draws = iter(tensors[case["noise"]] if "noise" in case else [])
            monkeypatch.setattr(scheduling_ctm, "randn_tensor", lambda *_, draws=draws, **__: next(draws))

            states, mask = encode(case["cond_order"])
            sample = tensors[case["x_T"]]
            for timestep, target in zip(scheduler.timesteps, scheduler.target_sigmas, strict=True):
                condition = [target] if "omega" not in case else [target, torch.tensor(case["omega"])]
                output = golden.student()(
                    scheduler.scale_model_input(sample, timestep).repeat(2, 1, 1, 1),
                    timestep,
                    states,
                    encoder_attention_mask=mask,
                    timestep_cond=torch.stack(condition).expand(len(states), -1),
                ).sample
                conditional, unconditional = output.chunk(2)
                output = unconditional + case["nu"] * (conditional - unconditional)
                sample = scheduler.step(output, timestep, sample).prev_sample

            expected = tensors[f"{case['id']}.x0"]
            error = ((sample - expected).abs().max() / expected.abs().max()).item()
            assert error < 1e-5, f"{case['id']}: relative error {error:.1e}"


class TestSchedule:
    @pytest.mark.parametrize("steps", [1, 2, 16])
    def test_deterministic_run_lands_on_the_next_level(self, steps):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(steps)
        assert len(scheduler.sigmas) == steps + 1 and len(scheduler.timesteps) == steps
        assert torch.equal(scheduler.target_sigmas, scheduler.sigmas[1:])
        assert scheduler.init_noise_sigma == 80 and scheduler.sigmas[-1] == torch.tensor(0.002)
        torch.testing.assert_close(scheduler.timesteps, scheduler.sigmas[:-1].log() / 4)

    def test_gamma_one_always_targets_sigma_min_exactly(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(4, gamma=1.0)
        assert torch.equal(scheduler.target_sigmas, torch.full((4,), 0.002))

    @pytest.mark.parametrize("gamma", [0.3, 0.9, 1.0])
    def test_added_noise_restores_the_next_level(self, gamma):
        scheduler = CTMScheduler(sigma_min=0.5, sigma_max=10.0)
        scheduler.set_timesteps(2, gamma=gamma)
        sample = torch.zeros(1, 1, 400, 400)
        # If g is 0, only the noise of the first step remains.
        after = scheduler.step(sample, scheduler.timesteps[0], sample, generator=torch.Generator().manual_seed(0))
        expected = math.sqrt(scheduler.sigmas[1] ** 2 - scheduler.target_sigmas[0] ** 2)
        assert after.prev_sample.std().item() == pytest.approx(expected, rel=0.01)
        assert scheduler.target_sigmas[0].item() == pytest.approx(
            math.sqrt(1 - gamma**2) * (scheduler.sigmas[1].item() - 0.5) + 0.5
        )
        last = scheduler.step(sample, scheduler.timesteps[1], sample).prev_sample
        assert torch.equal(last, sample)

    def test_custom_sigmas(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(sigmas=[50.0, 3.0, 0.01])
        assert scheduler.num_inference_steps == 2 and scheduler.init_noise_sigma == 50
        assert torch.equal(scheduler.sigmas, torch.tensor([50.0, 3.0, 0.01]))

    @pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
    def test_vp_range_and_conditioning_come_from_the_teachers_table(self, prediction_type):
        scheduler = CTMScheduler(prediction_type=prediction_type)
        alphas = EulerDiscreteScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear"
        ).alphas_cumprod
        ends = ((1 - alphas[[0, -1]]) / alphas[[0, -1]]).sqrt().tolist()
        assert [scheduler.config.sigma_min, scheduler.config.sigma_max] == pytest.approx(ends, rel=1e-4)
        scheduler.set_timesteps(8)
        assert scheduler.timesteps[0].item() == pytest.approx(999, abs=0.01)
        assert ((scheduler.timesteps >= 0) & (scheduler.timesteps <= 999)).all()

    @pytest.mark.parametrize("prediction_type", ["flow", "inverted_flow"])
    def test_flow_levels_and_inputs(self, prediction_type):
        scheduler = CTMScheduler(sigma_min=0.01, sigma_max=100.0, prediction_type=prediction_type)
        assert scheduler.log_sigmas is None
        scheduler = CTMScheduler.from_config(scheduler.config)
        scheduler.set_timesteps(8)
        assert scheduler.sigmas[[0, -1]].tolist() == pytest.approx([100, 0.01])
        shares = scheduler.sigmas[:-1] / (1 + scheduler.sigmas[:-1])
        torch.testing.assert_close(scheduler.timesteps, shares if prediction_type == "flow" else 1 - shares)
        clean, noise = torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(0))
        noisy = scheduler.add_noise(clean, noise, scheduler.timesteps)
        mixed = torch.lerp(clean, noise, shares[:, None, None])
        torch.testing.assert_close(scheduler.scale_model_input(noisy, scheduler.timesteps), mixed, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"num_inference_steps": 0}, "num_inference_steps"),
            ({"num_inference_steps": 2.5}, "num_inference_steps"),
            ({}, "num_inference_steps"),
            ({"num_inference_steps": 4, "gamma": 1.1}, "gamma"),
            ({"num_inference_steps": 4, "gamma": -0.1}, "gamma"),
            ({"num_inference_steps": 4, "gamma": math.nan}, "gamma"),
            ({"sigmas": [1.0, 2.0]}, "decreasing"),
            ({"sigmas": [2.0, 2.0, 1.0]}, "decreasing"),
            ({"sigmas": [80.0, math.nan, 1.0]}, "decreasing"),
            ({"sigmas": [80.0]}, "two or more"),
            ({"sigmas": [80.0, 0.0]}, "sigma_min"),
            ({"sigmas": [500.0, 1.0]}, "sigma_max"),
            ({"num_inference_steps": 3, "sigmas": [80.0, 1.0]}, "num_inference_steps"),
        ],
    )
    def test_bad_schedules_are_named_and_change_nothing(self, arguments, named):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(4)
        with pytest.raises(ValueError, match=named):
            scheduler.set_timesteps(**arguments)
        assert scheduler.num_inference_steps == 4

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ({"sigma_min": 0.0}, "sigma_min"),
            ({"sigma_min": 5.0, "sigma_max": 1.0}, "sigma_min"),
            ({"sigma_max": math.nan}, "sigma_max"),
            ({"sigma_data": 0.0}, "sigma_data"),
            ({"rho": math.nan}, "rho"),
            ({"prediction_type": "score"}, "prediction_type"),
            ({"prediction_type": "flow"}, "'flow' has no table.*`sigma_max`"),
            ({"prediction_type": "flow", "sigma_min": 0.01, "sigma_max": math.inf}, "sigma_max"),
            ({"prediction_type": "epsilon", "sigma_min": 0.002}, "teacher's noise levels"),
        ],
    )
    def test_bad_configurations_are_named(self, arguments, named):
        with pytest.raises(ValueError, match=named):
            CTMScheduler(**arguments)


class TestJump:
    @pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
    def test_levels_differ_per_sample(self, prediction_type):
        scheduler = scheduler_of(prediction_type)
        output, sample = noise_like_sample(3, seed=1), noise_like_sample(3)
        sigma, target = torch.tensor([60.0, 1.0, 0.1]), torch.tensor([1.0, 1.0, 0.05])
        together = scheduler.jump(output, sample, sigma, target)
        for i in range(3):
            alone = scheduler.jump(output[i : i + 1], sample[i : i + 1], sigma[i], target[i])
            torch.testing.assert_close(together[i : i + 1], alone)
        assert torch.equal(together[1], sample[1])

    def test_step_is_a_jump_between_scheduled_levels(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(3)
        output, sample = noise_like_sample(seed=1), noise_like_sample()
        result = scheduler.step(output, scheduler.timesteps[1], sample)
        sigma, target = scheduler.sigmas[1:3]
        assert torch.equal(result.prev_sample, scheduler.jump(output, sample, sigma, target))
        assert torch.equal(result.pred_original_sample, scheduler.denoised(output, sample, sigma))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_output_keeps_a_float32_sample(self, dtype):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(4)
        output, sample = noise_like_sample(seed=1).to(dtype), 80 * noise_like_sample()
        result = scheduler.step(output, scheduler.timesteps[0], sample).prev_sample
        assert result.dtype == torch.float32
        assert torch.equal(result, scheduler.jump(output.float(), sample, *scheduler.sigmas[:2]))
        assert scheduler.step(output, scheduler.timesteps[1], sample.to(dtype)).prev_sample.dtype == dtype


class TestRunsThatShareAScheduler:
    def test_a_schedule_is_what_set_timesteps_keeps(self):
        scheduler = CTMScheduler()
        schedule = scheduler.make_schedule(4, gamma=0.5)
        assert scheduler.num_inference_steps == 1  # as constructed
        scheduler.set_timesteps(4, gamma=0.5)
        for name in ("sigmas", "target_sigmas", "timesteps"):
            assert torch.equal(getattr(schedule, name), getattr(scheduler, name))
        assert (schedule.gamma, schedule.init_noise_sigma, len(schedule)) == (0.5, 80, 4)
        restored = schedule.target_sigmas.square() + schedule.noise_sigmas.square()
        torch.testing.assert_close(restored[:-1].sqrt(), schedule.sigmas[1:-1])
        assert schedule.noise_sigmas[-1] == 0

    def test_interleaved_runs_are_those_of_their_own_schedules(self):
        scheduler = CTMScheduler()
        samples = {seed: 80 * noise_like_sample(seed=seed) for seed in (1, 2)}
        alone = {}
        for (seed, sample), gamma in zip(samples.items(), (0.0, 0.7), strict=True):
            scheduler.set_timesteps(4, gamma=gamma)
            alone[seed] = run_chain(scheduler, torch.Generator().manual_seed(seed), sample=sample)

        schedules = {1: scheduler.make_schedule(4), 2: scheduler.make_schedule(4, gamma=0.7)}
        generators = {seed: torch.Generator().manual_seed(seed) for seed in samples}
        for i in range(4):
            for seed, schedule in schedules.items():
                timestep = schedule.timesteps[i]
                output = torch.tanh(scheduler.scale_model_input(samples[seed], timestep)) + timestep.cos()
                samples[seed] = scheduler.step_at(schedule, i, output, samples[seed], generators[seed]).prev_sample
        assert all(torch.equal(samples[seed], alone[seed]) for seed in samples)
        assert scheduler.step_index == 4  # of the previous run


class TestNoise:
    def test_each_sample_of_a_batch_is_reproducible_alone(self):
        scheduler = CTMScheduler()

        def run(seeds, sample):
            scheduler.set_timesteps(4, gamma=0.5)
            return run_chain(scheduler, [torch.Generator().manual_seed(seed) for seed in seeds], sample=sample)

        sample = 80 * noise_like_sample()
        torch.testing.assert_close(run([7, 8], sample)[1:], run([8], sample[1:]))

    def test_one_generator_repeats(self):
        scheduler = CTMScheduler()
        results = []
        for seed in (0, 0, 1):
            scheduler.set_timesteps(4, gamma=1.0)
            results.append(run_chain(scheduler, torch.Generator().manual_seed(seed)))
        assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])

    def test_deterministic_run_draws_nothing(self):
        scheduler, generator = CTMScheduler(), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(4)
        before = generator.get_state()
        run_chain(scheduler, generator)
        assert torch.equal(before, generator.get_state())

    @pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
    def test_add_noise_reaches_the_level_of_each_timestep(self, prediction_type):
        scheduler = scheduler_of(prediction_type)
        scheduler.set_timesteps(5)
        clean, noise = noise_like_sample(), noise_like_sample(seed=1)
        noisy = scheduler.add_noise(clean, noise, scheduler.timesteps[[1, 4]])
        expected = clean + scheduler.sigmas[[1, 4]].reshape(-1, 1, 1, 1) * noise
        torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-5)


class TestContract:
    """The requirements of diffusers' common scheduler tests."""

    @pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
    def test_save_and_load_give_the_same_scheduler(self, prediction_type, tmp_path):
        scheduler = scheduler_of(prediction_type, rho=5.0, beta_schedule="linear")
        scheduler.save_pretrained(tmp_path)
        loaded = CTMScheduler.from_pretrained(tmp_path)
        assert {k: v for k, v in loaded.config.items() if k[0] != "_"} == {
            k: v for k, v in scheduler.config.items() if k[0] != "_"
        }
        for each in (scheduler, loaded):
            each.set_timesteps(6, gamma=0.4)
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        assert torch.equal(run_chain(scheduler, generators[0]), run_chain(loaded, generators[1]))

    def test_trained_betas_survive_saving(self, tmp_path):
        scheduler = CTMScheduler(prediction_type="epsilon", trained_betas=[0.1, 0.2, 0.3])
        scheduler.save_pretrained(tmp_path)
        assert torch.equal(CTMScheduler.from_pretrained(tmp_path).timesteps, scheduler.timesteps)

    def test_converts_to_and_from_another_scheduler(self):
        teacher = EulerDiscreteScheduler(
            beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", prediction_type="epsilon"
        )
        scheduler = CTMScheduler.from_config(teacher.config)
        assert scheduler.config.prediction_type == "epsilon" and scheduler.config.sigma_max > 80
        back = EulerDiscreteScheduler.from_config(CTMScheduler.from_config(teacher.config, rho=3.0).config)
        assert torch.equal(back.alphas_cumprod, teacher.alphas_cumprod)
        assert CTMScheduler.from_config(back.config).config.rho == 3.0

    @pytest.mark.parametrize("from_file", [False, True])
    @pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"])
    def test_defaults_of_another_scheduler_are_its_values(self, kind, from_file, tmp_path, caplog):
        logging.getLogger("diffusers").propagate = True
        teacher = getattr(diffusers, kind)()
        teacher.save_pretrained(tmp_path)
        scheduler = CTMScheduler.from_pretrained(tmp_path) if from_file else CTMScheduler.from_config(teacher.config)
        assert scheduler.config.prediction_type == "epsilon" and scheduler.config.beta_schedule == "linear"
        alphas = teacher.alphas_cumprod.double()
        assert scheduler.config.sigma_max == pytest.approx(((1 - alphas[-1]) / alphas[-1]).sqrt().item(), rel=1e-3)
        assert "not expected" not in caplog.text

    def test_values_that_a_file_leaves_out_are_those_of_its_class(self):
        scheduler = CTMScheduler.from_config({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"})
        assert (scheduler.config.prediction_type, scheduler.config.beta_end) == ("epsilon", 0.02)

    def test_edm_and_stable_audio_schedulers_keep_their_noise_levels(self):
        edm = CTMScheduler.from_config(diffusers.EDMEulerScheduler(sigma_max=50.0, sigma_data=0.3).config)
        config = edm.config
        assert (config.prediction_type, config.sigma_max, config.sigma_data) == ("edm", 50.0, 0.3)
        stable_audio = {"prediction_type": "v_prediction", "sigma_min": 0.3, "sigma_max": 500, "sigma_data": 1.0}
        continuous = CTMScheduler.from_config(stable_audio | {"_class_name": "CosineDPMSolverMultistepScheduler"})
        assert continuous.config.prediction_type == "v_prediction" and continuous.config.beta_schedule is None

    def test_schedulers_that_have_no_equal_are_refused(self):
        with pytest.raises(ValueError, match="`rescale_betas_zero_snr`"):
            CTMScheduler.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
        with pytest.raises(ValueError, match="`prediction_type` is 'flow_prediction'"):
            CTMScheduler.from_config(diffusers.DPMSolverMultistepScheduler(prediction_type="flow_prediction").config)

    def test_no_other_scheduler_is_called_compatible(self):
        assert CTMScheduler().compatibles == []

    def test_a_new_scheduler_is_ready_for_one_step(self):
        scheduler, sample = CTMScheduler(), noise_like_sample()
        assert scheduler.scale_model_input(sample, 0.0).shape == sample.shape
        assert scheduler.step(sample, scheduler.timesteps[0], sample).prev_sample.shape == sample.shape

    def test_scaled_input_matches_c_in_of_the_level(self):
        scheduler, sample = CTMScheduler(sigma_data=0.25), noise_like_sample()
        scheduler.set_timesteps(4)
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
            expected = sample / math.sqrt(sigma**2 + 0.25**2)
            torch.testing.assert_close(scheduler.scale_model_input(sample, timestep), expected, rtol=1e-5, atol=1e-8)
        assert scheduler.scale_model_input(sample.bfloat16(), scheduler.timesteps[0]).dtype == torch.bfloat16

    def test_tuple_and_output_agree(self):
        sample = noise_like_sample()
        scheduler = CTMScheduler()
        output = scheduler.step(sample, scheduler.timesteps[0], sample)
        scheduler.set_timesteps(1)
        as_tuple = scheduler.step(sample, scheduler.timesteps[0], sample, return_dict=False)
        assert torch.equal(output.prev_sample, as_tuple[0]) and torch.equal(output[1], as_tuple[1])

    def test_step_and_begin_index(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(4)
        assert scheduler.step_index is None and scheduler.begin_index is None
        run_chain(scheduler, start=2)
        assert scheduler.step_index == 4
        with pytest.raises(ValueError, match="set_timesteps"):
            run_chain(scheduler)

        scheduler.set_timesteps(4)
        looked_up = run_chain(scheduler, start=2)
        scheduler.set_timesteps(4)
        scheduler.set_begin_index(2)
        assert scheduler.begin_index == 2
        assert torch.equal(run_chain(scheduler, start=2), looked_up)

    def test_every_timestep_is_found_and_others_are_refused(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(40)
        for i, timestep in enumerate(scheduler.timesteps):
            assert scheduler.index_for_timestep(timestep) == scheduler.index_for_timestep(timestep.item()) == i
        with pytest.raises(ValueError, match="timestep"):
            scheduler.step(noise_like_sample(), 123.0, noise_like_sample())

    def test_tables_live_on_the_asked_device(self):
        scheduler = CTMScheduler()
        scheduler.set_timesteps(4, device="meta")
        assert {t.device.type for t in (scheduler.sigmas, scheduler.target_sigmas, scheduler.timesteps)} == {"meta"}
