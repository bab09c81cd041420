"""What turns a diffusers UNet class into its SoundCTM student: another time embedding, the same forward."""

from collections.abc import Sequence
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from typing_extensions import Self

from .embeddings import CTMTimestepEmbedding


class FromTeacherMixin:
    """Put before a diffusers network class that takes its arguments as **kwargs: a start from a teacher's weights.

    `_new_parameters` are the beginnings of the names that the student has and the teacher has not.
    """

    _new_parameters: tuple[str, ...] = ()

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        # The diffusers class' arguments arrive through **kwargs: without their names, loading would drop them.
        return set().union(*map(ConfigMixin._get_init_keys, input_class.__mro__[:-1])) - {"args"}

    @classmethod
    def from_teacher(cls, teacher: ModelMixin, **config: Any) -> Self:
        """A student that starts from `teacher`'s weights, on its device and in its dtype.

        Args:
            teacher: a network of the diffusers class this one extends.
            config: arguments of this class, e.g. `prediction_type`, the betas, `branch_init`.

        Raises:
            ValueError: the teacher's tensors are not exactly the student's without its new branches.
        """
        student = cls.from_config(dict(teacher.config), **config)
        new = {name for name, _ in student.named_parameters() if name.startswith(cls._new_parameters)}
        missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
        if set(missing) != new or unexpected:
            raise ValueError(
                f"`teacher` ({type(teacher).__name__}) does not fit {cls.__name__}: missing "
                f"{sorted(set(missing) - new)}, unexpected {sorted(unexpected)}. Pass the network class it extends."
            )
        return student.to(next(teacher.parameters()))


class CTMUNetMixin(FromTeacherMixin):
    """Put before a diffusers UNet class, gives it s and ω through the `timestep_cond` argument of its own forward.

    Call it as `unet(c_in(t)·z_t, c_noise(t), ..., timestep_cond=torch.stack([target_sigma, guidance_scale], -1))`;
    `timestep_cond` (B, 2) stays float32 under any dtype. c_noise(s) and the embedding of ω are taken inside, see
    `CTMTimestepEmbedding`.

    Args:
        prediction_type, num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas: noise conditioning and
            what F predicts, the same values as the `CTMScheduler`'s.
        branch_init: "reference" or "zero", the start of the new branches.
        conditioning: how prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`. None leaves it
            to be inferred from the config.
        kwargs: the arguments of the diffusers class.
    """

    _new_parameters = ("time_embedding.target_embedding.", "time_embedding.guidance_proj.")

    def __init__(
        self,
        prediction_type: str = "edm",
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str = "scaled_linear",
        trained_betas: Sequence[float] | None = None,
        branch_init: str = "reference",
        conditioning: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.config.time_embedding_type != "positional" or self.config.time_cond_proj_dim is not None:
            raise ValueError(
                f"A SoundCTM student needs `time_embedding_type` 'positional' and `time_cond_proj_dim` None, not "
                f"{self.config.time_embedding_type!r} and {self.config.time_cond_proj_dim!r}: take another teacher."
            )
        noise_conditioning = {
            "prediction_type": prediction_type,
            "num_train_timesteps": num_train_timesteps,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "beta_schedule": beta_schedule,
            "trained_betas": trained_betas,
            "branch_init": branch_init,
        }
        self.register_to_config(**noise_conditioning, conditioning=conditioning)
        self.time_embedding = CTMTimestepEmbedding(
            self.time_embedding.linear_1.in_features,
            self.time_embedding.linear_1.out_features,
            act_fn=self.config.act_fn,
            post_act_fn=self.config.timestep_post_act,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
            **noise_conditioning,
        )
