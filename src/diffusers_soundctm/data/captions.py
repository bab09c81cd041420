"""Captions of a data set's rows."""

from typing import Any


def wordings_of(value: Any, caption_column: str, name: str, dataset: str) -> list[str]:
    """The captions in a row: a string or a list of them. `ValueError` if there is none, or an empty one."""
    wordings = [value] if isinstance(value, str) else list(value or [])
    if not wordings or not all(isinstance(wording, str) and wording.strip() for wording in wordings):
        raise ValueError(
            f"Column {caption_column!r} of {name!r} in data set {dataset!r} is {value!r}; "
            "give every clip a non-empty caption."
        )
    return wordings
