"""Write a pipeline's folder one tensor at a time, so that a part is there whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin, __version__
from diffusers.pipelines.pipeline_loading_utils import _fetch_class_library_tuple
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as DIFFUSERS_WEIGHTS
from tqdm import tqdm
from transformers.utils import SAFE_WEIGHTS_NAME as TRANSFORMERS_WEIGHTS

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
    variants: tuple[str, ...] = ("fp16",),
) -> None:
    """Write the folder of a pipeline, one component at a time. Run again, it goes on after the last whole component.

    On a terminal a bar shows the bytes that are written.

    Args:
        components: components of a `SoundCTMPipeline` by name; None for those it does not have.
        guidance_scale_range: smallest and largest ω that the student was distilled with.
        folder: made if need be; `record` is kept in it as `conversion.json` and tells whether a folder may be gone on
            with.
        variants: names among "fp16" and "bf16" of weights to write besides those in the checkpoint's own dtype.

    Raises:
        ValueError: an unknown variant, `folder` holds something else already, or its disk is too full.
    """
    check_folder(folder, record, variants)
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(_temporary("*")):
        shutil.rmtree(unfinished, ignore_errors=True)
    missing = {
        name: component
        for name, component in components.items()
        if component is not None and not (folder / name).is_dir()
    }
    weights = {name: _weights(part, variants) for name, part in missing.items() if isinstance(part, torch.nn.Module)}
    size = sum(_size(*content) for files in weights.values() for content in files.values())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise ValueError(
            f"`output` {folder} has {free / 1e9:.1f} GB left on its disk and needs {size / 1e9:.1f}; choose another, "
            "or fewer `variants`."
        )
    _write_json(folder / RECORD, dict(record))
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, leave=False) as progress:
        for name, component in missing.items():
            progress.set_description(name)
            with _whole(folder / name) as temporary:
                if isinstance(component, ModelMixin):
                    component.save_config(temporary)
                elif isinstance(component, torch.nn.Module):
                    component.config.save_pretrained(temporary)
                else:
                    component.save_pretrained(temporary)
                for file, content in weights.get(name, {}).items():
                    write_safetensors(temporary / file, *content, progress.update)
    # The last: with it the folder is a model.
    _write_json(folder / INDEX, _index(components, guidance_scale_range))


def _index(components: Mapping[str, Any], guidance_scale_range: Sequence[float]) -> dict[str, Any]:
    """What `SoundCTMPipeline.save_pretrained` writes as `model_index.json`, without absent components."""
    present = {name: component for name, component in components.items() if component is not None}
    classes = {name: list(_fetch_class_library_tuple(present[name])) for name in sorted(present)}
    versions = {"_class_name": "SoundCTMPipeline", "_diffusers_version": __version__}
    return {**versions, "guidance_scale_range": list(guidance_scale_range), **classes}


def check_folder(folder: Path, record: Mapping[str, Any] | None, variants: Sequence[str] = ()) -> None:
    """`ValueError` unless `folder` is new, empty, or an unfinished conversion with the same `record` (None: any)."""
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        raise ValueError(f"`variants` has {sorted(unknown)}; choose among {sorted(VARIANTS)}.")
    if folder.is_file():
        raise ValueError(f"`output` {folder} is a file; give a folder.")
    if (folder / INDEX).exists():
        raise ValueError(f"`output` {folder} holds a model already; delete it or choose another folder.")
    if folder.is_dir() and any(folder.iterdir()):
        try:
            before = json.loads((folder / RECORD).read_text())
        except (OSError, ValueError):
            before = None
        if before is None or (record is not None and before != json.loads(json.dumps(dict(record)))):
            raise ValueError(
                f"`output` {folder} is neither empty nor this conversion, begun and unfinished; choose another."
            )


def write_safetensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype],
    on_written: Callable[[int], Any] | None = None,
) -> None:
    """Write `tensors` to `path` in the `dtypes` of the same names; one at a time is read and converted.

    `on_written` is called after each with its number of bytes.
    """
    # Wide types first: then every tensor starts at a multiple of its item size.
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
    """File → tensors and the dtypes they get in it."""
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
    """Bytes of `tensors` in `dtypes`."""
    return sum(tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items())


def keeps_float32(model: torch.nn.Module, name: str) -> bool:
    """Whether the tensor `name` of `model` stays in float32 when the model is in half precision."""
    return not {*(getattr(model, "_keep_in_fp32_modules", None) or ())}.isdisjoint(name.split("."))


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to fill that gets its name `folder` when the block ends without an error."""
    temporary = folder.with_name(_temporary(folder.name))
    temporary.mkdir()
    yield temporary
    temporary.replace(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(_temporary(path.name))
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def _temporary(name: str) -> str:
    return f".{name}.incomplete"
