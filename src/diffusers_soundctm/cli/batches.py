"""What `soundctm generate` makes: one prompt, or a list of them with settings of their own."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import check_unicode
from .arguments import check_duration, check_loudness, check_seed, check_steps

DELIMITERS = {".csv": ",", ".tsv": "\t"}
COMMENT = "#"
LONGEST_NAME = 60  # characters of a name made from a prompt


@dataclass(frozen=True)
class Row:
    """One line of a list. What is None is taken from the command's options.

    Attributes:
        prompt: Description of the sound.
        name: Name of its file, without folder and extension.
        seed: Seed of its first sound.
        duration: Length in seconds.
        loudness: Target in LUFS.
        steps: Number of steps.
    """

    prompt: str
    name: str | None = None
    seed: int | None = None
    duration: float | None = None
    loudness: float | None = None
    steps: int | None = None


# Columns with numbers: their type and the check that the option of the same name has.
NUMBERS = {
    "seed": (int, check_seed),
    "duration": (float, check_duration),
    "loudness": (float, check_loudness),
    "steps": (int, check_steps),
}
COLUMNS = ("name", "prompt", *NUMBERS)


def read_rows(file: Path) -> list[Row]:
    """Read a list of prompts: lines of text, or a table (.csv, .tsv) whose first line names its columns.

    Empty lines and lines that begin with # are skipped.

    Raises:
        ValueError: The list is empty or not UTF-8, or a value cannot be used; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file} is not a UTF-8 text file; save it as UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if _says_something(line)]
    delimiter = DELIMITERS.get(file.suffix.lower())
    lines_as_rows = (Row(line.strip()) for _, line in numbered)
    rows = list(lines_as_rows if delimiter is None else _table(file, numbered, delimiter))
    if not rows:
        raise ValueError(f"--prompts {file} has no prompts; write one prompt per line.")
    return rows


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(COMMENT)


def _table(file: Path, numbered: list[tuple[int, str]], delimiter: str) -> Iterator[Row]:
    # One line per row, so that a message can name it: prompts have no line breaks.
    cells = [(number, next(csv.reader([line], delimiter=delimiter))) for number, line in numbered]
    if not cells:
        return
    header = [name.strip().lower() for name in cells[0][1]]
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "prompt" not in header or len(set(header)) < len(header):
        raise ValueError(
            f"--prompts {file} has the columns {', '.join(header)}; the first line must name the column prompt, and "
            f"may name {', '.join(name for name in COLUMNS if name != 'prompt')}."
        )
    for number, values in cells[1:]:
        where = f"--prompts {file}, line {number}"
        if len(values) > len(header):
            raise ValueError(f"{where} has {len(values)} cells for {len(header)} columns; quote cells with commas.")
        row = {name: value.strip() for name, value in zip(header, values, strict=False) if value.strip()}
        if "prompt" not in row:
            raise ValueError(f"{where} has no prompt; write one, or start the line with {COMMENT}.")
        if "name" in row:
            _check_name(row["name"], where)
        yield Row(**row | {name: _number(row[name], name, where) for name in NUMBERS if name in row})


def _number(text: str, name: str, where: str) -> float:
    kind, check = NUMBERS[name]
    try:
        value = kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{where}: {name} is {text!r}; write {wanted}.") from error
    check(value, f"{where}: {name}")
    return value


def _check_name(name: str, where: str) -> None:
    check_unicode(name, f"{where}: name")
    if Path(name).name != name or "\\" in name or not name.isprintable():
        raise ValueError(f"{where}: name is {name!r}; write the name of a file, without its folder.")


def name_from_prompt(prompt: str) -> str:
    """Return a prompt's letters and digits in lower case, joined by hyphens, as the name of a file."""
    return re.sub(r"[\W_]+", "-", prompt.lower())[:LONGEST_NAME].strip("-") or "sound"


def file_names(rows: list[Row], num: int, stem: str, from_prompt: bool) -> list[str]:
    """Return the names of the files of all rows, `num` per row, without extension.

    A row with a name keeps it, with a number if `num` is above 1. Others are numbered over the whole list, or named
    after their prompts.

    Raises:
        ValueError: Two rows have the same name.
    """
    digits, total = len(str(num)), len(rows) * num
    twice = [name for name, count in Counter(row.name for row in rows if row.name).items() if count > 1]
    if twice:
        raise ValueError(f"--prompts has the name {twice[0]!r} twice; give each line a name of its own.")
    names: list[str] = []
    used: Counter[str] = Counter()
    for row in rows:
        if row.name is None and not from_prompt:
            numbers = range(len(names) + 1, len(names) + num + 1)
            names += [f"{stem}-{i:0{len(str(total))}d}" for i in numbers] if total > 1 else [stem]
            continue
        name = row.name or name_from_prompt(row.prompt)
        used[name] += 1
        if row.name is None and used[name] > 1:
            name = f"{name}-{used[name]}"
        names += [f"{name}-{i + 1:0{digits}d}" for i in range(num)] if num > 1 else [name]
    if len(set(names)) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise ValueError(f"Two sounds would have the name {name!r}; give the lines of --prompts other names.")
    return names


def row_options(row: Row, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of the pipeline's call for a row; its own values replace `defaults`."""
    own = {"num_inference_steps": row.steps, "audio_length_in_s": row.duration}
    return defaults | {name: value for name, value in own.items() if value is not None}
