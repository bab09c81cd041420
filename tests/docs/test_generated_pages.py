"""Pages that are generated agree with the docstrings and parsers."""

import importlib.util

from pages import ROOT


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_api_and_options_are_up_to_date():
    for path, text in load(ROOT / "tools" / "generate_docs.py").generated().items():
        assert path.read_text(encoding="utf-8") == text, f"run: python tools/generate_docs.py ({path.name})"


def test_every_argument_is_described():
    for path in (ROOT / "docs" / "api").glob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.endswith("|  |"), f"{path.name}: no description of {line}"
