"""Check what a model folder holds without loading the model."""

import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import is_hidden, read_json
from .trust import check_config_names, check_index_names, check_links

INDEX = "model_index.json"
# Optional: the kinds of sounds that a model knows, with example prompts, and embeddings of captions of them.
KNOWN_SOUNDS = "known_sounds.json"
KNOWN_SOUNDS_WEIGHTS = "known_sounds.safetensors"
ADAPTER = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")
_PACKAGE = sys.modules[__name__.partition(".")[0]]
EMBEDDED = Path(__file__).parent.parent / "embedded"
# Each tuple is a complete vocabulary: of any tokenizer, and in older formats of BERT, of CLAP and GPT-2, and of T5.
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))


def components(folder: Path) -> dict[str, tuple[str, str]]:
    """Return name → (library, class) of the components that `model_index.json` lists, without those that are None."""
    return {
        name: tuple(value)
        for name, value in read_config(folder / INDEX).items()
        if not name.startswith("_") and isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    }


def check_index(folder: Path, passed: Collection[str] = ()) -> None:
    """Raise `OSError` unless `folder` holds a `model_index.json` that is readable and names plain classes."""
    if not (folder / INDEX).is_file():
        raise OSError(f"{folder} has no {INDEX}; {_remedy_without_index(folder)}")
    check_index_names(read_config(folder / INDEX), folder / INDEX, passed)
    for name, (library, class_name) in components(folder).items():
        if library == _PACKAGE.__name__ and class_name not in dir(_PACKAGE) and name not in passed:
            raise OSError(
                f"{folder / INDEX} names the class {class_name} for {name}, which this version of {library} does not "
                f"have; update the package, or pass `{name}=`."
            )


def _remedy_without_index(folder: Path) -> str:
    """Say what a folder without `model_index.json` holds, and how that is loaded."""
    for name in DENOISERS:
        if (folder / name / "config.json").is_file():
            network = read_config(folder / name / "config.json").get("_class_name")
            return (
                f"it holds the components of a pipeline with a {network}. If it is a teacher such as Tango, load it "
                "with `SoundCTMPipeline.from_teacher`."
            )
    if (folder / "config.json").is_file():
        model = read_config(folder / "config.json").get("_class_name", "model")
        return f"it holds one {model}, not a pipeline. Load it with `{model}.from_pretrained`."
    if (folder / ADAPTER).is_file():
        return (
            "it holds an adapter. Load the teacher that it was trained for with `SoundCTMPipeline.from_teacher`, then "
            "call `load_lora_weights`."
        )
    return "pass a folder that `SoundCTMPipeline.save_pretrained` wrote."


def check_student(folder: Path, passed: Collection[str] = (), *, name: str | None = None) -> None:
    """Check that a folder holds a SoundCTM, not its teacher, which would load and fail in the first call.

    Args:
        folder: the folder.
        passed: components that the caller passes and that are not loaded from the folder.
        name: name of the model for the message; None is the folder.

    Raises:
        OSError: there is no readable `model_index.json`.
        ValueError: the folder holds a teacher, or a pipeline without a scheduler.
    """
    check_index(folder, passed)
    found = components(folder)
    names = read_config(folder / INDEX).get("_class_name")
    pipeline = names[-1] if isinstance(names, list) else names
    if "scheduler" in passed:
        return
    for part in (*DENOISERS, "scheduler") if pipeline != "SoundCTMPipeline" else ():
        library, class_name = found.get(part, (None, ""))
        if part not in passed and library in ("diffusers", _PACKAGE.__name__) and not class_name.startswith("CTM"):
            raise ValueError(
                f"{name or folder} is a teacher, not a SoundCTM: it holds a {pipeline}, whose {part} is a "
                f"{class_name}. Distill a SoundCTM from it with training/train_ctm.py, load an adapter for it with "
                f"`from_teacher` and `load_lora_weights`, or use it as it is with `diffusers.{pipeline}`."
            )
    if "scheduler" not in found:
        raise ValueError(f"{name or folder} has no scheduler; pass `scheduler=CTMScheduler(...)`.")


def check_folder(folder: Path, passed: Collection[str] = ()) -> None:
    """Check that a pipeline's folder is complete, undamaged and safe to load.

    Args:
        folder: the folder.
        passed: components that the caller passes and that are not loaded from the folder.

    Raises:
        OSError: a component is missing or damaged, a configuration names code, or a link leaves the folder.
    """
    check_index(folder, passed)
    names = [name for name in components(folder) if name not in passed]
    check_links(folder, names)
    for name in names:
        check_component(folder / name, name, f"download or copy the model again, or pass `{name}=`")


def check_component(folder: Path, name: str, remedy: str = "download or copy it again") -> None:
    """Check that the folder of one component is complete and undamaged, without loading its weights.

    Args:
        folder: the component's folder.
        name: its name in a pipeline, such as "vae" or "tokenizer".
        remedy: what to do about a missing file, as the end of the message.

    Raises:
        OSError: the folder or a file is missing or damaged, or a configuration names code.
    """
    if not folder.is_dir():
        raise OSError(f"{folder.parent} lacks the component {name}; {remedy}.")
    weights = _visible(folder, "*.safetensors")
    for file in weights:
        read_header(file)
    if not name.startswith(("tokenizer", "scheduler", "feature_extractor")):
        missing = [] if (folder / "config.json").is_file() else ["config.json"]
        missing += [] if weights else ["its weights (*.safetensors)"]
        missing += sorted(_missing_shards(folder))
        if missing:
            raise OSError(f"{folder} lacks {' and '.join(missing)}; {remedy}.")
    if name.startswith("scheduler") and not (folder / "scheduler_config.json").is_file():
        raise OSError(f"{folder} lacks scheduler_config.json; {remedy}.")
    for file in _visible(folder, "*.json"):
        content = read_config(file)
        if file.name.endswith("config.json"):  # other files are vocabularies, whose keys are words
            check_config_names(content, file)
    # Without a vocabulary, transformers makes a tokenizer that knows no word, and raises no error.
    if name.startswith("tokenizer") and not any(
        all(_visible(folder, file) for file in files) for files in VOCABULARIES
    ):
        needed = ", or ".join(" and ".join(files) for files in VOCABULARIES)
        raise OSError(f"{folder} lacks its vocabulary ({needed}); {remedy}.")


def _missing_shards(folder: Path) -> set[str]:
    """Names of the files that are missing from a set of sharded weights of which some files are there."""
    missing = set()
    for file in _visible(folder, "*.safetensors.index*.json"):
        weight_map = read_config(file).get("weight_map")
        names = set(map(str, weight_map.values())) if isinstance(weight_map, dict) else set()
        absent = {name for name in names if not (folder / name).is_file()}
        missing |= absent if absent < names else set()
    return missing


def _visible(folder: Path, pattern: str) -> list[Path]:
    return [file for file in folder.glob(pattern) if not is_hidden(file.name)]


def read_config(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; `OSError` if it is damaged or holds something else."""
    content = read_json(file)
    if not isinstance(content, dict):
        raise OSError(f"{file} holds a {type(content).__name__}, not an object; download or copy the model again.")
    return content


def read_known_sounds(folder: Path) -> dict[str, Any]:
    """Read `known_sounds.json` of a model's folder; {} if the model has none.

    Raises:
        OSError: the file is damaged.
    """
    file = folder / KNOWN_SOUNDS
    if not file.is_file():
        return {}
    content = read_config(file)
    kinds = content.get("kinds")
    if not isinstance(kinds, dict) or not all(isinstance(examples, list) for examples in kinds.values()):
        raise OSError(f"{file} has no object `kinds` of lists of prompts; download or copy the model again.")
    return content


def read_header(file: Path) -> dict[str, dict]:
    """Read the header of a safetensors file: tensor name → dtype, shape and data_offsets.

    Raises:
        OSError: the file is damaged.
    """
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
    """Choose among a component's file names the safetensors weights of `variant`, else the plain ones, else a variant.

    Without plain weights, it is the variant of the first name.
    """
    weights = sorted(file for file in files if file.endswith(".safetensors"))
    plain = [file for file in weights if file.count(".") == 1]
    if not plain and weights and variant is None:
        variant = weights[0].split(".")[1].partition("-")[0]  # model.fp16-00001-of-00002.safetensors
    return [file for file in weights if variant is not None and f".{variant}" in file] or plain


def only_variant(files: Mapping[str, Sequence[str]]) -> str | None:
    """Return the variant of a model some of whose components have no plain weights; None if all have.

    Args:
        files: component → its file names.

    Raises:
        ValueError: there are several such variants, or none that all these components have.
    """
    variants = {
        name: {_variant(file) for file in weights}
        for name, names in files.items()
        if (weights := [file for file in names if file.endswith(".safetensors")])
        and all(file.count(".") > 1 for file in weights)
    }
    if not variants:
        return None
    shared = set.intersection(*variants.values())
    if len(shared) != 1:
        found = "; ".join(f"{name} has {', '.join(sorted(options))}" for name, options in variants.items())
        raise ValueError(f"The model has weights of variants only ({found}); choose one with `variant=`.")
    return shared.pop()


def files_by_component(folder: Path, passed: Collection[str] = ()) -> dict[str, list[str]]:
    """Return component → the file names in its folder, without the components in `passed`."""
    names = [name for name in components(folder) if name not in passed]
    return {name: [file.name for file in _visible(folder / name, "*")] for name in names}


def _variant(file: str) -> str:
    return file.split(".")[1].partition("-")[0]  # of model.fp16-00001-of-00002.safetensors


def count_parameters(folder: Path) -> tuple[int, int]:
    """Count a component's parameters, and the bytes of their files, from the headers of one set of weights.

    The plain set is counted. If the component has variants only, the first one is.
    """
    names = [file.name for file in _visible(folder, "*.safetensors")]
    files = [folder / name for name in one_set_of_weights(names, None)]
    parameters = sum(math.prod(tensor["shape"]) for file in files for tensor in read_header(file).values())
    return parameters, sum(file.stat().st_size for file in files)


def stored_dtype(folder: Path, variant: str | None = None) -> torch.dtype:
    """Return the dtype of most of a component's weights in its files, by the headers of one set of them.

    Args:
        folder: the component's folder.
        variant: variant of the weights; without plain weights, None is the first.
    """
    counts = {torch.float32: 0, torch.float16: 0, torch.bfloat16: 0}
    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    for name in one_set_of_weights([file.name for file in _visible(folder, "*.safetensors")], variant):
        for tensor in read_header(folder / name).values():
            if tensor["dtype"] in names:
                counts[names[tensor["dtype"]]] += math.prod(tensor["shape"])
    return max(counts, key=lambda dtype: counts[dtype])


def embedded_folder() -> Path:
    """Return the folder of the model that ships with the package.

    Raises:
        FileNotFoundError: this copy of the package has no weights.
    """
    if not (EMBEDDED / INDEX).is_file() or not list(EMBEDDED.glob("unet/*.safetensors")):
        raise FileNotFoundError(
            f"The embedded model is missing from {EMBEDDED}. Reinstall diffusers-soundctm from a release or a full "
            "clone, or load another model by its folder or Hub id."
        )
    return EMBEDDED
