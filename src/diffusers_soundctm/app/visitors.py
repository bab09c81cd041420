"""Who sends a request, the files that they receive, and a line in the log for each request that is refused."""

from pathlib import Path
from typing import Any

from diffusers.utils import logging

from .disk import DiskBudget
from .fair_queue import Owner

logger = logging.get_logger(__name__)

LONGEST_LINE = 300  # characters of an error message in the log


def owner_of(request: Any) -> Owner:
    """Return the owner of a request: its session, if it has one, and the address that it comes from."""
    return Owner(getattr(request, "session_hash", None) or "", request.client.host if request.client else "")


def store(disk: DiskBudget, content: bytes, name: str, owner: Owner) -> Path:
    """Write a file that the owner may download, and return its path."""
    from gradio.processing_utils import hash_bytes
    from gradio.utils import get_upload_folder

    # Where gradio would copy a file of this content, so that there is one copy.
    path = Path(get_upload_folder()).resolve() / hash_bytes(content) / name
    disk.write(path, content, owner.client)
    return path


def log_refusal(name: str, request: Any, error: Exception) -> None:
    """Log in one line why a request is refused. The message may contain text from the client."""
    reason = " ".join(str(error).split())[:LONGEST_LINE]
    logger.warning(f"Refused {name} for {owner_of(request).client or 'an unknown address'}: {reason}")
