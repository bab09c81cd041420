"""Noise levels and jumps of SoundCTM sampling, as a diffusers scheduler."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .. import preconditioning

_EDM_RANGE = (0.002, 80.0)


@dataclass
class CTMSchedulerOutput(BaseOutput):
    """What one jump gives.

    Args:
        prev_sample: (B, ...), the sample at the next noise level, input of the next step.
        pred_original_sample: (B, ...), g, the estimate of z_0.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


class CTMScheduler(SchedulerMixin, ConfigMixin):
    """Sampler of a consistency trajectory model: n jumps down n + 1 Karras noise levels, with stochasticity γ.

    Step i takes z at t = σ_i to s_i = √(1 − γ²)·(σ_{i+1} − σ_min) + σ_min, and except at the last step adds noise up to
    σ_{i+1}: z ← G(z, t, s_i) + √(σ_{i+1}² − s_i²)·ε. γ = 0 is deterministic (s_i = σ_{i+1}, no noise): one noise gives
    the same sound at any number of steps. γ = 1 is the consistency-model sampler (s_i = σ_min).

    Arithmetic is in float32 under any dtype of network or sample, see `preconditioning`.

    Args:
        sigma_min, sigma_max: range of noise levels. None takes EDM's 0.002 and 80 for "edm", and the ends of the
            teacher's table for the others.
        sigma_data: standard deviation of clean latents, used by "edm".
        rho: curvature of the Karras noise levels.
        prediction_type: what the network's output F is: "edm", or "epsilon", "v_prediction", "sample" of a
            variance-preserving teacher.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: that teacher's noise schedule, see
            `preconditioning.vp_log_sigmas`; "edm" does not use them. A `beta_schedule` of None is a teacher on
            continuous levels (Stable Audio), which needs `sigma_min` and `sigma_max`.

    Raises:
        ValueError: a range that is empty, not positive or beyond the teacher's table, or an unknown prediction type.
    """

    __module__ = "diffusers_soundctm"
    _compatibles = ["EulerDiscreteScheduler"]  # noqa: RUF012 (ConfigMixin's own name and type)
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
        continuous = beta_schedule is None and trained_betas is None
        if prediction_type != "edm" and continuous and None in (sigma_min, sigma_max):
            raise ValueError("`beta_schedule` None has no table of noise levels; pass `sigma_min` and `sigma_max`.")
        if prediction_type != "edm" and not continuous:
            self.log_sigmas = preconditioning.vp_log_sigmas(
                beta_start, beta_end, beta_schedule, num_train_timesteps, trained_betas
            )
            lowest, highest = self.log_sigmas[[0, -1]].double().exp().tolist()
        sigma_min = lowest if sigma_min is None else sigma_min
        sigma_max = highest if sigma_max is None else sigma_max
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"`sigma_min` {sigma_min} and `sigma_max` {sigma_max} must satisfy 0 < min < max.")
        if self.log_sigmas is not None and not _within(sigma_min, sigma_max, lowest, highest):
            raise ValueError(
                f"`sigma_min` {sigma_min} and `sigma_max` {sigma_max} leave the teacher's noise levels [{lowest:.6g}, "
                f"{highest:.6g}]; leave them out to take these."
            )
        if not (sigma_data > 0 and rho > 0):
            raise ValueError(f"`sigma_data` {sigma_data} and `rho` {rho} must be positive.")
        self.register_to_config(sigma_min=sigma_min, sigma_max=sigma_max)
        self.set_timesteps(1)

    @property
    def step_index(self) -> int | None:
        """Index of the step to take next; None before the first one. It grows by 1 with every `step`."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Index of the first step, if `set_begin_index` gave one."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which step comes first, so that `step` need not look its timestep up."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        gamma: float = 0.0,
        sigmas: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        """Lay out a run of n steps.

        Sets `sigmas` (n + 1,), the noise levels σ_i; `target_sigmas` (n,), where each jump lands; `timesteps` (n,), the
        network's conditioning c_noise(σ_i); all float32 on `device`; and `init_noise_sigma` = σ_0, a number.

        Args:
            num_inference_steps: n ≥ 1; may be left out when `sigmas` is given.
            device: where the three tensors live.
            gamma: γ in [0, 1].
            sigmas: n + 1 decreasing noise levels within [sigma_min, sigma_max], in place of the Karras curve.
                The last one is where the sample ends; no 0 follows.

        Raises:
            ValueError: an argument is out of its range, NaN, or disagrees with another.
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
                raise ValueError(f"`sigmas` must be two or more decreasing noise levels; got {sigmas.tolist()}.")
            if not _within(sigmas[-1], sigmas[0], sigma_min, sigma_max):
                raise ValueError(
                    f"`sigmas` go from {sigmas[0]:.6g} to {sigmas[-1]:.6g}; keep them within sigma_max {sigma_max:.6g} "
                    f"and sigma_min {sigma_min:.6g} (no final 0)."
                )
            if num_inference_steps not in (None, len(sigmas) - 1):
                raise ValueError(
                    f"`num_inference_steps` is {num_inference_steps}, but `sigmas` has {len(sigmas)} levels, "
                    f"{len(sigmas) - 1} steps; leave one of the two out."
                )
        target_sigmas = (math.sqrt(1 - gamma**2) * (sigmas[1:].double() - sigma_min) + sigma_min).float()
        added = (sigmas[1:].double() ** 2 - target_sigmas.double() ** 2).clamp(min=0).sqrt().float()
        timesteps = preconditioning.c_noise(sigmas[:-1], self.config.prediction_type, self.log_sigmas)

        self.gamma = gamma
        self.num_inference_steps = len(timesteps)
        self.init_noise_sigma = sigmas[0].item()
        self.sigmas, self.target_sigmas = sigmas.to(device), target_sigmas.to(device)
        self.timesteps, self._added_sigmas = timesteps.to(device), added.to(device)
        self._step_index = self._begin_index = None

    def scale_model_input(self, sample: torch.Tensor, timestep: float | torch.Tensor) -> torch.Tensor:
        """c_in(t)·z_t, what the network is given.

        Args:
            sample: z_t, (B, ...).
            timestep: c_noise(t), scalar or (B,), of this schedule or any other noise level.

        Returns:
            (B, ...) in `sample`'s dtype.
        """
        scale = preconditioning.c_in(self._sigma(timestep), self.config.prediction_type, self.config.sigma_data)
        return (preconditioning.per_sample(scale, sample) * sample.float()).to(sample.dtype)

    def denoised(self, model_output: torch.Tensor, sample: torch.Tensor, sigma: preconditioning.Sigma) -> torch.Tensor:
        """g = c_skip(t)·z_t + c_out(t)·F, the estimate of z_0, float32; `sigma` = t is a scalar or (B,)."""
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
        """G = (s/t)·z_t + (1 − s/t)·g, the sample at `target_sigma` = s, float32; levels are scalars or (B,)."""
        return preconditioning.jump(self.denoised(model_output, sample, sigma), sample, sigma, target_sigma)

    def index_for_timestep(self, timestep: float | torch.Tensor) -> int:
        """Index of `timestep`, one of `self.timesteps`.

        Raises:
            ValueError: `timestep` is none of them.
        """
        found = (self.timesteps == torch.as_tensor(timestep).to(self.timesteps)).nonzero()
        if len(found) == 0:
            raise ValueError(f"`timestep` {timestep} is not in this schedule; pass one of `scheduler.timesteps`.")
        return found[0].item()

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> CTMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Jump from t = σ_i to s_i, and if γ > 0 and more steps follow, add noise up to σ_{i+1}.

        Args:
            model_output: F, (B, ...), the network's output for `scale_model_input(sample, timestep)`.
            timestep: `self.timesteps[i]`; it only tells where to start, the following calls go on from there.
            sample: z_t, (B, ...), not scaled. Keep it in float32 between steps: half precision would round away what
                low noise levels add.
            generator: source of the noise, one or a list of B, on any device.
            return_dict: give a `CTMSchedulerOutput`, else a tuple of the same.

        Returns:
            `prev_sample` and `pred_original_sample`, (B, ...), in the dtype of `sample`.

        Raises:
            ValueError: `timestep` is not in the schedule, or its last step is taken already.
        """
        if self._step_index is None:
            self._step_index = self.index_for_timestep(timestep) if self.begin_index is None else self.begin_index
        i = self._step_index
        if i >= self.num_inference_steps:
            raise ValueError(f"All {self.num_inference_steps} steps are taken; call `set_timesteps` to start again.")

        pred_original_sample = self.denoised(model_output, sample, self.sigmas[i])
        prev_sample = preconditioning.jump(pred_original_sample, sample, self.sigmas[i], self.target_sigmas[i])
        if self.gamma > 0 and i + 1 < self.num_inference_steps:
            noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
            prev_sample = prev_sample + self._added_sigmas[i].to(sample.device) * noise
        self._step_index += 1

        prev_sample, pred_original_sample = prev_sample.to(sample.dtype), pred_original_sample.to(sample.dtype)
        if not return_dict:
            return prev_sample, pred_original_sample
        return CTMSchedulerOutput(prev_sample=prev_sample, pred_original_sample=pred_original_sample)

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: float | torch.Tensor
    ) -> torch.Tensor:
        """z_t = z_0 + t·ε.

        Args:
            original_samples: z_0, (B, ...).
            noise: ε, (B, ...).
            timesteps: c_noise(t), scalar or (B,).

        Returns:
            (B, ...) in the dtype of `original_samples`.
        """
        sigma = preconditioning.per_sample(self._sigma(timesteps), original_samples)
        return (original_samples.float() + sigma * noise.float()).to(original_samples.dtype)

    def _sigma(self, timestep: float | torch.Tensor) -> torch.Tensor:
        return preconditioning.noise_level(timestep, self.config.prediction_type, self.log_sigmas)


def _within(low: float, high: float, lowest: float, highest: float) -> bool:
    # Levels travel through float32 and JSON: the ends may differ in the last bits.
    return low >= lowest * (1 - 1e-5) and high <= highest * (1 + 1e-5)
