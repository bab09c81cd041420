"""Noise levels and jumps of SoundCTM sampling, as a diffusers scheduler."""

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .. import preconditioning

_EDM_RANGE = (0.002, 80.0)


@dataclass
class CTMSchedulerOutput(BaseOutput):
    """The result of one step.

    Args:
        prev_sample: (B, ...), the sample at the next noise level, which is the input of the next step.
        pred_original_sample: (B, ...), g, the estimate of z_0.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


@dataclass(frozen=True)
class CTMSchedule:
    """The noise levels of one sampling run of n steps. All tensors are float32 and on one device.

    Args:
        sigmas: (n + 1,), the noise levels σ_i, decreasing.
        target_sigmas: (n,), s_i = √(1 − γ²)·(σ_{i+1} − σ_min) + σ_min, where jump i lands.
        noise_sigmas: (n,), √(σ_{i+1}² − s_i²), the standard deviation of the noise that leads from s_i to σ_{i+1}. The
            last step adds none.
        timesteps: (n,), c_noise(σ_i), the `timestep` that the network is given.
        gamma: γ in [0, 1].
        init_noise_sigma: σ_0 as a number.
    """

    sigmas: torch.Tensor
    target_sigmas: torch.Tensor
    noise_sigmas: torch.Tensor
    timesteps: torch.Tensor
    gamma: float
    init_noise_sigma: float

    def __len__(self) -> int:
        """Number of steps n."""
        return len(self.timesteps)


class CTMScheduler(SchedulerMixin, ConfigMixin):
    """Sampler of a consistency trajectory model: n jumps down n + 1 Karras noise levels, with stochasticity γ.

    Step i takes z from t = σ_i to s_i = √(1 − γ²)·(σ_{i+1} − σ_min) + σ_min. All steps but the last then add noise up
    to σ_{i+1}:

        z ← G(z, t, s_i) + √(σ_{i+1}² − s_i²)·ε

    γ = 0 is deterministic (s_i = σ_{i+1}, no noise): the same starting noise gives the same sound in any number of
    steps. γ = 1 is the sampler of consistency models (s_i = σ_min).

    `set_timesteps` and `step` keep the state of a run on the scheduler, as diffusers' pipelines expect.
    `make_schedule` and `step_at` do the same without state, for runs that share a scheduler.

    All arithmetic is in float32, whatever the dtype of network and sample, see `preconditioning`.

    Args:
        sigma_min: Lowest noise level. None means 0.002 with "edm", else the lower end of the teacher's table.
        sigma_max: Highest noise level. None means 80 with "edm", else the upper end of the teacher's table. A flow
            teacher has no table: pass both. Its own highest level, time 1, is σ = ∞; at a finite `sigma_max`, the
            share of the latents in the noise is 1/`sigma_max`.
        sigma_data: Standard deviation of clean latents. Only "edm" uses it.
        rho: Curvature ρ of the Karras noise levels.
        prediction_type: What the network's output F is: "edm", or "epsilon", "v_prediction" or "sample" of a
            variance-preserving teacher, or "flow" or "inverted_flow" of a flow-matching one, see `preconditioning`.
        num_train_timesteps: Number of steps T of the variance-preserving teacher's noise schedule, see
            `preconditioning.vp_log_sigmas`. Other teachers do not use it, nor the following four.
        beta_start: First β of that schedule.
        beta_end: Last β of that schedule.
        beta_schedule: Form of that schedule. None means that the teacher was trained on continuous noise levels
            (Stable Audio), which requires `sigma_min` and `sigma_max`.
        trained_betas: All T values of β, in place of a `beta_schedule`.

    Raises:
        ValueError: The range of noise levels is empty, not positive or beyond the teacher's table, or the prediction
            type is unknown.
    """

    __module__ = "diffusers_soundctm"
    config: Any  # diffusers gives it no useful type
    _compatibles = []  # noqa: RUF012 (ConfigMixin's own name and type). No other scheduler has s and γ.
    order = 1

    @register_to_config
    def __init__(
        self,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float = 0.5,
        rho: float = 7.0,
        prediction_type: str = "edm",
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str | None = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
    ):
        preconditioning.check_prediction_type(prediction_type)
        self.log_sigmas = None
        lowest, highest = _EDM_RANGE
        is_flow = prediction_type in preconditioning.FLOW_TYPES
        continuous = is_flow or (beta_schedule is None and trained_betas is None)
        if prediction_type != "edm" and continuous and None in (sigma_min, sigma_max):
            setting = f"`prediction_type` {prediction_type!r}" if is_flow else "`beta_schedule` None"
            raise ValueError(f"{setting} has no table of noise levels; pass `sigma_min` and `sigma_max`.")
        if prediction_type != "edm" and not continuous:
            self.log_sigmas = preconditioning.vp_log_sigmas(
                beta_start, beta_end, beta_schedule, num_train_timesteps, trained_betas
            )
            lowest, highest = self.log_sigmas[[0, -1]].double().exp().tolist()
        sigma_min = lowest if sigma_min is None else sigma_min
        sigma_max = highest if sigma_max is None else sigma_max
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(
                f"`sigma_min` is {sigma_min} and `sigma_max` is {sigma_max}; choose 0 < sigma_min < sigma_max."
            )
        if self.log_sigmas is not None and not _within(sigma_min, sigma_max, lowest, highest):
            raise ValueError(
                f"`sigma_min` {sigma_min} and `sigma_max` {sigma_max} exceed the teacher's noise levels [{lowest:.6g}, "
                f"{highest:.6g}]; leave them out to use the teacher's."
            )
        if not (sigma_data > 0 and rho > 0):
            raise ValueError(f"`sigma_data` is {sigma_data} and `rho` is {rho}; choose positive numbers.")
        self.register_to_config(sigma_min=sigma_min, sigma_max=sigma_max)
        self.set_timesteps(1)

    @classmethod
    def extract_init_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """Take this class's arguments from a configuration, which may be that of a diffusers scheduler.

        `from_config` and `from_pretrained` call it. Defaults of the other scheduler count as its values, because the
        defaults here differ. What this class does not use is dropped.

        Raises:
            ValueError: The other scheduler's highest noise level is infinite.
        """
        known = cls._get_init_keys(cls)
        name = config_dict.get("_class_name")
        own = {key for key in config_dict if not key.startswith("_")} <= known if name is None else name == cls.__name__
        if not own:
            original = getattr(diffusers, name, None) if isinstance(name, str) else None
            config_dict = _of_another_scheduler(config_dict, original, known)
        return super().extract_init_dict(config_dict, **kwargs)

    @property
    def step_index(self) -> int | None:
        """Index of the next step. None before the first one. Every `step` adds 1."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first step, if `set_begin_index` was called."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the index of the first step, so that `step` does not search for its timestep."""
        self._begin_index = begin_index

    def make_schedule(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        gamma: float = 0.0,
        sigmas: Sequence[float] | torch.Tensor | None = None,
    ) -> CTMSchedule:
        """Compute the noise levels of a run. The scheduler does not change.

        Args:
            num_inference_steps: Number of steps n, 1 or more. May be left out if `sigmas` is given.
            device: Device of the schedule's tensors.
            gamma: γ in [0, 1], from deterministic to most noise.
            sigmas: n + 1 decreasing noise levels within [sigma_min, sigma_max], in place of Karras's. The sample ends
                at the last one; no 0 follows.

        Raises:
            ValueError: An argument is NaN, out of range, or contradicts another.
        """
        if not 0 <= gamma <= 1:
            raise ValueError(f"`gamma` is {gamma}; choose a number from 0 (deterministic) to 1 (most noise).")
        sigma_min, sigma_max = self.config.sigma_min, self.config.sigma_max
        if sigmas is None:
            if not isinstance(num_inference_steps, numbers.Integral) or num_inference_steps < 1:
                raise ValueError(f"`num_inference_steps` is {num_inference_steps!r}; choose an integer of at least 1.")
            sigmas = preconditioning.karras_sigmas(num_inference_steps, sigma_min, sigma_max, self.config.rho)
        else:
            sigmas = torch.as_tensor(sigmas, dtype=torch.float32, device="cpu")
            if sigmas.ndim != 1 or len(sigmas) < 2 or not (sigmas.diff() < 0).all():
                raise ValueError(f"`sigmas` is {sigmas.tolist()}; pass two or more decreasing noise levels.")
            if not _within(sigmas[-1], sigmas[0], sigma_min, sigma_max):
                raise ValueError(
                    f"`sigmas` go from {sigmas[0]:.6g} to {sigmas[-1]:.6g}; keep them between sigma_max "
                    f"{sigma_max:.6g} and sigma_min {sigma_min:.6g}, without a final 0."
                )
            if num_inference_steps not in (None, len(sigmas) - 1):
                raise ValueError(
                    f"`num_inference_steps` is {num_inference_steps}, but `sigmas` has {len(sigmas)} noise levels, "
                    f"which is {len(sigmas) - 1} steps; leave one of the two out."
                )
        target_sigmas = (math.sqrt(1 - gamma**2) * (sigmas[1:].double() - sigma_min) + sigma_min).float()
        noise_sigmas = (sigmas[1:].double() ** 2 - target_sigmas.double() ** 2).clamp(min=0).sqrt().float()
        noise_sigmas[-1] = 0
        timesteps = preconditioning.c_noise(sigmas[:-1], self.config.prediction_type, self.log_sigmas)
        levels = (sigmas, target_sigmas, noise_sigmas, timesteps)
        return CTMSchedule(*(level.to(device) for level in levels), gamma, init_noise_sigma=sigmas[0].item())

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        gamma: float = 0.0,
        sigmas: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """Prepare the scheduler for a run of n steps.

        Sets `sigmas`, `target_sigmas`, `timesteps` and `gamma` as in `CTMSchedule`, `num_inference_steps` to n, and
        `init_noise_sigma` to σ_0, a number.

        Args:
            num_inference_steps: Number of steps n, 1 or more. May be left out if `sigmas` is given.
            device: Device of the three tensors.
            gamma: γ in [0, 1], from deterministic to most noise.
            sigmas: n + 1 decreasing noise levels, see `make_schedule`.

        Raises:
            ValueError: An argument is NaN, out of range, or contradicts another. The scheduler is unchanged.
        """
        self.set_schedule(self.make_schedule(num_inference_steps, device, gamma, sigmas))

    def set_schedule(self, schedule: CTMSchedule) -> None:
        """Prepare the scheduler for a run along `schedule`, as `set_timesteps` does."""
        self._schedule = schedule
        self.sigmas, self.target_sigmas, self.timesteps = schedule.sigmas, schedule.target_sigmas, schedule.timesteps
        self.gamma, self.init_noise_sigma = schedule.gamma, schedule.init_noise_sigma
        self.num_inference_steps = len(schedule)
        self._step_index = self._begin_index = None

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor) -> torch.Tensor:
        """Scale a sample to c_in(t)·z_t, the network's input.

        Args:
            sample: z_t, (B, ...).
            timestep: c_noise(t), scalar or (B,), of this schedule or of any other noise level.

        Returns:
            (B, ...) in the dtype of `sample`.
        """
        scale = preconditioning.c_in(self._sigma(timestep), self.config.prediction_type, self.config.sigma_data)
        return (preconditioning.per_sample(scale, sample) * sample.float()).to(sample.dtype)

    def denoised(self, model_output: torch.Tensor, sample: torch.Tensor, sigma: preconditioning.Sigma) -> torch.Tensor:
        """Estimate z_0 as g = c_skip(t)·z_t + c_out(t)·F, float32.

        Args:
            model_output: F, (B, ...), the network's output for c_in(t)·z_t.
            sample: z_t, (B, ...).
            sigma: t, scalar or (B,).
        """
        return preconditioning.denoised(
            model_output, sample, sigma, self.config.prediction_type, self.config.sigma_data
        )

    def jump(
        self,
        model_output: torch.Tensor,
        sample: torch.Tensor,
        sigma: preconditioning.Sigma,
        target_sigma: preconditioning.Sigma,
    ) -> torch.Tensor:
        """Jump from noise level t to s: G = (s/t)·z_t + (1 − s/t)·g, float32.

        Args:
            model_output: F, (B, ...), the network's output for c_in(t)·z_t.
            sample: z_t, (B, ...).
            sigma: t, scalar or (B,).
            target_sigma: s, scalar or (B,), 0 ≤ s ≤ t.
        """
        return preconditioning.jump(self.denoised(model_output, sample, sigma), sample, sigma, target_sigma)

    def index_for_timestep(self, timestep: float | torch.Tensor) -> int:
        """Index of `timestep` in `self.timesteps`.

        Raises:
            ValueError: `timestep` is not in the schedule.
        """
        found = (self.timesteps == torch.as_tensor(timestep).to(self.timesteps)).nonzero()
        if len(found) == 0:
            raise ValueError(f"`timestep` {timestep} is not in this schedule; pass one of `scheduler.timesteps`.")
        return int(found[0])

    def step_at(
        self,
        schedule: CTMSchedule,
        index: int,
        model_output: torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> CTMSchedulerOutput:
        """Take step i of a schedule: jump from t = σ_i to s_i, then add noise up to σ_{i+1}. No state is kept.

        Args:
            schedule: Noise levels of the run, from `make_schedule`.
            index: i, from 0 to n − 1.
            model_output: F, (B, ...), the network's output for `scale_model_input(sample, schedule.timesteps[i])`.
            sample: z_t, (B, ...), not scaled. Keep it in float32 between steps: half precision would round away what
                low noise levels add.
            generator: Source of the noise, one generator or one per sample, on any device.

        Returns:
            `prev_sample` and `pred_original_sample`, (B, ...), in the dtype of `sample`.
        """
        sigma, target_sigma = schedule.sigmas[index], schedule.target_sigmas[index]
        pred_original_sample = self.denoised(model_output, sample, sigma)
        prev_sample = preconditioning.jump(pred_original_sample, sample, sigma, target_sigma)
        if schedule.gamma > 0 and index + 1 < len(schedule):
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
            prev_sample = prev_sample + schedule.noise_sigmas[index].to(sample.device) * noise
        return CTMSchedulerOutput(prev_sample.to(sample.dtype), pred_original_sample.to(sample.dtype))

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> CTMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Take the next step of the run that `set_timesteps` prepared, see `step_at`.

        Args:
            model_output: F, (B, ...), the network's output for `scale_model_input(sample, timestep)`.
            timestep: `self.timesteps[i]`. The first call starts there; the following calls count on.
            sample: z_t, (B, ...), not scaled, in float32 between steps.
            generator: Source of the noise, one generator or one per sample, on any device.
            return_dict: Whether to return a `CTMSchedulerOutput` instead of a tuple.

        Returns:
            `prev_sample` and `pred_original_sample`, (B, ...), in the dtype of `sample`.

        Raises:
            ValueError: `timestep` is not in the schedule, or all steps are taken.
        """
        if self._step_index is None:
            self._step_index = self.index_for_timestep(timestep) if self.begin_index is None else self.begin_index
        if self._step_index >= self.num_inference_steps:
            raise ValueError(f"All {self.num_inference_steps} steps are taken; call `set_timesteps` to start again.")
        output = self.step_at(self._schedule, self._step_index, model_output, sample, generator)
        self._step_index += 1
        return output if return_dict else output.to_tuple()

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: float | torch.Tensor
    ) -> torch.Tensor:
        """Add noise to clean samples: z_t = z_0 + t·ε.

        Args:
            original_samples: z_0, (B, ...).
            noise: ε, (B, ...), of unit variance.
            timesteps: c_noise(t), scalar or (B,).

        Returns:
            (B, ...) in the dtype of `original_samples`.
        """
        sigma = preconditioning.per_sample(self._sigma(timesteps), original_samples)
        return (original_samples.float() + sigma * noise.float()).to(original_samples.dtype)

    def _sigma(self, timestep: float | torch.Tensor) -> torch.Tensor:
        return preconditioning.noise_level(timestep, self.config.prediction_type, self.log_sigmas)


def _within(low: float, high: float, lowest: float, highest: float) -> bool:
    # Noise levels pass through float32 and JSON, so the ends may differ in the last bits.
    return low >= lowest * (1 - 1e-5) and high <= highest * (1 + 1e-5)


def _of_another_scheduler(config: Mapping[str, Any], original: type | None, known: set[str]) -> dict[str, Any]:
    """Translate the configuration of a diffusers scheduler, of the class `original` if known, to `known` arguments."""
    config = dict(config)
    if config.get("rescale_betas_zero_snr"):
        raise ValueError("`rescale_betas_zero_snr` makes the highest noise level infinite; choose a model without it.")
    for key, parameter in inspect.signature(original.__init__).parameters.items() if original else ():
        config.setdefault(key, parameter.default)
    if "sigma_data" in config and "beta_schedule" not in config:  # continuous noise levels
        if config.get("prediction_type") == "epsilon":  # the name that diffusers' EDM schedulers give it
            config["prediction_type"] = "edm"
        config["beta_schedule"] = None
    return {key: value for key, value in config.items() if key in known - {"self"}}
