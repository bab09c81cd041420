"""Write a model folder tensor by tensor. Each component is complete or absent, so a conversion can be resumed."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_WEIGHTS
from tqdm import tqdm
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_WEIGHTS

from ..files import atomic_folder, read_json, remove_unfinished, write_json
from ..hub import INDEX

RECORD = "conversion.json"
VARIANTS = {"fp16": torch.float16, "bf16": torch.bfloat16}

_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_components(
    components: Mapping[str, Any],
    guidance_scale_range: Sequence[float],
    folder: Path,
    record: Mapping[str, Any],
    variants: Sequence[str] = ("fp16",),
) -> None:
    """Write components so that `SoundCTMPipeline.from_pretrained(folder)` loads them.

    If an earlier call was interrupted, the call resumes after the last complete component. A progress bar on a terminal
    shows the bytes that are written.

    Args:
        components: name → component of the pipeline, or None.
        guidance_scale_range: lowest and highest ω in training.
        folder: folder to write; it is made if needed.
        record: description of the conversion. It is stored as `conversion.json`, and an interrupted conversion is
            resumed only with the same record.
        variants: half-precision weights to write besides those in the checkpoint's dtype, among "fp16" and "bf16".

    Raises:
        ValueError: a variant is unknown, `folder` holds something else, or its disk is too full.
    """
    check_output_folder(folder, record, variants)
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    components = {name: component for name, component in components.items() if component is not None}
    missing = {name: component for name, component in components.items() if not (folder / name).is_dir()}
    weights = {name: _weights(part, variants) for name, part in missing.items() if isinstance(part, torch.nn.Module)}
    size = sum(_size(*content) for files in weights.values() for content in files.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"`output` {folder} needs {size / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB left; choose another "
            "disk or fewer `variants`."
        )
    write_json(folder / RECORD, dict(record))
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as progress:
        for name, component in missing.items():
            progress.set_description(name)
            with atomic_folder(folder / name) as temporary:
                if isinstance(component, ModelMixin):
                    component.save_config(temporary)
                elif isinstance(component, torch.nn.Module):
                    component.config.save_pretrained(temporary)
                else:
                    component.save_pretrained(temporary)
                for file, content in weights.get(name, {}).items():
                    write_safetensors(temporary / file, *content, progress.update)
    # Written last, because with this file the folder counts as a model.
    write_json(folder / INDEX, _index(components, guidance_scale_range))


def _index(components: Mapping[str, Any], guidance_scale_range: Sequence[float]) -> dict[str, Any]:
    """Return the content of `model_index.json`."""
    classes = {name: type(component) for name, component in components.items()}
    return {
        "_class_name": "SoundCTMPipeline",
        "_diffusers_version": diffusers.__version__,
        **{name: [kind.__module__.partition(".")[0], kind.__name__] for name, kind in classes.items()},
        "guidance_scale_range": list(guidance_scale_range),
    }


def check_output_folder(folder: Path, record: Mapping[str, Any] | None, variants: Sequence[str] = ()) -> None:
    """Check that a conversion can write to `folder`.

    Args:
        folder: folder to write.
        record: description of the conversion; None accepts any interrupted conversion.
        variants: variants to write.

    Raises:
        ValueError: a variant is unknown, or `folder` is neither new, nor empty, nor an interrupted conversion with the
            same record.
    """
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        raise ValueError(f"`variants` has {sorted(unknown)}; choose among {sorted(VARIANTS)}.")
    if folder.is_file():
        raise ValueError(f"`output` {folder} is a file; choose a folder.")
    if (folder / INDEX).exists():
        raise ValueError(f"`output` {folder} holds a model already; delete it or choose another folder.")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            before = read_json(folder / RECORD)
        except OSError:
            before = None
        if before is None or (record is not None and before != json.loads(json.dumps(dict(record)))):
            raise ValueError(
                f"`output` {folder} is neither empty nor an interrupted conversion with the same arguments; choose "
                "another folder."
            )


def write_safetensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype],
    on_written: Callable[[int], Any] | None = None,
) -> None:
    """Write a safetensors file. One tensor at a time is read and converted.

    Args:
        path: file to write.
        tensors: name → tensor.
        dtypes: name → dtype in the file.
        on_written: called after each tensor with its number of bytes.
    """
    # Sorted by item size, the widest first, every tensor starts at a multiple of its item size.
    names = sorted(tensors, key=lambda name: -dtypes[name].itemsize)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * dtypes[name].itemsize
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _DTYPES[dtypes[name]], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            data = tensors[name].detach().to(dtypes[name]).contiguous().reshape(-1)
            written = file.write(data.view(torch.uint8).numpy())
            if on_written is not None:
                on_written(written)
        file.flush()
        os.fsync(file.fileno())


def _weights(
    model: torch.nn.Module, variants: Sequence[str]
) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, torch.dtype]]]:
    """Return file name → tensors and their dtypes in the file."""
    weights = Path(DIFFUSERS_WEIGHTS if isinstance(model, ModelMixin) else TRANSFORMERS_WEIGHTS)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    files = {}
    for variant in (None, *variants):
        file = weights if variant is None else weights.with_suffix(f".{variant}{weights.suffix}")
        dtypes = {
            name: VARIANTS[variant]
            if variant and tensor.is_floating_point() and not keeps_float32(model, name)
            else tensor.dtype
            for name, tensor in tensors.items()
        }
        files[str(file)] = tensors, dtypes
    return files


def _size(tensors: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]) -> int:
    """Return the number of bytes of `tensors` in `dtypes`."""
    return sum(tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items())


def keeps_float32(model: torch.nn.Module, name: str) -> bool:
    """Return whether the tensor `name` of `model` stays in float32 when the model is in half precision."""
    return not {*(getattr(model, "_keep_in_fp32_modules", None) or ())}.isdisjoint(name.split("."))
