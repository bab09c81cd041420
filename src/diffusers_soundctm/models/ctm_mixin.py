"""Turn a diffusers UNet or transformer class into its SoundCTM student: another time embedding, the same forward."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import CacheMixin, ConfigMixin, ModelMixin
from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from typing_extensions import Self

from ..preconditioning import c_noise, check_prediction_type
from .adapters import CTMAdapterMixin
from .embeddings import CTMTimestepEmbedding, CTMTimestepProjection, split_condition


class FromTeacherMixin(CTMAdapterMixin, CacheMixin):
    """Adds `from_teacher`, LoRA and caching to a network class.

    List it before the diffusers class, and pass that class's arguments on. `_new_parameters` are the prefixes of the
    tensors that the student saves and the teacher does not.
    """

    if TYPE_CHECKING:  # of the diffusers class
        from_config: Any
        _repeated_blocks: list[str]
        get_submodule: Any
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
            ValueError: The teacher is not a diffusers network, or its tensors are not exactly those of the student
                without its new branches.
        """
        if not isinstance(teacher, ModelMixin):
            raise ValueError(
                f"`teacher` is a {type(teacher).__name__}; pass a network of the class that {cls.__name__} extends."
            )
        student = cls.from_config(dict(teacher.config), **config)
        new = {name for name in student.state_dict() if name.startswith(cls._new_parameters)}
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


class TransformerMixin(FromTeacherMixin):
    """Gives a transformer of diffusers the arguments of a UNet. List it before the diffusers class.

    The diffusers class embeds the timestep in its own dtype. Half precision would round (2/π)·atan 500 to 1, which
    stands for infinity, so φ is computed here, in float32, and `_stock_forward` takes it in place of the timestep.
    """

    def forward(
        self,
        sample: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        global_hidden_states: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[torch.Tensor]:
        """Predict F.

        Args:
            sample: c_in(t)·z_t, (B, channels, frames).
            timestep: c_noise(t), scalar or (B,).
            encoder_hidden_states: Prompt tokens, (B, L, width). Those of Stable Audio include the duration.
            timestep_cond: float32 (B, 2), the target noise level s and the guidance scale ω of each sample, or (B, 1)
                with s alone, which omits the ω term. Students require it, and teachers do not accept it.
            encoder_attention_mask: Boolean (B, L), True for tokens to attend to. None attends to all. In Stable Audio
                3, a learned embedding of padding replaces the other tokens.
            global_hidden_states: Embedded start and end of the audio, (B, 1, width), for Stable Audio, or embedded
                duration, (B, width), for Stable Audio 3. The 44.1 kHz SoundCTM has no global condition.
            return_dict: Whether to return an output with `.sample` instead of a tuple.

        Returns:
            F, of the shape of `sample`.

        Raises:
            ValueError: `timestep_cond` of a student is missing or has another shape, or a teacher is given one.
        """
        timestep = torch.as_tensor(timestep, device=sample.device).float().expand(sample.shape[0])
        features = self._embed(timestep, timestep_cond)
        prediction = self._stock_forward(
            sample,
            features,
            encoder_hidden_states=encoder_hidden_states,
            global_hidden_states=global_hidden_states,
            encoder_attention_mask=None if encoder_attention_mask is None else encoder_attention_mask.bool(),
        )
        # The stock output class emits a deprecation warning, which breaks the graph of a compiled model.
        return Transformer2DModelOutput(sample=prediction) if return_dict else (prediction,)

    def _embed(self, timestep: torch.Tensor, timestep_cond: torch.Tensor | None) -> torch.Tensor:
        """Compute the input of the diffusers class's timestep MLP, (B, features): for a teacher φ(c_noise(t))."""
        if timestep_cond is not None:
            raise ValueError(f"{type(self).__name__} is a teacher, which has no `timestep_cond`; leave it out.")
        return self._features(timestep)

    def _features(self, timestep: torch.Tensor) -> torch.Tensor:
        """Compute φ of timesteps (B,), float32 (B, width)."""
        raise NotImplementedError

    def _stock_forward(
        self, sample: torch.Tensor, features: torch.Tensor, **inputs: torch.Tensor | None
    ) -> torch.Tensor:
        """Run the forward of the diffusers class on `features`, the output of `_embed`, and return F.

        `inputs` are the other arguments of `forward`: `encoder_hidden_states` and so on.
        """
        raise NotImplementedError


class CTMTransformerMixin:
    """Conditions a transformer on s and ω, through the `timestep_cond` argument of its forward.

        embedding = MLP(φ(c_noise(t))) + MLP_s(φ(c_noise(s))) + W·ψ(ω), see `CTMTimestepProjection`

    List it before a class with `TransformerMixin`. `_projection` is the path of that class's timestep MLP.

    Args:
        prediction_type: What F predicts, equal to the `CTMScheduler`'s.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        branch_init: "reference" has MLP_s = MLP and ψ(1000·ω) without W, like the released 44.1 kHz SoundCTM. "zero"
            has its own MLP_s and W, initialized with zeros, so that training starts exactly at the teacher.
        guidance_scale_range: Smallest and largest ω in training. Empty if unknown.
        kwargs: Arguments of the network class.

    Raises:
        ValueError: `prediction_type` or `branch_init` is unknown.
    """

    _projection = "timestep_proj"

    if TYPE_CHECKING:  # of `TransformerMixin` and the diffusers class
        _features: Any
        get_submodule: Any
        set_submodule: Any
        register_to_config: Any

    def __init__(
        self,
        prediction_type: str,
        conditioning: str,
        branch_init: str = "reference",
        guidance_scale_range: Sequence[float] = (),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_prediction_type(prediction_type)
        self.register_to_config(
            prediction_type=prediction_type,
            branch_init=branch_init,
            conditioning=conditioning,
            guidance_scale_range=list(guidance_scale_range),
        )
        first, _, last = self.get_submodule(self._projection)
        branches = CTMTimestepProjection(first.in_features, last.out_features, branch_init)
        self.set_submodule(self._projection, branches)
        self._prediction_type = prediction_type

    def _embed(self, timestep: torch.Tensor, timestep_cond: torch.Tensor | None) -> torch.Tensor:
        """Compute [φ(c_noise(t)) | φ(c_noise(s)) | ψ], the input of `CTMTimestepProjection`."""
        target_sigma, guidance_scale = split_condition(timestep_cond)
        target = self._features(c_noise(target_sigma, self._prediction_type))
        guidance = self.get_submodule(self._projection).guidance(guidance_scale, target)
        return torch.cat([self._features(timestep), target, guidance], dim=-1)
