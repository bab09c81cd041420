"""Every code block of the README and the documentation works as it is printed."""

import ast
import importlib
from pathlib import Path

import pytest
from commands import parse, run
from pages import ROOT, Block, Page, fill, pages
from placeholders import Placeholders

PAGES = [page for page in pages() if any(block.language in ("python", "bash") for block in page.blocks)]
FOLDERS = ("training", "examples", "benchmarks", "docs", "src")  # that commands name relative to the repository

one_test_per_page = pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page.slow else (), id=page.name) for page in PAGES]
)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_blocks_name_a_language(page: Page):
    for block in page.blocks:
        assert block.language, f"{page.name}:{block.line}: write ```python, ```bash or ```text"


@every_page
def test_commands_are_accepted_by_their_parsers(page: Page, in_repository):
    for block in page.blocks:
        for words in block.commands() if block.language == "bash" else ():
            parse([*words, *block.settings])


@every_page
def test_python_compiles_and_its_imports_exist(page: Page):
    for block in page.blocks:
        if block.language == "python":
            check_imports(ast.parse(block.code, f"{page.name}:{block.line}"))


@one_test_per_page
def test_page_runs_from_top_to_bottom(page: Page, in_repository: Path, tiny_pipeline):
    made = Placeholders(in_repository, tiny_pipeline)
    try:
        values = {name: getattr(made, maker)() for name, maker in page.placeholders.items()}
        namespace = {"__name__": "documentation"}
        for block in page.blocks:
            if block.not_run is None:
                run_block(page, block, values, namespace)
    finally:
        for close in made.closing:
            close()


def run_block(page: Page, block: Block, values: dict[str, str], namespace: dict) -> None:
    if block.language == "python":
        exec(compile("\n" * block.line + fill(block.code, values), page.path, "exec"), namespace)
    elif block.language == "bash":
        for words in block.commands():
            run([fill(word, values) for word in (*words, *block.settings)])


def check_imports(tree: ast.Module) -> None:
    """Modules of this package that the code imports, and the names it takes from them, exist."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffusers_soundctm"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.fixture
def in_repository(tmp_path, monkeypatch) -> Path:
    """An empty folder to run in, in which the repository's own folders seem to lie."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
