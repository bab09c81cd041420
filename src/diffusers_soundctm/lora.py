"""LoRA adapters of a few MB: a SoundCTM as low-rank updates of its teacher, or new sounds for a SoundCTM.

The file is a diffusers LoRA: `pytorch_lora_weights.safetensors` with keys prefixed with `unet.` or `transformer.`, and
rank and alpha in its metadata. The parameters of s and ω, which the teacher does not have, are added with keys prefixed
with `ctm.`. An adapter of new sounds does not change them.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
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


def block_layers(network: torch.nn.Module) -> list[str]:
    """Return the names of the linear and convolution layers in the blocks of a network, of all but grouped ones."""
    modules = dict(network.named_modules())
    blocks = tuple(f"{name}." for name, module in modules.items() if isinstance(module, torch.nn.ModuleList))
    return [
        name
        for name, module in modules.items()
        if name.startswith(blocks)
        and isinstance(module, (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d))
        and getattr(module, "groups", 1) == 1
    ]


def add_lora(
    student: Any, rank: int, alpha: float | None = None, targets: Sequence[str] = TARGETS, new_parameters: bool = True
) -> list[torch.nn.Parameter]:
    """Freeze a student and add a LoRA, W + (alpha/rank)·B·A, to some of its layers.

    Args:
        student: The student, which is changed. Without `new_parameters` also a teacher.
        rank: Rank of the updates, 1 or more.
        alpha: Scale of the updates. None means `rank`.
        targets: Names of the layers, or how they end; by default those of the attention.
        new_parameters: Whether the embeddings of s and ω are trained too.

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
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))
    inject_adapter_in_model(config, cast(torch.nn.Module, student), "default")
    student._hf_peft_config_loaded = True
    for parameter in student.new_parameters.values() if new_parameters else ():
        parameter.requires_grad_(True)
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


@contextlib.contextmanager
def without_adapters(network: torch.nn.Module) -> Iterator[None]:
    """Let a network compute without its LoRA while the block runs. Nothing may be differentiated through the block."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def save_lora(student: Any, folder: str | os.PathLike, new_parameters: bool = True) -> Path:
    """Write the adapter of a student to `folder/pytorch_lora_weights.safetensors`, completely or not at all.

    Args:
        student: A student after `add_lora`.
        folder: Created if missing.
        new_parameters: Whether the embeddings of s and ω belong to the adapter, as in `add_lora`.

    Returns:
        The path of the file.
    """
    from peft import get_peft_model_state_dict

    prefix = _PREFIXES[is_transformer(student.config)]
    tensors = {f"{prefix}{name}": tensor for name, tensor in get_peft_model_state_dict(student).items()}
    if new_parameters:
        tensors |= {f"ctm.{name}": parameter.data for name, parameter in student.new_parameters.items()}
    config = student.peft_config["default"].to_dict()
    config = {f"{prefix}{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    metadata = {"format": "pt", _CONFIG: json.dumps(config, default=str, sort_keys=True)}
    if new_parameters and "branch_init" in student.config:
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


def parse_lora(text: str) -> tuple[str, float]:
    """Split "my-creature:0.8" into the source of an adapter and its weight, 1 if none is written.

    Raises:
        ValueError: There is no source, or the weight is not finite.
    """
    source, separator, last = text.rpartition(":")
    try:
        weight = float(last) if separator else 1.0
    except ValueError:  # a colon of the path
        source, weight = text, 1.0
    source = source if separator else text
    if not source.strip() or not math.isfinite(weight):
        raise ValueError(f"--lora is {text!r}; write a folder or Hub id and a weight, such as my-creature:0.8.")
    return source, weight


def load_adapters(pipe: Any, loras: Sequence[str]) -> None:
    """Load adapters into a pipeline and activate all of them.

    Args:
        pipe: A `SoundCTMPipeline`, which is changed.
        loras: For each, its folder or Hub id and its weight, see `parse_lora`.

    Raises:
        ValueError: An adapter is given twice, or is for another network.
        OSError: An adapter does not exist or is damaged.
    """
    sources = [parse_lora(text)[0] for text in loras]
    twice = sorted({source for source in sources if sources.count(source) > 1})
    if twice:
        raise ValueError(f"--lora {twice[0]} is given twice; give one weight.")
    for source in sources:
        pipe.load_lora_weights(source, adapter_name=_adapter_name(source))
    activate(pipe, loras)


def activate(pipe: Any, loras: Sequence[str]) -> None:
    """Let a pipeline use these of its adapters, with their weights, and no others.

    Raises:
        ValueError: `load_adapters` has not loaded one of them.
    """
    loaded = getattr(pipe.denoiser, "peft_config", {})
    weights = {_adapter_name(source): weight for source, weight in map(parse_lora, loras)}
    missing = [text for text in loras if _adapter_name(parse_lora(text)[0]) not in loaded]
    if missing:
        raise ValueError(f"The sound needs the adapter {missing[0]}; pass --lora {missing[0]}.")
    if weights:
        pipe.enable_lora()
        pipe.set_adapters(list(weights), list(weights.values()))
    elif loaded:
        pipe.disable_lora()


def _adapter_name(source: str) -> str:
    """A name without dots, which peft does not allow."""
    return "lora_" + hashlib.sha256(source.encode()).hexdigest()[:8]


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
