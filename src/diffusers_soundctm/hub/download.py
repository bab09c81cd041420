"""Download what a load needs, and nothing else."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from .folders import INDEX, check_index, components, one_set_of_weights

DOWNLOAD_ARGUMENTS = ("variant", "revision", "token", "cache_dir", "force_download", "local_files_only")

UNREACHABLE = (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, CachedRepoTreeNotFoundError)


def wanted_files(filenames: Iterable[str], names: Iterable[str], variant: str | None = None) -> list[str]:
    """The files of a repo that a load needs: configs, tokenizers, and of each component one set of safetensors weights.

    A component's `variant` weights are taken where it has them, else its plain ones.
    """
    wanted = [INDEX]
    for name in names:
        files = [file.removeprefix(f"{name}/") for file in filenames if file.startswith(f"{name}/")]
        texts = [file for file in files if file.endswith((".json", ".txt", ".model"))]
        wanted += [f"{name}/{file}" for file in (*one_set_of_weights(files, variant), *texts)]
    return wanted


def download_model(
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


def not_found(repo_id: str, error: Exception) -> OSError:
    """What to raise for one of `UNREACHABLE`."""
    return OSError(
        f"{repo_id!r} is neither a folder on this machine nor a model on the Hub that can be reached or is cached "
        f"({str(error).splitlines()[0]}). Check the spelling and the connection."
    )
