"""SoundCTM as a LoRA adapter of a few MB: low-rank updates of a teacher's attention, and the embeddings of s and ω.

The file is a diffusers LoRA: `pytorch_lora_weights.safetensors` with keys prefixed with `unet.` or `transformer.`, and
rank and alpha in its metadata. The parameters of s and ω, which the teacher does not have, are added with keys prefixed
with `ctm.`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from . import hub
from .files import save_safetensors
from .models.adapters import CTMAdapterMixin
from .pipelines.conditioning import is_transformer

WEIGHTS = "pytorch_lora_weights.safetensors"
TARGETS = ("to_q", "to_k", "to_v", "to_qkv", "to_kv", "to_out.0")
_CONFIG = "lora_adapter_metadata"
_PREFIXES = ("unet.", "transformer.")


def add_lora(student: CTMAdapterMixin, rank: int, alpha: float | None = None) -> list[torch.nn.Parameter]:
    """Freeze a student and add a LoRA, W + (alpha/rank)·B·A, to its attention layers.

    Args:
        student: The student, which is changed.
        rank: Rank of the updates, 1 or more.
        alpha: Scale of the updates. None means `rank`.

    Returns:
        The parameters to train: those of the LoRA, and of the embeddings of s and ω.

    Raises:
        ValueError: The rank is less than 1, or peft is not installed.
    """
    if rank < 1:
        raise ValueError(f"`rank` is {rank}; choose at least 1.")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("LoRA requires peft, which is not installed; run `pip install peft`.") from error

    student.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(TARGETS))
    inject_adapter_in_model(config, cast(torch.nn.Module, student), "default")
    student._hf_peft_config_loaded = True
    for parameter in student.new_parameters.values():
        parameter.requires_grad_(True)
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


def save_lora(student: CTMAdapterMixin, folder: str | os.PathLike) -> Path:
    """Write the adapter of a student to `folder/pytorch_lora_weights.safetensors`, completely or not at all.

    Args:
        student: A student after `add_lora`.
        folder: Created if missing.

    Returns:
        The path of the file.
    """
    from peft import get_peft_model_state_dict

    prefix = _PREFIXES[is_transformer(student.config)]
    tensors = {f"{prefix}{name}": tensor for name, tensor in get_peft_model_state_dict(student).items()}
    tensors |= {f"ctm.{name}": parameter.data for name, parameter in student.new_parameters.items()}
    config = student.peft_config["default"].to_dict()
    config = {f"{prefix}{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    metadata = {"format": "pt", _CONFIG: json.dumps(config, default=str, sort_keys=True)}
    if "branch_init" in student.config:
        metadata["ctm_branch_init"] = student.config.branch_init
    path = Path(folder) / WEIGHTS
    save_safetensors(tensors, path, metadata)
    return path


def read_lora(
    source: str | os.PathLike | Mapping[str, torch.Tensor],
    weight_name: str | None = None,
    subfolder: str | None = None,
    **download: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read an adapter.

    Args:
        source: A file, a folder or a Hub id. A state dict is returned as it is.
        weight_name: Name of the file in the folder or repo. None means `pytorch_lora_weights.safetensors`.
        subfolder: Folder of that file in the folder or repo.
        download: Arguments of the download, such as `revision`, `token` and `cache_dir`.

    Returns:
        The tensors by name, and the metadata of the file.

    Raises:
        OSError: The file does not exist or is damaged.
    """
    if isinstance(source, Mapping):
        return dict(source), {}
    path = _find(source, weight_name or WEIGHTS, subfolder, download)
    hub.read_header(path)  # the error of safetensors does not name the file
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safetensors' own method)
        return tensors, file.metadata() or {}


def lora_config(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return peft's configuration, with prefixed keys, from the metadata of a file; None if it has none."""
    return json.loads(metadata[_CONFIG]) if _CONFIG in metadata else None


def load_lora(
    student: CTMAdapterMixin,
    source: str | os.PathLike | Mapping[str, torch.Tensor],
    adapter_name: str | None = None,
    *,
    pipeline: Any = None,
    hotswap: bool = False,
    low_cpu_mem_usage: bool = False,
    **download: Any,
) -> None:
    """Load an adapter into a student.

    Args:
        student: The student, which is changed.
        source: A file, a folder, a Hub id or a state dict. A state dict has no metadata, so its alpha equals its rank.
        adapter_name: Name of the adapter in peft. None means peft's default.
        pipeline: The pipeline of the student, whose offloading is suspended meanwhile.
        hotswap: Whether to replace the adapter `adapter_name` in place.
        low_cpu_mem_usage: Whether not to initialize weights that are loaded.
        download: `weight_name`, `subfolder`, and arguments of the download.

    Raises:
        ValueError: The adapter was trained for another network or another `branch_init`, or it has no LoRA weights.
        OSError: The file does not exist or is damaged.
    """
    tensors, metadata = read_lora(source, **download)
    name = "The state dict" if isinstance(source, Mapping) else str(source)
    lora = {_without_prefix(key): value for key, value in tensors.items() if key.startswith(_PREFIXES)}
    own = {key.removeprefix("ctm."): value for key, value in tensors.items() if key.startswith("ctm.")}
    _check(student, name, lora, own, metadata.get("ctm_branch_init"))

    config = lora_config(metadata)
    if config is not None:
        config = {_without_prefix(key): value for key, value in config.items()}
    before = set(getattr(student, "peft_config", {}))
    student.load_lora_adapter(
        lora,
        prefix=None,
        adapter_name=adapter_name,
        metadata=config,
        hotswap=hotswap,
        low_cpu_mem_usage=low_cpu_mem_usage,
        _pipeline=pipeline,
    )
    if own:
        (loaded,) = {adapter_name} if hotswap else set(student.peft_config) - before
        student.set_new_parameters(loaded, own)


def _without_prefix(key: str) -> str:
    return key.partition(".")[2] if key.startswith(_PREFIXES) else key


def _find(source: str | os.PathLike, name: str, subfolder: str | None, download: dict[str, Any]) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / (subfolder or "") / name
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or Path(source).is_dir():
        raise OSError(f"{path} does not exist; pass the folder, file or Hub id of an adapter.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source), name, subfolder=subfolder, **download))
    except hub.UNREACHABLE as error:
        raise hub.not_found(str(source), error) from error


def _check(student: CTMAdapterMixin, source: str, lora: dict, own: dict, branch_init: str | None) -> None:
    if not lora:
        raise ValueError(
            f"{source} has no LoRA weights of a denoiser, whose keys start with `unet.` or `transformer.`; pass an "
            "adapter written by train_ctm.py or by `save_lora_weights`."
        )
    shapes = {name: tuple(p.shape) for name, p in student.new_parameters.items()} if own else {}
    weights = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}

    def fits(name: str, value: torch.Tensor) -> bool:
        module, _, part = name.removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B"):
            return True  # another format, which diffusers converts and checks
        shape = weights.get(f"{module}.weight") or weights.get(f"{module}.base_layer.weight", (0, 0))
        return value.shape[1] == shape[1] if part == "lora_A" else value.shape[0] == shape[0]

    other = f"{source} is for another network than this {type(student).__name__}; load its own base model."
    if not all(map(fits, lora, lora.values())):
        raise ValueError(other)
    if branch_init is not None and branch_init != student.config.get("branch_init", branch_init):
        raise ValueError(
            f"{source} was trained with branch_init={branch_init!r}, but this network has "
            f"{student.config.branch_init!r}; create it with "
            f"SoundCTMPipeline.from_teacher(..., branch_init={branch_init!r})."
        )
    if {name: tuple(value.shape) for name, value in own.items()} != shapes:
        raise ValueError(other)
