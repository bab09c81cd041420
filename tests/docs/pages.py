"""Code blocks of the Markdown pages, and what their HTML comments say about them.

A page may declare, anywhere:
    <!-- placeholders: my_sounds=tiny_sounds -->  text in its code blocks that `placeholders.py` replaces
    <!-- slow -->                                 the page takes more than a few seconds
Above a block it may say:
    <!-- not run: reason -->                      parse the block's commands and imports, but do not run it
    <!-- settings: --max_train_steps 2 -->        add these arguments to the block's commands
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Not parsed: installation, tests and linters, which CI runs itself, and calls of the app, which its own tests make.
CI_RUNS = (
    "python3 -m venv",
    "pip",
    "sudo",
    "git",
    "cd",
    "curl",
    "hf",
    "source",
    "pre-commit",
    "pytest",
    "pyright",
    "ruff",
)

_COMMENT = re.compile(r"<!--\s*(?P<key>placeholders|slow|not run|settings)(?::\s*(?P<value>.*?))?\s*-->", re.DOTALL)
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block: its language, code, line in the page, and the comments above it."""

    language: str
    code: str
    line: int
    not_run: str | None = None
    settings: tuple[str, ...] = ()

    def commands(self) -> list[list[str]]:
        """Words of each command of a bash block, without comments, environment variables and what CI runs."""
        commands = []
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                while command and re.match(r"\w+=(?!\$\()", command[0]):
                    del command[0]
                if command:  # name=$(command ...)
                    command[0] = re.sub(r"^\w+=\$\(", "", command[0])
                name = " ".join([Path(command[0]).name, *command[1:]]) if command else ""
                if name and not name.startswith(CI_RUNS):
                    commands.append([Path(command[0]).name, *command[1:]])
        return commands


@dataclass(frozen=True)
class Page:
    """A Markdown page, with its blocks in order."""

    path: Path
    blocks: tuple[Block, ...]
    placeholders: dict[str, str]
    slow: bool

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


def pages() -> list[Page]:
    """The README, the guides and the model's card."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    paths += [ROOT / "src/diffusers_soundctm/embedded/README.md", ROOT / "examples/gradio_space/README.md"]
    return [read_page(path) for path in paths]


def read_page(path: Path) -> Page:
    """Parse one page."""
    text = path.read_text(encoding="utf-8")
    placeholders, slow = {}, False
    for comment in _COMMENT.finditer(text):
        if comment["key"] == "slow":
            slow = True
        elif comment["key"] == "placeholders":
            placeholders |= dict(pair.split("=", 1) for pair in comment["value"].split())
    blocks, end = [], 0
    for match in _BLOCK.finditer(text):
        comments = {c["key"]: c["value"] for c in _COMMENT.finditer(text, end, match.start())}
        end = match.end()
        indent = len(match["indent"])
        code = "".join(line[indent:] if line.strip() else line for line in match["code"].splitlines(keepends=True))
        line = text[: match.start()].count("\n") + 1
        settings = tuple(shlex.split(comments.get("settings", "")))
        blocks.append(Block(match["language"], code, line, comments.get("not run"), settings))
    return Page(path, tuple(blocks), placeholders, slow)


def fill(text: str, values: dict[str, str]) -> str:
    """`text` with every placeholder replaced by its value."""
    for name, value in values.items():
        text = re.sub(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", lambda _, value=value: value, text)
    return text
