"""Who sends a request, and a line in the log for each request that is refused."""

from typing import Any

from diffusers.utils import logging

from .fair_queue import Owner

logger = logging.get_logger(__name__)

LONGEST_LINE = 300  # characters of an error message in the log


def owner_of(request: Any) -> Owner:
    """Return the owner of a `gr.Request`: its session, and the address that it comes from."""
    return Owner(request.session_hash or "", request.client.host if request.client else "")


def log_refusal(name: str, request: Any, error: Exception) -> None:
    """Log in one line why a request is refused. The message may contain text from the client."""
    reason = " ".join(str(error).split())[:LONGEST_LINE]
    logger.warning(f"Refused {name} for {owner_of(request).client or 'an unknown address'}: {reason}")
