"""Turn a diffusers UNet class into its SoundCTM student: another time embedding, the same forward."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffusers import CacheMixin, ConfigMixin, ModelMixin
from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales
from typing_extensions import Self

from .adapters import CTMAdapterMixin
from .embeddings import CTMTimestepEmbedding


class FromTeacherMixin(CTMAdapterMixin, CacheMixin):
    """Adds `from_teacher`, LoRA and caching to a network class.

    List it before the diffusers class, and pass that class's arguments on. `_new_parameters` are the prefixes of the
    parameters that the student has and the teacher does not.
    """

    if TYPE_CHECKING:  # of the diffusers class
        from_config: Any
        _repeated_blocks: list[str]
        register_to_config: Any

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        # The arguments of the diffusers class arrive in **kwargs. Without their names, loading would drop them.
        return set().union(*map(ConfigMixin._get_init_keys, input_class.__mro__[:-1])) - {"args"}

    def enable_cache(self, config: Any) -> None:
        """Enable one of diffusers' caches, which reuse results of earlier steps; see `CacheMixin.enable_cache`.

        Args:
            config: Configuration of the cache, such as `FirstBlockCacheConfig` for a transformer.
        """
        from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry

        for block in {type(module) for module in self.modules() if type(module).__name__ in self._repeated_blocks}:
            try:
                TransformerBlockRegistry.get(block)
            except ValueError:  # diffusers does not know the blocks of Stable Audio, which return hidden states alone
                TransformerBlockRegistry.register(block, TransformerBlockMetadata(return_hidden_states_index=0))
        super().enable_cache(config)

    @classmethod
    def from_teacher(cls, teacher: ModelMixin, **config: Any) -> Self:
        """Create a student that is initialized from a teacher, on its device and in its dtype.

        Args:
            teacher: A network of the diffusers class that this class extends.
            config: Arguments of this class, for example `prediction_type`, the betas and `branch_init`.

        Raises:
            ValueError: The teacher's tensors are not exactly those of the student without its new branches.
        """
        student = cls.from_config(dict(teacher.config), **config)
        new = set(student.new_parameters)
        missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
        if set(missing) != new or unexpected:
            raise ValueError(
                f"`teacher` ({type(teacher).__name__}) does not fit {cls.__name__}: missing "
                f"{sorted(set(missing) - new)}, unexpected {sorted(unexpected)}. Pass the network class it extends."
            )
        return student.to(next(teacher.parameters()))


class CTMUNetMixin(FromTeacherMixin):
    """Conditions a diffusers UNet class on s and ω, through the `timestep_cond` argument of its own forward.

    List it before the diffusers class. Call the network as `unet(c_in(t)·z_t, c_noise(t), ...,
    timestep_cond=torch.stack([target_sigma, guidance_scale], -1))`. `timestep_cond` (B, 2) stays in float32, whatever
    the dtype of the network. The network computes c_noise(s) and the embedding of ω, see `CTMTimestepEmbedding`.

    Args:
        prediction_type: What F predicts. This value and the following five are those of the `CTMScheduler`.
        num_train_timesteps: Number of steps of the teacher's noise schedule.
        beta_start: First β of that schedule.
        beta_end: Last β of that schedule.
        beta_schedule: Form of that schedule.
        trained_betas: All values of β, in place of a `beta_schedule`.
        branch_init: Initialization of the new branches, "reference" or "zero", see `CTMTimestepEmbedding`.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`. None
            infers it from the other arguments.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
        kwargs: Arguments of the diffusers class.

    Raises:
        ValueError: The time embedding of the diffusers class has an unsupported form, or an argument is unknown.
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
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.config.time_embedding_type != "positional" or self.config.time_cond_proj_dim is not None:
            raise ValueError(
                f"`time_embedding_type` is {self.config.time_embedding_type!r} and `time_cond_proj_dim` is "
                f"{self.config.time_cond_proj_dim!r}; a SoundCTM student requires 'positional' and None, so choose "
                "another teacher."
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
        self.register_to_config(
            **noise_conditioning, conditioning=conditioning, guidance_scale_range=list(guidance_scale_range)
        )
        self.time_embedding = CTMTimestepEmbedding(
            self.time_embedding.linear_1.in_features,
            self.time_embedding.linear_1.out_features,
            act_fn=self.config.act_fn,
            post_act_fn=self.config.timestep_post_act,
            flip_sin_to_cos=self.config.flip_sin_to_cos,
            freq_shift=self.config.freq_shift,
            **noise_conditioning,
        )

    def _expand_blocks(self, weight: float | dict[str, Any]) -> float | dict[str, float]:
        if not isinstance(weight, dict):
            return weight
        for side, blocks in weight.items():  # diffusers ignores blocks that do not exist
            existing = getattr(self, f"{side}_blocks", ())
            known = {f"block_{index}" for index, block in enumerate(existing) if hasattr(block, "attentions")}
            unknown = sorted(set(blocks) - known) if isinstance(blocks, dict) else []
            if unknown or side not in ("down", "mid", "up"):
                raise ValueError(
                    f"`weights` has {side!r}: {blocks}; choose among 'down', 'mid' and 'up', and among "
                    f"{sorted(known)} of 'down' or 'up'."
                )
        scales: Any = _maybe_expand_lora_scales(self, [weight])[0]
        expanded = {}
        for name, scale in scales.items():  # such as down_blocks.1.attentions.0, the first layer of a block
            block, _, layer = name.rpartition(".")
            attentions, resnets = self.get_submodule(block), self.get_submodule(block.replace("attentions", "resnets"))
            # A layer of AudioLDM2 has several transformers. The middle block has one resnet more than layers.
            count = len(attentions) // (len(resnets) - block.startswith("mid_block"))
            start = int(layer) * count
            expanded |= {f"{block}.{index}.": scale for index in range(start, start + count)}
        return expanded
