"""Model folders on disk and on the Hub: what to download, what must be there, and what a pushed repo carries."""

import json
import math
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import create_repo, get_cached_repo_tree, snapshot_download, upload_folder
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

if TYPE_CHECKING:
    from .pipelines.pipeline_soundctm import SoundCTMPipeline

INDEX = "model_index.json"
EMBEDDED = Path(__file__).parent / "embedded"
# Each is a whole vocabulary: of any tokenizer, and in the older files of BERT, CLAP and GPT-2, T5.
VOCABULARIES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("*.model",))
DOWNLOAD_ARGUMENTS = ("variant", "revision", "token", "cache_dir", "force_download", "local_files_only")

# The stock `DiffusionPipeline` resolves classes from outside diffusers through a .py file next to each component.
REMOTE_CODE = """try:
    from diffusers_soundctm import *  # noqa: F403
except ModuleNotFoundError as error:
    if error.name != "diffusers_soundctm":
        raise
    raise ModuleNotFoundError("Its pipeline is not part of diffusers: pip install diffusers-soundctm") from error
"""

# What Hugging Face Inference Endpoints run.
HANDLER = '''"""{"inputs": prompt, "parameters": {...}} -> {"audio": base64 of a WAV, "sampling_rate": Hz}."""

import base64
import io

import soundfile
import torch
from diffusers_soundctm import SoundCTMPipeline


class EndpointHandler:
    def __init__(self, path: str = ""):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.float16 if device == "cuda" else torch.float32
        self.pipe = SoundCTMPipeline.from_pretrained(path, torch_dtype=dtype).to(device)

    def __call__(self, data: dict) -> dict:
        parameters = dict(data.get("parameters") or {})
        if "seed" in parameters:
            parameters["generator"] = torch.Generator().manual_seed(int(parameters.pop("seed")))
        audio = self.pipe(data["inputs"], **parameters).audios[0]
        audio = audio / max(1, abs(audio).max())  # full scale is 1: scaled down, not clipped
        file = io.BytesIO()
        soundfile.write(file, audio.T, self.pipe.sampling_rate, format="WAV")
        return {"audio": base64.b64encode(file.getvalue()).decode(), "sampling_rate": self.pipe.sampling_rate}
'''
REQUIREMENTS = "diffusers-soundctm\n"
_OUR_CODE = {"handler.py": HANDLER}

CARD = """---
library_name: diffusers
pipeline_tag: text-to-audio
tags: [soundctm, text-to-audio, sound-effects, diffusers]
{metadata}---

# {name}

A [SoundCTM](https://arxiv.org/abs/2405.18503) model: text to sound in 1 to 16 steps.

```python
from diffusers_soundctm import SoundCTMPipeline  # pip install diffusers-soundctm

{load}
audio = pipe("rain on a tin roof", num_inference_steps=4).audios[0]  # ({channels}, samples) at {sampling_rate} Hz
```

{note}Range of `guidance_scale` (ω) in training: {guidance_scale_range}.
"""
_LOAD = 'pipe = SoundCTMPipeline.from_pretrained("{name}")'
_LOAD_ADAPTER = """pipe = SoundCTMPipeline.from_teacher("{teacher}", branch_init="{branch_init}")
pipe.load_lora_weights("{name}")"""
_NOTE = """With the package installed, diffusers' own
`DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)` gives the same pipeline. """


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


def wanted_files(filenames: Iterable[str], names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of a repo that a load needs: configs, tokenizers, and of each component one set of safetensors weights.

    A component's `variant` weights are taken where it has them, else its plain ones.
    """
    wanted = [INDEX]
    for name in names:
        files = [file.removeprefix(f"{name}/") for file in filenames if file.startswith(f"{name}/")]
        texts = [file for file in files if file.endswith((".json", ".txt", ".model"))]
        wanted += [f"{name}/{file}" for file in (*_one_set_of_weights(files, variant), *texts)]
    return wanted


def _one_set_of_weights(files: Sequence[str], variant: str | None) -> list[str]:
    weights = [file for file in files if file.endswith(".safetensors")]
    chosen = [file for file in weights if variant is not None and f".{variant}" in file]
    return chosen or [file for file in weights if file.count(".") == 1]


def download(
    repo_id: str,
    skip: Collection[str] = (),
    variant: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> str:
    """Folder of the cached snapshot of `repo_id` with everything a load needs; components in `skip` are not fetched.

    Without a connection the cached copy is used.

    Raises:
        OSError: no such repo, no pipeline in it, or no connection and no complete cached copy.
    """
    where = {
        "token": token,
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": bool(local_files_only),
    }
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[INDEX], **where))
        check_index(folder)
        commit = folder.name
        filenames = [file.path for file in get_cached_repo_tree(repo_id, revision=commit, cache_dir=cache_dir)]
        files = wanted_files(filenames, [name for name in components(folder) if name not in skip], variant)
        return snapshot_download(repo_id, revision=commit, allow_patterns=files, **where)
    except UNREACHABLE as error:
        raise not_found(repo_id, error) from error


def download_files(repo_id: str, patterns: Collection[str], **where: Any) -> str:
    """Folder of the cached snapshot of `repo_id` with the files whose paths fit `patterns`, fetched if need be.

    Raises:
        OSError: no such repo, or no connection and no cached copy.
    """
    try:
        return snapshot_download(repo_id, allow_patterns=list(patterns), **where)
    except UNREACHABLE as error:
        raise not_found(repo_id, error) from error


UNREACHABLE = (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, CachedRepoTreeNotFoundError)


def not_found(repo_id: str, error: Exception) -> OSError:
    """What to raise for one of `UNREACHABLE`."""
    return OSError(
        f"{repo_id!r} is neither a folder on this machine nor a model on the Hub that can be reached or is cached "
        f"({str(error).splitlines()[0]}). Check the spelling and the connection."
    )


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
    files = [folder / name for name in _one_set_of_weights(names, None) or _one_set_of_weights(names, variant)]
    parameters = sum(math.prod(tensor["shape"]) for file in files for tensor in read_header(file).values())
    return parameters, sum(file.stat().st_size for file in files)


def holds_only_our_code(folder: Path) -> bool:
    """Whether every Python file of a model folder is what `push_to_hub` writes, which is safe to run."""
    return all(file.read_text() == _OUR_CODE.get(file.name, REMOTE_CODE) for file in folder.rglob("*.py"))


def model_card(
    pipe: "SoundCTMPipeline",
    repo_id: str,
    license: str | None = None,
    facts: Mapping[str, str] | None = None,
    sounds: Sequence[str] = (),
    adapter_of: str | None = None,
) -> str:
    """README of a pushed repo.

    Args:
        license: SPDX id for the metadata block.
        facts: what to tell about training; a `teacher` that is a Hub id also becomes the `base_model`.
        sounds: paths in the repo of sounds to show.
        adapter_of: the teacher, if the repo holds an adapter only.
    """
    omega = pipe.config.guidance_scale_range
    teacher = adapter_of or (facts or {}).get("teacher", "")
    metadata = f"license: {license}\n" if license else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", teacher):
        metadata += f"base_model: {teacher}\n" + ("base_model_relation: adapter\n" if adapter_of else "")
    load = _LOAD_ADAPTER if adapter_of else _LOAD
    card = CARD.format(
        name=repo_id,
        metadata=metadata,
        load=load.format(name=repo_id, teacher=teacher, branch_init=getattr(pipe.denoiser.config, "branch_init", "")),
        note="" if adapter_of else _NOTE.format(name=repo_id),
        channels=pipe.num_channels,
        sampling_rate=pipe.sampling_rate,
        guidance_scale_range=f"{omega[0]:g} to {omega[1]:g}" if omega else "not recorded",
    )
    if facts:
        rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
        card += f"\n## Training\n\n| | |\n|---|---|\n{rows}"
    if sounds:
        base = f"https://huggingface.co/{repo_id}/resolve/main"
        players = "\n".join(f'- {Path(sound).stem}: <audio controls src="{base}/{sound}"></audio>' for sound in sounds)
        card += f"\n## Sounds\n\n{players}\n"
    return card


def write_repo(pipe: "SoundCTMPipeline", folder: Path, card: str, variant: str | None = None) -> None:
    """Write what a pushed repo holds: weights (sharded if large), card, and the code of loaders and endpoints."""
    pipe.save_pretrained(folder, variant=variant)
    (folder / "README.md").write_text(card, encoding="utf-8")
    index = json.loads((folder / INDEX).read_text())
    index["_class_name"] = ["pipeline", index["_class_name"]]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "pipeline.py").write_text(REMOTE_CODE)
    (folder / "handler.py").write_text(HANDLER)
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    for name, (library, _) in components(folder).items():
        if library == __package__:
            (folder / name / f"{library}.py").write_text(REMOTE_CODE)


def push_to_hub(
    pipe: "SoundCTMPipeline",
    repo_id: str,
    *,
    license: str | None = None,
    card: str | None = None,
    variant: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload `pipe` to the Hub repo `repo_id`, created if need be, with a model card.

    The repo also loads through the stock `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)`.

    Args:
        license: SPDX id for the card written by `model_card`; `card` is a README of your own in its place.

    Returns:
        URL of the commit (or of the pull request with `create_pr`).
    """
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repo(pipe, folder, card or model_card(pipe, repo_id, license), variant)
        return str(
            upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                token=token,
                commit_message=commit_message or f"Upload {type(pipe).__name__}",
                create_pr=create_pr,
            )
        )
