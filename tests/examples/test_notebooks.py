"""The notebooks run from top to bottom, on a CPU and without network."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(notebook):
    pytest.importorskip("nbmake")
    # In a pytest of its own: nbmake is a plugin, and this repository's options are not for notebooks.
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", "--nbmake"]
    done = subprocess.run(
        [*command, "--nbmake-timeout=500", str(notebook)], cwd=EXAMPLES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
