"""Read the tensors of a checkpoint without running code that may be hidden in it."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# Training scripts store metrics as numpy scalars beside the tensors. These functions only turn bytes into a number.
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED = [
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),  # its name in numpy 1
    _NUMPY_SCALAR,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
]


def read_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint, on the CPU. If the format allows, they stay on disk until they are used.

    If the checkpoint holds a `state_dict` (Lightning, LAION-CLAP, audiotools), that is read. A prefix `module.` of all
    names is removed, and values that are not tensors are left out.

    Args:
        path: a .safetensors file, or a .bin, .pt, .pth or .ckpt file written by `torch.save`.

    Returns:
        Name → tensor.

    Raises:
        ValueError: the file is missing, damaged, of another format or without tensors, or it needs more than tensors
            and numbers to be read, which could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`checkpoint` {path} is not a file; check the spelling, or download the file first.")
    content = _load(path)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, torch.Tensor)}
    if not tensors:
        raise ValueError(f"`checkpoint` {path} holds no named tensors; pass the file that holds the model's weights.")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in PICKLES:
            raise ValueError(
                f"`checkpoint` {path} ends in {path.suffix!r}; pass a {', '.join((*PICKLES, '.safetensors'))} file."
            )
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL (\S+)|function (.+)|but got (.+)", str(error))
        if called is None:
            raise ValueError(_DAMAGED.format(path=path, error="not written by torch.save")) from error
        raise ValueError(
            f"`checkpoint` {path} is refused: reading it would call {next(filter(None, called.groups()))}, and a file "
            "that calls functions can run any code. Get the weights from their authors as safetensors. If you trust "
            "the file, load it in the program that wrote it and save only its tensors: "
            "`torch.save(model.state_dict(), ...)`."
        ) from error
    except (RuntimeError, EOFError, OSError, SafetensorError) as error:
        raise ValueError(_DAMAGED.format(path=path, error=str(error).splitlines()[0] if str(error) else "")) from error


_DAMAGED = "`checkpoint` {path} is damaged or not a checkpoint ({error}); download it again."
