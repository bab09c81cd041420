"""Run a documented command in this process, or only parse it with its own parser."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import ROOT

LAUNCHERS = ("accelerate", "torchrun")


class Parsed(Exception):
    """Raised in place of running a command, once its arguments are parsed."""


def run(words: list[str]) -> None:
    """Run `soundctm ...` or `python some/script.py ...`."""
    if words[0] == "soundctm":
        from diffusers_soundctm.cli import main

        assert main(words[1:]) == 0, f"failed: {' '.join(words)}"
        return
    if words[0] == "diffusers-cli":
        from diffusers.commands.diffusers_cli import main

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words)
            main()
        return
    script, arguments = _script_of(words)
    with _imported(script) as module:
        module.main(arguments) if _takes_arguments(module) else _with_argv(module, arguments)


def parse(words: list[str]) -> None:
    """Parse the arguments with the parser that the command has; a wrong one ends in `pytest.fail`."""
    with pytest.MonkeyPatch.context() as patch:
        original = argparse.ArgumentParser.parse_args

        def parse_args(self, *args, **kwargs):
            original(self, *args, **kwargs)
            raise Parsed

        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        try:
            run(words)
        except Parsed:
            return
        except SystemExit as error:
            pytest.fail(f"{' '.join(words)}: refused by its parser, exit code {error.code}")
    pytest.fail(f"{' '.join(words)}: parses no arguments")


def _script_of(words: list[str]) -> tuple[Path, list[str]]:
    """The script and its arguments, behind `python` or a launcher and its options."""
    known = words[0] in ("python", "python3", *LAUNCHERS)
    for i, word in enumerate(words[1:], 1):
        if known and word.endswith(".py"):
            assert (ROOT / word).is_file(), f"{word} does not exist"
            return ROOT / word, words[i + 1 :]
    pytest.fail(f"{' '.join(words)}: declare a block with such a command as not run")


@contextmanager
def _imported(script: Path) -> Iterator:
    """The script as a module, with its folder on the path as Python puts it there."""
    from accelerate.state import AcceleratorState

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(script.parent))
        for neighbor in script.parent.glob("*.py"):  # folders of scripts share module names, such as `common`
            patch.delitem(sys.modules, neighbor.stem, raising=False)
        spec = importlib.util.spec_from_file_location(script.stem, script)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, script.stem, module)
        spec.loader.exec_module(module)
        # accelerate keeps the first run's precision for the whole process.
        AcceleratorState._reset_state(reset_partial_state=True)
        yield module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(script.parent) in sys.modules[name].__file__:
            del sys.modules[name]


def _takes_arguments(module) -> bool:
    return module.main.__code__.co_argcount > 0


def _with_argv(module, arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
