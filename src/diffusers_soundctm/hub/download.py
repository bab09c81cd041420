"""Download the files that a load needs, and no others."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from .folders import (
    DENOISERS,
    INDEX,
    KNOWN_SOUNDS,
    KNOWN_SOUNDS_WEIGHTS,
    check_index,
    components,
    one_set_of_weights,
    only_variant,
)

DOWNLOAD_ARGUMENTS = ("variant", "revision", "token", "cache_dir", "force_download", "local_files_only")
UNREACHABLE = (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, CachedRepoTreeNotFoundError)


def download_model(
    repo_id: str,
    skip: Collection[str] = (),
    variant: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    check: Callable[[Path, Collection[str]], None] = check_index,
) -> str:
    """Download what a load of `repo_id` needs, or take it from the cache if there is no connection.

    Args:
        repo_id: Hub id, as in "user/name".
        skip: components that are not needed.
        variant: variant of the weights, as in "fp16". Components without it come with their plain weights. None is the
            plain weights, or those of the only variant in a repo without plain weights.
        revision: branch, tag or commit.
        token: token for the Hub.
        cache_dir: folder of the cache.
        force_download: whether to download what is cached.
        local_files_only: whether to use the cache only.
        check: called with the folder of `model_index.json` and `skip` before anything else is downloaded.

    Returns:
        Folder of the snapshot in the cache.

    Raises:
        ValueError: `check` raised it, or there are several variants and no plain weights.
        OSError: there is no such repo, it holds no pipeline, or there is no connection and no complete cached copy.
    """
    where = {
        "token": token,
        "cache_dir": cache_dir,
        "force_download": force_download,
        "local_files_only": bool(local_files_only),
    }
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=[INDEX], **where))
        check(folder, skip)
        commit = folder.name
        filenames = [file.path for file in get_cached_repo_tree(repo_id, revision=commit, cache_dir=cache_dir)]
        names = [name for name in components(folder) if name not in skip]
        variant = variant or only_variant({name: _files_of(name, filenames) for name in names})
        files = wanted_files(filenames, names, variant)
        # Prompts are encoded as the denoiser's configuration says, also when the denoiser is not loaded.
        files += [f"{name}/config.json" for name in DENOISERS if name in skip]
        return snapshot_download(repo_id, revision=commit, allow_patterns=files, **where)
    except UNREACHABLE as error:
        raise not_found(repo_id, error) from error


def wanted_files(filenames: Iterable[str], names: Iterable[str], variant: str | None = None) -> list[str]:
    """Choose the files of a repo that a load needs: configurations, tokenizers, and one set of weights per component.

    Args:
        filenames: paths in the repo.
        names: components to load.
        variant: variant of the weights. Components without it are loaded with their plain weights.
    """
    filenames = list(filenames)
    wanted = [INDEX, *(file for file in (KNOWN_SOUNDS, KNOWN_SOUNDS_WEIGHTS) if file in filenames)]
    for name in names:
        files = _files_of(name, filenames)
        texts = [file for file in files if file.endswith((".json", ".txt", ".model"))]
        wanted += [f"{name}/{file}" for file in (*one_set_of_weights(files, variant), *texts)]
    return wanted


def _files_of(name: str, filenames: Iterable[str]) -> list[str]:
    return [file.removeprefix(f"{name}/") for file in filenames if file.startswith(f"{name}/")]


def download_files(repo_id: str, patterns: Collection[str], **where: Any) -> str:
    """Download the files whose paths match `patterns`, unless they are cached.

    Args:
        repo_id: Hub id.
        patterns: shell-style patterns.
        **where: further arguments of `snapshot_download`.

    Returns:
        Folder of the snapshot in the cache.

    Raises:
        OSError: there is no such repo, or there is no connection and no cached copy.
    """
    try:
        return snapshot_download(repo_id, allow_patterns=list(patterns), **where)
    except UNREACHABLE as error:
        raise not_found(repo_id, error) from error


def not_found(repo_id: str, error: Exception) -> OSError:
    """Return the error to raise for one of `UNREACHABLE`."""
    if isinstance(error, GatedRepoError):
        return OSError(
            f"{repo_id!r} is gated: accept its license at https://huggingface.co/{repo_id} and run `hf auth login`, or "
            "pass a folder with a copy."
        )
    return OSError(
        f"{repo_id!r} is neither a folder on this machine nor a model on the Hub that can be reached or is cached "
        f"({str(error).splitlines()[0]}). Check the spelling and the connection."
    )
