"""The commands of docs/model_zoo.md are commands: their options exist and take what they are given."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from diffusers_soundctm import cli

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "model_zoo.md").read_text(), re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES]


def parse(words: list[str]) -> object:
    """The arguments of a command of this package or of one of its scripts."""
    if words[0] == "soundctm":
        return cli.parse(words[1:])
    script = ROOT / next(word for word in words if word.endswith(".py"))
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.parse(words[words.index(str(script.relative_to(ROOT))) + 1 :])


@pytest.mark.parametrize("words", [w for w in COMMANDS if w and w[0] != "pip"], ids=" ".join)
def test_documented_command(words, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    assert parse(words)
