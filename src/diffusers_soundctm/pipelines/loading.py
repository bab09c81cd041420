"""Loading and saving of pipelines: folders, the Hub, the embedded model, releases, teachers and adapters."""

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.utils import logging
from typing_extensions import Self

from .. import hub, lora
from ..precision import is_precise, jump_error, rounding_factor, stored_warning
from ..schedulers.scheduling_ctm import CTMScheduler
from . import component_classes
from .known_sounds import KnownSounds

logger = logging.get_logger(__name__)

# At run time the mixin stands before the pipeline's class; for type checkers it inherits from it.
_Pipeline = DiffusionPipeline if TYPE_CHECKING else object


class SoundCTMLoaderMixin(LoraBaseMixin, _Pipeline):
    """Loading and saving; stands before `DiffusionPipeline` and overrides its more general methods."""

    _lora_loadable_modules = ["unet", "transformer"]  # noqa: RUF012 (diffusers' own name and type)

    known_sounds: KnownSounds | None = None  # the kinds that the model knows; None if its folder does not say

    if TYPE_CHECKING:  # of the pipeline
        denoiser: Any
        scheduler: CTMScheduler

    @classmethod
    def from_components(cls, components: Mapping[str, Any], guidance_scale_range: Sequence[float] = ()) -> Self:
        """Assemble a pipeline from components by name, as teachers and conversion return them.

        Args:
            components: at least `scheduler`, and `unet` or `transformer`. Any other component may be left out.
            guidance_scale_range: smallest and largest ω that the student was distilled with.
        """
        absent: dict[str, Any] = dict.fromkeys(cls._optional_components)
        return cls(**absent | dict(components), guidance_scale_range=guidance_scale_range)

    @classmethod
    def from_embedded(cls, **kwargs: Any) -> Self:
        """Load the model that is embedded in the package.

        Args:
            kwargs: arguments of `from_pretrained`.

        Raises:
            FileNotFoundError: this installation has no weights.
        """
        return cls.from_pretrained(hub.embedded_folder(), **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Create a pipeline that shares the components of another one; `kwargs` replace components or set a `dtype`."""
        if isinstance(pipeline, SoundCTMLoaderMixin):
            # diffusers keeps components only if they are of exactly the annotated classes, which here are base classes.
            kwargs = pipeline.components | kwargs
        pipe: Any = super().from_pipe(pipeline, **kwargs)
        return pipe

    @classmethod
    def from_teacher(
        cls,
        name_or_folder: str | os.PathLike,
        branch_init: str = "zero",
        *,
        torch_dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        vae: str | os.PathLike | None = None,
        text_encoder: str | os.PathLike | None = None,
        vocoder: str | os.PathLike | None = None,
    ) -> Self:
        """Create a pipeline whose student is initialized from a teacher, as a base for `load_lora_weights`.

        Args:
            name_or_folder: folder or Hub id of a diffusers text-to-audio pipeline, see `distillation.teachers`.
            branch_init: "zero" or "reference", as in the adapter's training.
            torch_dtype: dtype of the components, float32 by default. See `to` for networks that predict epsilon.
            revision: branch, tag or commit on the Hub.
            token: access token for the Hub.
            vae: folder of the autoencoder, if the teacher's folder has none or to replace it.
            text_encoder: the same for the text encoder and its tokenizer.
            vocoder: the same for the vocoder.

        Raises:
            ValueError, OSError: see `distillation.load_teacher`.
        """
        from ..distillation.teachers import load_teacher

        teacher = load_teacher(
            name_or_folder,
            allow_distilled=True,  # refused in training, not here
            revision=revision,
            token=token,
            vae=vae,
            text_encoder=text_encoder,
            vocoder=vocoder,
        )
        pipe = cls.from_components(teacher.parts(teacher.student(branch_init).eval()))
        return pipe if torch_dtype is None else pipe.to(torch_dtype)

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        return_lora_metadata: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read an adapter without loading it; see `lora.read_lora`.

        Args:
            pretrained_model_name_or_path_or_dict: file, folder, Hub id or state dict.
            return_lora_metadata: whether to return peft's configuration, or None, as well.
            kwargs: `weight_name`, `subfolder`, and `revision`, `token`, `cache_dir` and the like for the Hub.

        Returns:
            The tensors by name, with `return_lora_metadata` in a tuple with the configuration.
        """
        tensors, metadata = lora.read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        return (tensors, lora.lora_config(metadata)) if return_lora_metadata else tensors

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter that `train_ctm.py --lora_rank` or `save_lora_weights` wrote; see `lora.load_lora`.

        If it has parameters of s and ω, they replace those of the network while the adapter is active.

        Args:
            pretrained_model_name_or_path_or_dict: file, folder, Hub id or state dict.
            adapter_name: name for peft.
            hotswap: whether to replace the adapter of that name in place.
            kwargs: `weight_name`, `subfolder`, `low_cpu_mem_usage`, and `revision`, `token`, `cache_dir` and the like
                for the Hub.

        Raises:
            ValueError: the adapter was trained for another network, or has no LoRA weights.
            OSError: the file does not exist or is damaged.
        """
        source = pretrained_model_name_or_path_or_dict
        lora.load_lora(self.denoiser, source, adapter_name, pipeline=self, hotswap=hotswap, **kwargs)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: dict[str, torch.nn.Module | torch.Tensor] | None = None,
        transformer_lora_layers: dict[str, torch.nn.Module | torch.Tensor] | None = None,
        unet_lora_adapter_metadata: dict | None = None,
        transformer_lora_adapter_metadata: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Save low-rank updates that were trained with peft; `lora.save_lora` saves those of s and ω too.

        Args:
            save_directory: folder, which is made if needed.
            unet_lora_layers: `get_peft_model_state_dict(pipe.unet)`.
            transformer_lora_layers: the same of a transformer.
            unet_lora_adapter_metadata: `pipe.unet.peft_config[name].to_dict()`, without which alpha equals the rank.
            transformer_lora_adapter_metadata: the same of a transformer.
            kwargs: `weight_name`, `is_main_process`, `save_function` and `safe_serialization`, as in diffusers.

        Raises:
            ValueError: no layers are passed.
        """
        layers = {"unet": unet_lora_layers, "transformer": transformer_lora_layers}
        layers = {name: values for name, values in layers.items() if values}
        if not layers:
            raise ValueError("`unet_lora_layers` and `transformer_lora_layers` are empty; pass one of them.")
        metadata = {"unet": unet_lora_adapter_metadata, "transformer": transformer_lora_adapter_metadata}
        cls._save_lora_weights(save_directory, layers, metadata, **kwargs)

    def fuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:
        """Fuse loaded adapters into the weights, which removes their cost; arguments as in diffusers.

        `components` defaults to the one that is the denoiser.
        """
        super().fuse_lora(self._adapted(components), **kwargs)

    def unfuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:
        """Remove fused adapters from the weights."""
        super().unfuse_lora(self._adapted(components), **kwargs)
        self.denoiser.update_new_parameters()

    def _adapted(self, components: Sequence[str] | None) -> list[str]:
        if components is not None:
            return list(components)
        return [name for name in self._lora_loadable_modules if getattr(self, name) is not None]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, use_safetensors: bool = True, **kwargs: Any
    ) -> Self:
        """Load a folder or a Hub id; arguments as in `DiffusionPipeline.from_pretrained`, but without pickled weights.

        All components are loaded in float32, whatever the dtype of their files, unless `dtype` (or `torch_dtype`) is
        passed. If a folder or repo has weights of one `variant` only, these are loaded.

        With a `torch_dtype` of half precision, a denoiser that amplifies rounding is loaded in float32, see `to`. If
        its files are in half precision, a warning says what that costs.

        Raises:
            OSError: the folder or repo does not exist, or files of a component are missing or damaged.
            ValueError: it holds a teacher's pipeline, not a SoundCTM.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        hub.check_student(folder, kwargs, name=str(pretrained_model_name_or_path))
        hub.check_folder(folder, passed=kwargs)
        if kwargs.get("variant") is None:
            kwargs["variant"] = hub.only_variant(hub.files_by_component(folder, passed=kwargs))
        if "torch_dtype" not in kwargs:  # else transformers' models keep the dtype of their files, and others do not
            kwargs.setdefault("dtype", torch.float32)
        if "custom_pipeline" not in kwargs:
            kwargs.setdefault("trust_remote_code", hub.holds_only_our_code(folder))
        dtypes = [kwargs.pop(name) for name in ("dtype", "torch_dtype") if kwargs.get(name) is not None]
        try:
            if dtypes:
                kwargs["dtype"] = _dtypes(folder, dtypes[0], kwargs)
            pipe = super().from_pretrained(folder, use_safetensors=use_safetensors, **kwargs)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError):
            raise
        except Exception as error:  # libraries check configurations in their own ways
            raise OSError(
                f"{folder} cannot be loaded ({type(error).__name__}: {error}); download or copy the model again."
            ) from error
        pipe._warn_about_stored_weights(folder, kwargs)
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        pipe.known_sounds = KnownSounds.load(folder)
        if pipe.denoiser is None:
            files = (folder / name / "config.json" for name in cls._lora_loadable_modules)
            configs = [hub.read_config(file) for file in files if file.is_file()]
            pipe._absent_denoiser_config = FrozenDict(configs[0]) if configs else None
        return pipe

    def _warn_about_stored_weights(self, folder: Path, passed: Mapping[str, Any]) -> None:
        """Warn if the denoiser's files are too coarse for a jump from the highest noise level."""
        name = "unet" if self.transformer is None else "transformer"
        if self.denoiser is None or name in passed:
            return
        config, stored = self.scheduler.config, hub.stored_dtype(folder / name, passed["variant"])
        warning = stored_warning(name, stored, config.sigma_max, config.prediction_type)
        if warning is not None:
            logger.warning(warning)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline to a device or convert its dtype; arguments as in `DiffusionPipeline.to`.

        A denoiser that predicts epsilon stays in float32, because rounding is multiplied by the noise level: with
        AudioLDM's 84, one jump in half precision would be wrong by 13 to 100 % of the latents' standard deviation.
        Stable Audio 3's transformer amplifies rounding too: it stays in float32 instead of bfloat16.
        """
        dtype = next((value for value in (*args, kwargs.get("dtype")) if isinstance(value, torch.dtype)), None)
        name = "unet" if self.transformer is None else "transformer"
        if dtype is None or self.denoiser is None:
            return super().to(*args, **kwargs)
        if not _stays_in_float32(self.scheduler, self.denoiser.config, dtype, name):
            return super().to(*args, **kwargs)
        rest = copy.copy(self)
        vars(rest)[name] = None
        super(SoundCTMLoaderMixin, rest).to(*args, **kwargs)
        device = [value for value in args if not isinstance(value, torch.dtype)]
        kwargs.pop("dtype", None)
        return super().to(*device, **kwargs) if device or kwargs else self

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """Read `model_index.json`; arguments as in `ConfigMixin.load_config`.

        The loader files that `save_pretrained` writes are for the stock class. This class needs none of them, so its
        index refers to them no more, and nothing is copied to the cache for code.
        """
        config = super().load_config(pretrained_model_name_or_path, *args, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if isinstance(config, dict) and folder.is_dir() and hub.holds_only_our_code(folder):
            package, here = component_classes.__name__.partition(".")[0], component_classes.__name__
            for name, value in config.items():
                if name == "_class_name" and isinstance(value, list):
                    config[name] = value[-1]
                elif isinstance(value, list) and value[:1] == [package]:
                    config[name] = [here, *value[1:]]
        return config

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        release: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load the authors' checkpoints, without converting them first.

        Args:
            pretrained_model_link_or_path: one or several files, folders or Hub ids; None is the Hub repo of `release`.
            release: "sony-unet" (16 kHz), "sony-dit-v1" or "sony-dit-v2" (44.1 kHz). None recognizes the files, which
                must hold the network of one release.
            kwargs: `torch_dtype` and the arguments of `diffusers_soundctm.conversion.load_release`.

        Raises:
            ValueError, OSError: see `load_release`.
        """
        from ..conversion.releases import load_release, recognize_release

        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        if release is None:
            download = {name: value for name, value in kwargs.items() if name in hub.DOWNLOAD_ARGUMENTS}
            release = recognize_release(pretrained_model_link_or_path, **download)
        model = load_release(release, pretrained_model_link_or_path, **kwargs)
        return cls.from_components(model.components, guidance_scale_range=model.guidance_scale_range)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Download a Hub repo's configs and one set of its safetensors weights, and return the folder of the snapshot.

        The stock method refuses repos whose components live outside diffusers and transformers.
        """
        passed = {k for k in cls._get_signature_keys(cls)[0] if k in kwargs}
        arguments = {k: v for k, v in kwargs.items() if k in hub.DOWNLOAD_ARGUMENTS}
        check = functools.partial(hub.check_student, name=pretrained_model_name)
        return hub.download_model(pretrained_model_name, skip=passed, check=check, **arguments)

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Save to a folder that `from_pretrained` of this class and of `DiffusionPipeline` loads; arguments as there.

        `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` loads it where this package is installed.

        Args:
            save_directory: the folder, which is made if needed.
            args: further arguments of `DiffusionPipeline.save_pretrained`, `safe_serialization` first.
            push_to_hub: whether to upload the folder as well. Then the arguments of the method `push_to_hub` are
                accepted too; `repo_id` is by default the name of the folder.
            kwargs: arguments of `DiffusionPipeline.save_pretrained`.
        """
        names = ("repo_id", "license", "card", "private", "token", "commit_message", "create_pr") if push_to_hub else ()
        upload = {name: kwargs.pop(name) for name in names if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        folder = Path(save_directory)
        hub.write_loaders(folder)
        if self.known_sounds is not None:
            self.known_sounds.save(folder)
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", folder.resolve().name), folder=folder, **upload)

    def export_onnx(self, folder: str | os.PathLike, precision: str = "fp32", overwrite: bool = False) -> Path:
        """Write a folder of ONNX graphs that runs without torch; see `diffusers_soundctm.onnx.export_onnx`.

        Args:
            folder: name of the folder, which is made.
            precision: how weights are stored, "fp32", "fp16" or "int8".
            overwrite: whether to replace an existing folder.
        """
        from ..onnx.export import export_onnx

        return export_onnx(self, folder, precision, overwrite)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the pipeline and a model card; see `diffusers_soundctm.hub.push_to_hub`."""
        return hub.push_to_hub(self, repo_id, **kwargs)


def _dtypes(folder: Path, dtype: Any, passed: Mapping[str, Any]) -> Any:
    """`dtype` of `from_pretrained`, with float32 for a denoiser that needs it."""
    scheduler = passed.get("scheduler") or CTMScheduler.from_pretrained(folder / "scheduler")
    if not isinstance(scheduler, CTMScheduler):  # refused when the pipeline is assembled
        return dtype
    dtypes = dict(dtype) if isinstance(dtype, dict) else {"default": dtype}
    for name in SoundCTMLoaderMixin._lora_loadable_modules:
        wanted = dtypes.get(name, dtypes.get("default", torch.float32))
        if name not in hub.components(folder) or name in passed:
            continue
        if _stays_in_float32(scheduler, hub.read_config(folder / name / "config.json"), wanted, name):
            dtypes[name] = torch.float32
    return dtypes if isinstance(dtype, dict) or len(dtypes) > 1 else dtype


def _stays_in_float32(scheduler: CTMScheduler, config: Mapping[str, Any], dtype: Any, name: str) -> bool:
    """Whether a jump from the highest noise level is too imprecise in `dtype`; if so, say that `name` is not in it."""
    highest, prediction_type = scheduler.config.sigma_max, scheduler.config.prediction_type
    factor = rounding_factor(config)
    if is_precise(dtype, highest, prediction_type, factor):
        return False
    error = jump_error(dtype, highest, prediction_type, factor=factor)
    reason = "amplifies rounding errors" if factor > 1 else f"predicts {prediction_type}"
    half = is_precise(torch.float16, highest, prediction_type, factor)
    also = "; torch.float16 is precise enough" if half else ""
    logger.warning(
        f"`{name}` {reason} and stays in float32: in {dtype}, rounding would change one step from noise level "
        f"{highest:.3g} by {error:.0%} of the latents' standard deviation{also}."
    )
    return True
