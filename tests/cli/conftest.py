"""What the tests of the command line share: a tiny model in place of the embedded one, and its answers."""

import json

import pytest

from diffusers_soundctm.audio import read_tags
from diffusers_soundctm.cli import main


@pytest.fixture(autouse=True)
def tiny_embedded_model(monkeypatch, embedded_folder):
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", embedded_folder)


@pytest.fixture
def no_model(monkeypatch):
    """Fails a test that loads a model."""
    monkeypatch.setattr("diffusers_soundctm.cli.rendering.load_pipeline", lambda *_: pytest.fail("a model is loaded"))
    for command in ("generate", "refine", "editing"):
        monkeypatch.setattr(
            f"diffusers_soundctm.cli.{command}.load_pipeline", lambda *_: pytest.fail("a model is loaded")
        )


@pytest.fixture
def soundctm(capsys):
    """Runs a command that must succeed and returns the lines that it prints."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that must end with exit code 2 and no output, and returns its one line on standard error."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        assert (code, captured.out) == (2, "") and "Traceback" not in captured.err
        return captured.err.strip().splitlines()[-1]

    return run


@pytest.fixture(scope="session")
def comment_of():
    """Reads the settings in a file."""
    return lambda path: json.loads(read_tags(path)["comment"])
