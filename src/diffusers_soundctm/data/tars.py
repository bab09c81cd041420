"""Read clips from tar files in WebDataset's layout: `key.flac` and `key.json` are members of clip `key`."""

import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any


def read_tars(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read clips from local or remote tar files, one after the other.

    Args:
        paths: Paths or URLs that fsspec opens.

    Yields:
        For each clip its members' bytes by extension, and as `__key__` the name of its tar file and its key.

    Raises:
        ValueError: A tar file is missing or damaged. The message names it.
    """
    import fsspec

    for path in paths:
        try:
            with fsspec.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
                yield from _clips(tar, path)
        except (OSError, tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path} cannot be read as a tar file ({error}); download or write it again.") from error


def _clips(tar: tarfile.TarFile, path: str) -> Iterator[dict[str, Any]]:
    clip: dict[str, Any] = {}
    for member in tar:
        folder, _, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not member.isfile() or not stem or not extension:
            continue
        key = f"{path}/{folder}/{stem}" if folder else f"{path}/{stem}"
        if clip and clip["__key__"] != key:
            yield clip
            clip = {}
        content = tar.extractfile(member)
        clip |= {"__key__": key, extension: content.read() if content else b""}
    if clip:
        yield clip


def decode_member(content: bytes, extension: str) -> Any:
    """Decode a text member of a clip: JSON by its extension, else plain text.

    Raises:
        ValueError: It is not UTF-8 or not valid JSON.
    """
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text) if extension.endswith("json") else text
    except ValueError as error:
        raise ValueError(f"has a damaged member .{extension} ({error})") from error
