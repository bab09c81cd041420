"""Checks of single values that come from browsers, API clients and files.

Each function returns the checked value, or raises a `ValueError` whose message is shown to the person at the screen.
"""

from collections.abc import Sequence
from typing import Any

from ..files import check_unicode

MAX_PROMPT = 300  # characters


def number(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float between `low` and `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; choose a number from {low:g} to {high:g}.")
    return float(value)


def integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an integer between `low` and `high`. JavaScript sends whole numbers as floats; these pass."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; choose a whole number from {low} to {high}.")
    return value


def text(name: str, value: Any, may_be_empty: bool = False) -> str:
    """Return `value` as one line of at most `MAX_PROMPT` characters, without control characters."""
    value = "" if value is None else value  # gradio sends None for an empty text field
    if not isinstance(value, str):
        raise ValueError(f"The {name} is of type {type(value).__name__}; write a few words.")
    check_unicode(value, f"The {name}")
    value = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    if not value and not may_be_empty:
        raise ValueError(f"The {name} is empty; describe a sound, for instance: rain on a tin roof.")
    if len(value) > MAX_PROMPT:
        raise ValueError(f"The {name} has {len(value)} characters; shorten it to at most {MAX_PROMPT}.")
    return value


def is_list(value: Any) -> bool:
    """Whether `value` is a sequence of items; a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)
