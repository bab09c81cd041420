"""What holds for all pages: links lead somewhere, lines fit a screen, and CI runs what the README says."""

import re

import pytest
from pages import ROOT, read_page

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "training/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if "node_modules" not in path.parts
)
# For people who make sounds: no formulas.
FOR_DESIGNERS = [ROOT / "docs/app.md", ROOT / "docs/cli.md", *sorted((ROOT / "docs/cookbook").glob("*.md"))]
EXTERNAL = ("http://", "https://", "mailto:")


def ids(path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """The page without code blocks, comments and front matter."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^ *```.*?^ *```|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    titles = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_links_lead_to_files_and_headings(path):
    text = prose(path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if target.startswith(EXTERNAL):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name != "api"], ids=ids)
def test_lines_of_prose_fit_120_columns(path):
    for number, line in enumerate(prose(path.read_text(encoding="utf-8")).splitlines(), 1):
        cannot_wrap = line.startswith(("|", "`")) or re.search(r"\]\(|<img", line)
        assert len(line) <= 120 or cannot_wrap, f"line {number} has {len(line)} columns: {line[:60]} …"


@pytest.mark.parametrize("path", FOR_DESIGNERS, ids=ids)
def test_pages_for_sound_designers_have_no_greek_letters(path):
    assert not re.findall(r"[α-ωΑ-Ω]", path.read_text(encoding="utf-8"))


def test_ci_runs_the_readme_test_command_word_for_word():
    (command,) = [block.code.strip() for block in read_page(ROOT / "README.md").blocks if "bin/pytest" in block.code]
    assert command in (ROOT / ".ci/run").read_text()
