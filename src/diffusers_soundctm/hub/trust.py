"""Check that loading a model folder runs no code but our own.

`from_pretrained` of diffusers and transformers imports modules that a folder's configurations name, some of them from
files in the folder. The checks here let through plain names, files inside the folder, and code that is ours to the
letter.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"

# The stock `DiffusionPipeline` finds classes from outside diffusers through a .py file next to each component.
REMOTE_CODE = (_TEMPLATES / "pipeline.py").read_text(encoding="utf-8").encode()
# Code that Hugging Face Inference Endpoints run.
HANDLER = (_TEMPLATES / "handler.py").read_text(encoding="utf-8").encode()

# Keys of configurations that name classes, and those for which transformers loads compiled code from the Hub if the
# name is a repo.
_CLASS_KEYS = (
    "_class_name",
    "architectures",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)


def check_index_names(index: Mapping[str, Any], file: Path, passed: Collection[str] = ()) -> None:
    """Check that `model_index.json` names components, libraries and classes by plain identifiers.

    Args:
        index: content of the file.
        file: the file, for the message.
        passed: components that are not loaded from the folder.

    Raises:
        OSError: a name could lead out of the folder or into another module.
    """
    _check_names(index.get("_class_name"), "_class_name", file)
    for name, value in index.items():
        if name in passed or not isinstance(value, list) or not any(isinstance(part, str) for part in value):
            continue
        if not name.startswith("_"):
            _check_names(name, "a component", file)
            if len(value) != 2:
                raise OSError(f"{file} has {name} = {value!r}; a component has a library and a class.")
        _check_names(value, name, file)


def check_config_names(config: Any, file: Path) -> None:
    """Check that a component's configuration, at any depth, names plain classes and refers to no code.

    Raises:
        OSError: a name could lead to another module, or to a repo with code.
    """
    if isinstance(config, list):
        for value in config:
            check_config_names(value, file)
    if not isinstance(config, dict):
        return
    for key in _CLASS_KEYS:
        _check_names(config.get(key), key, file)
    if config.get("auto_map"):
        raise OSError(
            f"{file} refers to code of its own (auto_map = {config['auto_map']!r}), which is not run; remove auto_map "
            "if you do not need it."
        )
    for value in config.values():
        check_config_names(value, file)


def _check_names(value: Any, key: str, file: Path) -> None:
    names = value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    for name in names:
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise OSError(
                f"{file} has {key} = {value!r}, but {name!r} is not a plain name; get the model from its authors, or "
                "pass the component to `from_pretrained`."
            )


def check_links(folder: Path, names: Collection[str]) -> None:
    """Check that no file in `folder` or in its subfolders `names` is a link that leaves the folder.

    Links to the blobs of the Hub's cache are accepted.

    Raises:
        OSError: a link leads elsewhere.
    """
    inside = folder.resolve()
    roots = [inside]
    if inside.parent.name == "snapshots":
        roots.append(inside.parents[1] / "blobs")
    for path in _entries(folder, names):
        target = path.resolve()
        if not any(target.is_relative_to(root) for root in roots):
            raise OSError(
                f"{path} is a link to {target}, outside of the model's folder; copy the file into the folder."
            )


def _entries(folder: Path, names: Collection[str]) -> Iterator[Path]:
    yield from folder.iterdir()
    for name in names:
        if (folder / name).is_dir():
            yield from (folder / name).rglob("*")


def holds_only_our_code(folder: Path) -> bool:
    """Return whether every Python file in `folder` is exactly what `write_repo` writes, which is safe to run."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() == ".py")
    return all(file.read_bytes() == (HANDLER if file.name == "handler.py" else REMOTE_CODE) for file in files)


def model_to_load(named: str, file: Path, *, passed: str | None = None, in_use: Collection[str] = ("embedded",)) -> str:
    """Return the model to use for a sound file that names the model it was made with.

    A file can name any repo on the Hub. The model is loaded only if it is already in use, or the user passed a model.

    Args:
        named: the model that the file names.
        file: the file, for the message.
        passed: the user's choice, which replaces `named`.
        in_use: models that are loaded or ship with the package.

    Raises:
        ValueError: the file names another model and the user passed none.
    """
    if passed is not None:
        return passed
    if named in in_use:
        return named
    raise ValueError(
        f"{file} was made with the model {named!r}. It is not loaded unless you ask for it: pass --model "
        f"{shlex.quote(named) if named.isprintable() else 'with its name'} if you trust that model."
    )
