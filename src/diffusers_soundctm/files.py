"""Write files and folders completely or not at all, and read JSON."""

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None

if TYPE_CHECKING:
    import torch

_SUFFIX = ".unfinished"  # of temporary files and folders


@contextlib.contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file completely or not at all.

    The block writes to the temporary path that it is given. When the block ends, that file gets the name `path`. If
    the block raises an error, the temporary file is removed and an existing `path` keeps its content. Readers never
    see a part of the file. A symbolic link stays, and the file that it points to is written. The permissions of an
    existing file are kept.

    Args:
        path: Name of the file. Its folder must exist.

    Yields:
        The path of an empty temporary file in the same folder. Its name is short and has no meaningful suffix.

    Raises:
        OSError: `path` is a folder, a device or a pipe, or its folder does not exist or is not writable.

    Example:
        ```python
        with atomic("notes.txt") as temporary:
            temporary.write_text("complete")
        ```
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_file():
        kind = "a folder" if target.is_dir() else "not a regular file"
        raise OSError(f"{path} is {kind}; choose the name of a file.")
    temporary = _temporary(target)
    temporary.touch(exist_ok=False)
    try:
        with owned(temporary):
            mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)
            yield temporary
            temporary.chmod(mode)
            _flush(temporary)
            temporary.replace(target)
            _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder completely or not at all, as `atomic` does for a file.

    Args:
        path: Name of the folder. Missing parents are made.
        overwrite: Whether the new folder replaces an existing one.

    Yields:
        The path of an empty temporary folder beside `path`.

    Raises:
        OSError: `path` is a file, or a folder with content and `overwrite` is False, or it is not writable.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_dir():
        raise OSError(f"{path} is a file; choose the name of a folder.")
    if not overwrite and target.is_dir() and any(target.iterdir()):
        raise OSError(f"{path} is not empty; delete it or choose another folder.")
    temporary, old = _temporary(target), _temporary(target)
    temporary.mkdir(parents=True)
    try:
        with owned(temporary):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            if target.exists():
                target.replace(old)
            try:
                temporary.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
            _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(folder: str | os.PathLike) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`.

    What another process is writing stays.
    """
    for path in list(Path(folder).glob(f".*{_SUFFIX}")):
        with contextlib.suppress(OSError), owned(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def owned(path: str | os.PathLike) -> Iterator[None]:
    """Lock an existing file or folder as this process's own. The system releases the lock if the process dies.

    Nothing is locked on Windows and on network file systems that have no locks.

    Raises:
        BlockingIOError: Another process owns it.
        FileNotFoundError: There is no such file or folder.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno == errno.EACCES:
                raise BlockingIOError(error.errno, "locked by another process", str(path)) from error
        if os.fstat(descriptor).st_ino != Path(path).stat().st_ino:
            raise FileNotFoundError(errno.ENOENT, "removed by another process", str(path))
        yield
    finally:
        os.close(descriptor)


def check_unicode(text: str, name: str) -> None:
    """Raise `ValueError`, with the name of the argument, if `text` holds half of a character.

    Python decodes bytes that are not UTF-8, as in arguments of a command, to such lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is {text!r}, which is not valid Unicode at {error.start}; write it in UTF-8."
        ) from error


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads a user's files into one sentence.

    Args:
        what: What is read, with its name, as the subject of the sentence.

    Raises:
        ValueError: The block raised an error. Its text is in the message.
    """
    try:
        yield
    except Exception as error:  # a damaged file can fail in any of the libraries that read it
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{what} cannot be read ({type(error).__name__}: {reason}); give another one, or download or copy it again."
        ) from error


def is_hidden(path: str | os.PathLike) -> bool:
    """Return whether a path, relative to a folder of data, is hidden: `._a.wav`, `.DS_Store` or `__MACOSX/a.wav`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in Path(path).parts)


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: The file is missing or unreadable, or is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise OSError(f"{path} is not valid JSON ({error}); download or copy it again.") from error


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON in UTF-8, completely or not at all, see `atomic`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_safetensors(
    tensors: Mapping[str, "torch.Tensor"], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file completely or not at all, see `atomic`.

    Args:
        tensors: Name to tensor, on any device.
        path: Name of the file. Missing parents are made.
        metadata: Texts to keep in the header.
    """
    from safetensors.torch import save_file  # imports torch, which commands that only read files do without

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(contiguous, temporary, None if metadata is None else dict(metadata))


def _temporary(target: Path) -> Path:
    """A short new name beside `target`. A name derived from `target` may be too long for the file system."""
    return target.with_name(f".{secrets.token_hex(6)}{_SUFFIX}")


def _flush(path: Path) -> None:
    """Write a file, or the names in a folder, from the system's buffers to the disk."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return  # Windows cannot open a folder, and flushes a file only if it is open for writing.
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
