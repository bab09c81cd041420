"""An upper bound on the disk space of the files that clients upload and receive. The oldest files go first."""

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path

from .. import files

MAX_BYTES_PER_CLIENT = 256 * 2**20
MAX_BYTES = 2 * 2**30


class DiskBudget:
    """Deletes the oldest files of a client, and then the oldest of all, when they exceed a limit.

    The newest file always stays.

    Args:
        per_client: Largest number of bytes of one client.
        in_all: Largest number of bytes of all clients together.
    """

    def __init__(self, per_client: int = MAX_BYTES_PER_CLIENT, in_all: int = MAX_BYTES):
        self.per_client, self.in_all = per_client, in_all
        self._files: OrderedDict[Path, tuple[str, int]] = OrderedDict()  # path to client and bytes, oldest first
        self._lock = threading.Lock()

    def write(self, path: Path, content: bytes, client: str) -> None:
        """Write a file of a client, completely or not at all: somebody may be downloading the same one."""
        with self._lock:
            path.parent.mkdir(parents=True, exist_ok=True)
            with files.atomic(path) as temporary:
                temporary.write_bytes(content)
            self._add(path, client)

    def add(self, path: Path, client: str) -> None:
        """Count a file that exists already. A file of two clients counts for the one that added it last.

        Raises:
            ValueError: The file is not there; newer ones may have taken its space.
        """
        with self._lock:
            if not path.is_file():
                raise ValueError("The uploaded file is no longer on the server; upload it again.")
            self._add(path, client)

    def _add(self, path: Path, client: str) -> None:
        self._files.pop(path, None)
        self._files[path] = (client, path.stat().st_size)
        self._shrink([one for one, (whose, _) in self._files.items() if whose == client], self.per_client)
        self._shrink(list(self._files), self.in_all)

    def _shrink(self, paths: list[Path], limit: int) -> None:
        size = sum(self._files[path][1] for path in paths)
        for path in paths[:-1]:
            if size <= limit:
                return
            size -= self._files.pop(path)[1]
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are in the folder
                path.parent.rmdir()
