"""Captions: read the table of an audio folder, and check what a data set holds."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

METADATA = ("metadata.csv", "metadata.jsonl")


def check_captions(value: Any, column: str = "caption") -> list[str]:
    """Return the captions of a clip as a list.

    Args:
        value: One caption, or a list of paraphrases of which training draws one at a time.
        column: Name of the caption column, for the message.

    Raises:
        ValueError: The value is neither a string nor a list of strings, or a caption is empty or not valid Unicode. The
            message goes on after the name of the clip: "has the caption ...".
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, (list, tuple)) or not captions or not all(map(_is_caption, captions)):
        shown = repr(value)
        raise ValueError(
            f"has {shown[:80] + ' …' if len(shown) > 80 else shown} in column {column!r}; give every clip a non-empty "
            "string, or a list of them"
        )
    return list(captions)


def _is_caption(value: Any) -> bool:
    # Tokenizers cannot encode lone surrogates, which JSON can hold.
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def read_metadata(path: Path) -> list[dict[str, Any]]:
    """Read the `metadata.csv` or `metadata.jsonl` of an audio folder.

    The file is UTF-8, with or without a byte order mark. Its column `file_name` names the audio files.

    Returns:
        One dictionary per row, all with the same keys. `file_name` is a non-empty string.

    Raises:
        ValueError: The file is in another encoding, a row or the header is malformed, or there is no `file_name`. The
            message names the file and the line.
    """
    text = _read_utf8(path)
    rows = _json_rows(text, path) if path.suffix == ".jsonl" else _csv_rows(text, path)
    for line, row in rows:
        if not isinstance(row["file_name"], str) or not row["file_name"].strip():
            raise ValueError(f"{path}, line {line}: `file_name` is {row['file_name']!r}; name an audio file.")
    return [row for _, row in rows]


def read_captions(path: str | os.PathLike) -> list[str]:
    """Read a text file with one caption per line. Empty lines are ignored.

    Raises:
        ValueError: The file is not UTF-8 or has no caption.
    """
    captions = [line.strip() for line in _read_utf8(Path(path)).splitlines() if line.strip()]
    if not captions:
        raise ValueError(f"{path} has no caption; give a text file with one caption per line.")
    return captions


def _read_utf8(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: the file is not UTF-8 (byte 0x{content[error.start]:02x}); save it again as UTF-8, "
            'in Excel as "CSV UTF-8".'
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes, as UTF-16 does; save it again as UTF-8.")
    return text


def _csv_rows(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of each row of a CSV file."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    rows = []
    while True:
        line = reader.line_num + 1  # a quoted field may go over several lines: this is the first
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: {error}; enclose a field with commas or quotes in double quotes, and double the "
                "quotes inside it."
            ) from error
        if fields is None:
            break
        if not fields:
            continue
        if header is None:
            header = _checked_header(fields, path, line)
        elif len(fields) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(fields)} fields, but the header has {len(header)} columns; enclose a field "
                "with commas in double quotes."
            )
        else:
            rows.append((line, dict(zip(header, fields, strict=True))))
    if header is None:
        raise ValueError(f"{path} is empty; give it a header with the columns file_name and caption.")
    return rows


def _checked_header(header: list[str], path: Path, line: int) -> list[str]:
    header = [name.strip() for name in header]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}, line {line}: the header has {twice[0]!r} more than once; rename one of the columns.")
    if "file_name" not in header:
        separators = " Separate the columns with commas." if len(header) == 1 else ""
        raise ValueError(
            f"{path}, line {line}: the columns are {header}; name the column of the audio files 'file_name'."
            f"{separators}"
        )
    return header


def _json_rows(text: str, path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, row) of each row of a file with one JSON object per line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: {error}; give one JSON object per line.") from error
        if not isinstance(row, dict) or "file_name" not in row:
            raise ValueError(f"{path}, line {line}: {content.strip()[:80]!r} is no object with the key 'file_name'.")
        if rows and row.keys() != rows[0][1].keys():
            raise ValueError(f"{path}, line {line}: the keys are {list(row)}, but {list(rows[0][1])} before.")
        rows.append((line, row))
    if not rows:
        raise ValueError(f"{path} is empty; give it one JSON object with file_name and caption per line.")
    return rows
