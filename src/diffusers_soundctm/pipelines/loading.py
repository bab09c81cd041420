"""Where a pipeline comes from and goes to: folders, the Hub, the package itself, releases, teachers and adapters."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders.lora_base import LoraBaseMixin
from typing_extensions import Self

from .. import hub, lora


class SoundCTMLoaderMixin(LoraBaseMixin):
    """Put before `DiffusionPipeline`, whose loading is more general and knows neither our classes nor our files."""

    _lora_loadable_modules = ["unet", "transformer"]  # noqa: RUF012 (diffusers' own name and type)

    @classmethod
    def from_embedded(cls, **kwargs: Any) -> Self:
        """The model that ships inside the package, in float32 unless `torch_dtype` (or `dtype`) says otherwise.

        Raises:
            FileNotFoundError: this copy of the package has no weights.
        """
        if "torch_dtype" not in kwargs:
            kwargs.setdefault("dtype", torch.float32)
        return cls.from_pretrained(hub.embedded_folder(), **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A pipeline of the components of another SoundCTM; `kwargs` replace some, or set a `dtype`."""
        if isinstance(pipeline, SoundCTMLoaderMixin):
            # By itself diffusers hands on the very classes that `__init__` names; ours names what all families share.
            kwargs = pipeline.components | kwargs
        return super().from_pipe(pipeline, **kwargs)

    @classmethod
    def from_teacher(cls, name_or_folder: str | os.PathLike, branch_init: str = "zero") -> Self:
        """A pipeline whose student stands at a teacher's weights, for `load_lora_weights` to turn into a SoundCTM.

        Args:
            name_or_folder: a diffusers text-to-audio pipeline, see `distillation.teachers`.
            branch_init: how the adapter's training started.
        """
        from ..distillation.teachers import load_teacher

        teacher = load_teacher(name_or_folder)
        return cls.from_components(teacher.parts(teacher.student(branch_init).eval()))

    def load_lora_weights(
        self, pretrained_model_name_or_path: str | os.PathLike, adapter_name: str | None = None, **kwargs: Any
    ) -> None:
        """Load an adapter of `train_ctm.py --lora_rank` from a file, a folder or the Hub; see `lora.load_lora`.

        Its parameters of s and ω replace those of the network: `unload_lora_weights` does not bring these back.

        Raises:
            ValueError: it was trained for another network.
            OSError: there is no such file, or it is damaged.
        """
        lora.load_lora(self.denoiser, pretrained_model_name_or_path, adapter_name, **kwargs)

    def fuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:
        """Add loaded adapters to the weights, so that they cost nothing; arguments as in diffusers.

        `components` is by default the denoiser, whichever component holds it.
        """
        super().fuse_lora(self._adapted(components), **kwargs)

    def unfuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:
        """Remove fused adapters from the weights."""
        super().unfuse_lora(self._adapted(components), **kwargs)

    def _adapted(self, components: Sequence[str] | None) -> list[str]:
        if components is not None:
            return list(components)
        return [name for name in self._lora_loadable_modules if getattr(self, name) is not None]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike, *, use_safetensors: bool = True, **kwargs: Any
    ) -> Self:
        """Load from a local folder or a Hub id; arguments as `DiffusionPipeline.from_pretrained`, but no pickles.

        Raises:
            OSError: no such folder or repo, or a component's files are missing or damaged; the message names it.
            ValueError: it is a teacher's pipeline, not a SoundCTM.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = Path(cls.download(str(pretrained_model_name_or_path), **kwargs))
        hub.check_folder(folder, passed=kwargs)
        library, scheduler = hub.components(folder).get("scheduler", (None, None))
        if library == "diffusers" and "scheduler" not in kwargs:  # a teacher would load, and fail in the first call
            raise ValueError(
                f"{pretrained_model_name_or_path} is a teacher, not a SoundCTM: its scheduler is a {scheduler}, not a "
                "CTMScheduler. Distil a SoundCTM from it with training/train_ctm.py, or put an adapter on it with "
                "`from_teacher` and `load_lora_weights`."
            )
        if "custom_pipeline" not in kwargs:
            kwargs.setdefault("trust_remote_code", hub.holds_only_our_code(folder))
        try:
            pipe = super().from_pretrained(folder, use_safetensors=use_safetensors, **kwargs)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError):
            raise
        except Exception as error:  # libraries check configurations in their own ways
            raise OSError(
                f"{folder} cannot be loaded ({type(error).__name__}: {error}); download or copy the model again."
            ) from error
        pipe.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        if pipe.denoiser is None:
            files = (folder / name / "config.json" for name in cls._lora_loadable_modules)
            configs = [hub.read_config(file) for file in files if file.is_file()]
            pipe._absent_denoiser_config = FrozenDict(configs[0]) if configs else None
        return pipe

    @classmethod
    def from_single_file(
        cls,
        pretrained_model_link_or_path: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        *,
        release: str,
        **kwargs: Any,
    ) -> Self:
        """A pipeline from the authors' own checkpoints, without converting them first.

        Args:
            pretrained_model_link_or_path: their files, a folder with them or a Hub id, or several of these; None is the
                Hub repo of the release.
            release: "sony-unet" (16 kHz), "sony-dit-v1" or "sony-dit-v2" (44.1 kHz).
            kwargs: `torch_dtype` and the arguments of `diffusers_soundctm.conversion.load_release`.

        Raises:
            ValueError, OSError: see `load_release`.
        """
        from ..conversion.releases import load_release

        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        model = load_release(release, pretrained_model_link_or_path, **kwargs)
        return cls.from_components(model.components, guidance_scale_range=model.guidance_scale_range)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Folder of the cached snapshot of a Hub repo, fetched if need be: configs and one set of safetensors weights.

        The stock method refuses repos whose components live outside diffusers and transformers.
        """
        passed = {k for k in cls._get_signature_keys(cls)[0] if k in kwargs}
        arguments = {k: v for k, v in kwargs.items() if k in hub.DOWNLOAD_ARGUMENTS}
        return hub.download_model(pretrained_model_name, skip=passed, **arguments)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the pipeline with a model card; see `diffusers_soundctm.hub.push_to_hub`."""
        return hub.push_to_hub(self, repo_id, **kwargs)
