"""What a model folder must hold, read without loading a model."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

INDEX = "model_index.json"
EMBEDDED = Path(__file__).parent.parent / "embedded"
# Each is a whole vocabulary: of any tokenizer, and in the older files of BERT, CLAP and GPT-2, T5.
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Name → (library, class) of the components that `model_index.json` in `folder` lists and does not leave out."""
    return {
        name: tuple(value)
        for name, value in read_json(folder / INDEX).items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    }


def check_index(folder: Path) -> None:
    """Raise `OSError` unless `folder` holds a readable `model_index.json`."""
    if not (folder / INDEX).is_file():
        raise OSError(f"{folder} has no {INDEX}; pass a model written by `SoundCTMPipeline.save_pretrained`.")
    read_json(folder / INDEX)


def check_folder(folder: Path, passed: Collection[str] = ()) -> None:
    """Raise `OSError` naming what a pipeline's folder lacks or has damaged; components in `passed` are not needed."""
    check_index(folder)
    for name in components(folder):
        if name in passed:
            continue
        if not (folder / name).is_dir():
            raise OSError(f"{folder} lacks its component {name}; download or copy the model again, or pass `{name}=`.")
        for file in (folder / name).glob("*.safetensors"):
            read_header(file)
        for file in (folder / name).glob("*.json"):
            read_json(file)
        # transformers makes a tokenizer without one all the same, to which every word is unknown.
        if name.startswith("tokenizer") and not any(
            all(list((folder / name).glob(file)) for file in files) for files in VOCABULARIES
        ):
            needed = ", or ".join(" and ".join(files) for files in VOCABULARIES)
            raise OSError(
                f"{folder / name} lacks its vocabulary ({needed}); download or copy the model again, or pass `{name}=`."
            )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; `OSError` if the file is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{file} is not valid JSON ({error}); download or copy the model again.") from error
    if not isinstance(content, dict):
        raise OSError(f"{file} holds a {type(content).__name__}, not an object; download or copy the model again.")
    return content


def read_header(file: Path) -> dict[str, dict]:
    """Tensor name → dtype, shape and data_offsets of a safetensors file; `OSError` if the file is damaged."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        size = 8 + length + max(tensor["data_offsets"][1] for tensor in header.values())
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise OSError(f"{file} is not a safetensors file; download or copy the model again.") from error
    if file.stat().st_size != size:
        raise OSError(f"{file} has {file.stat().st_size} bytes, not {size}; download or copy the model again.")
    return header


def one_set_of_weights(files: Sequence[str], variant: str | None) -> list[str]:
    weights = [file for file in files if file.endswith(".safetensors")]
    chosen = [file for file in weights if variant is not None and f".{variant}" in file]
    return chosen or [file for file in weights if file.count(".") == 1]


def embedded_folder() -> Path:
    """Folder of the model that ships inside the package; `FileNotFoundError` if this copy has no weights."""
    if not (EMBEDDED / INDEX).is_file() or not list(EMBEDDED.glob("unet/*.safetensors")):
        raise FileNotFoundError(
            f"The embedded model is missing from {EMBEDDED}. Reinstall diffusers-soundctm from a release or a full "
            "clone, or load another model by its folder or Hub id."
        )
    return EMBEDDED


def count_parameters(folder: Path) -> tuple[int, int]:
    """Numbers held by one set of weights of a component, and the bytes of its files, from their headers alone.

    It is the plain set; of a component that has variants only, the first.
    """
    names = sorted(file.name for file in folder.glob("*.safetensors"))
    variant = names[0].split(".")[1].partition("-")[0] if names else None  # model.fp16-00001-of-00002.safetensors
    files = [folder / name for name in one_set_of_weights(names, None) or one_set_of_weights(names, variant)]
    parameters = sum(math.prod(tensor["shape"]) for file in files for tensor in read_header(file).values())
    return parameters, sum(file.stat().st_size for file in files)
