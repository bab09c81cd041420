"""SoundCTM as a LoRA adapter of a few MB: low-rank updates of a teacher's attention, and the embeddings of s and ω.

The file is a diffusers LoRA: `pytorch_lora_weights.safetensors` with keys prefixed with `unet.`, and rank and alpha in
its metadata. The parameters of s and ω, which the teacher does not have, are added with keys prefixed with `ctm.`.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from . import hub
from .files import save_safetensors

WEIGHTS = "pytorch_lora_weights.safetensors"
TARGETS = ("to_q", "to_k", "to_v", "to_qkv", "to_kv", "to_out.0")
_CONFIG = "lora_adapter_metadata"


def add_lora(student: torch.nn.Module, rank: int, alpha: float | None = None) -> list[torch.nn.Parameter]:
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
    inject_adapter_in_model(config, student, "default")
    student._hf_peft_config_loaded = True
    for parameter in _own_parameters(student).values():
        parameter.requires_grad_(True)
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


def save_lora(student: torch.nn.Module, folder: str | os.PathLike) -> Path:
    """Write the adapter of a student to `folder/pytorch_lora_weights.safetensors`, completely or not at all.

    Args:
        student: A student after `add_lora`.
        folder: Created if missing.

    Returns:
        The path of the file.
    """
    from peft import get_peft_model_state_dict

    tensors = {f"unet.{name}": tensor for name, tensor in get_peft_model_state_dict(student).items()}
    tensors |= {f"ctm.{name}": parameter.data for name, parameter in _own_parameters(student).items()}
    config = student.peft_config["default"].to_dict()
    config = {f"unet.{key}": sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    metadata = {
        "format": "pt",
        _CONFIG: json.dumps(config, default=str, sort_keys=True),
        "ctm_branch_init": student.config.branch_init,
    }
    path = Path(folder) / WEIGHTS
    save_safetensors(tensors, path, metadata)
    return path


def load_lora(
    student: torch.nn.Module, source: str | os.PathLike, adapter_name: str | None = None, **download: Any
) -> None:
    """Load an adapter into a student that is initialized from its teacher.

    Args:
        student: The student, which is changed.
        source: A file, a folder or a Hub id.
        adapter_name: Name of the adapter in peft. None means peft's default.
        download: Arguments of the download, such as `revision`, `token` and `cache_dir`.

    Raises:
        ValueError: The adapter was trained for another network or another `branch_init`.
        OSError: The file does not exist or is damaged.
    """
    path = _find(source, download)
    hub.read_header(path)  # the error of safetensors does not name the file
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safetensors' own method)
    lora = {name.removeprefix("unet."): value for name, value in tensors.items() if name.startswith("unet.")}
    own = {name.removeprefix("ctm."): value for name, value in tensors.items() if name.startswith("ctm.")}
    _check(student, source, lora, own, metadata)

    config = {key.removeprefix("unet."): value for key, value in json.loads(metadata[_CONFIG]).items()}
    student.load_lora_adapter(lora, prefix=None, adapter_name=adapter_name, metadata=config)
    parameters = _own_parameters(student)
    with torch.no_grad():
        for name, value in own.items():
            parameters[name].copy_(value)


def _own_parameters(student: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in student.named_parameters() if name.startswith(type(student)._new_parameters)}


def _find(source: str | os.PathLike, download: dict[str, Any]) -> Path:
    path = Path(source)
    if path.is_dir():
        path = path / WEIGHTS
    if path.is_file():
        return path
    if path.suffix == ".safetensors" or Path(source).is_dir():
        raise OSError(f"{path} does not exist; pass the folder, file or Hub id of an adapter.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source), WEIGHTS, **download))
    except hub.UNREACHABLE as error:
        raise hub.not_found(str(source), error) from error


def _check(student: torch.nn.Module, source, lora: dict, own: dict, metadata: dict[str, str]) -> None:
    if not lora or _CONFIG not in metadata:
        raise ValueError(f"{source} has no LoRA weights or no metadata; pass an adapter written by train_ctm.py.")
    branch_init = metadata.get("ctm_branch_init")
    # A network without this setting is another network, which the comparison of parameters below detects.
    if branch_init != student.config.get("branch_init", branch_init):
        raise ValueError(
            f"{source} was trained with branch_init={branch_init!r}, but this network has "
            f"{student.config.branch_init!r}; create it with "
            f"SoundCTMPipeline.from_teacher(..., branch_init={branch_init!r})."
        )
    shapes = {name: tuple(p.shape) for name, p in _own_parameters(student).items()}
    weights = {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}

    def fits(name: str, value: torch.Tensor) -> bool:
        module, _, part = name.removesuffix(".weight").rpartition(".")
        shape = weights.get(f"{module}.weight") or weights.get(f"{module}.base_layer.weight", (0, 0))
        return value.shape[1] == shape[1] if part == "lora_A" else value.shape[0] == shape[0]

    if {name: tuple(value.shape) for name, value in own.items()} != shapes or not all(map(fits, lora, lora.values())):
        raise ValueError(
            f"{source} is for another network than this {type(student).__name__}; load its own base model."
        )
