"""What type checkers see of the package: the real types, and names that do not exist as errors."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffusers_soundctm

SOURCE = Path(diffusers_soundctm.__file__).parent
USE = """
from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.control import IntensityObjective, LossGuidance

pipe = SoundCTMPipeline.from_embedded()
reveal_type(pipe)
reveal_type(SoundCTMPipeline.from_pretrained("folder"))
reveal_type(pipe.scheduler)
reveal_type(LossGuidance(IntensityObjective({0: -30.0})))
pipe("rain").audios[0]
"""
MISSPELT = """
from diffusers_soundctm import SoundCTMPipelin
from diffusers_soundctm.control import LossGuidanc
"""


def diagnostics(code: str, folder: Path) -> list[tuple[str, str]]:
    """(severity, message) of what pyright says about a user's file."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    (folder / "use.py").write_text(code)
    (folder / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(SOURCE.parent)]}))
    pyright = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*pyright, "-p", str(folder)], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pyright does not run here: {done.stderr[-200:]}")  # it downloads itself on its first run
    return [(found["severity"], found["message"]) for found in json.loads(done.stdout)["generalDiagnostics"]]


def test_a_user_sees_the_types(tmp_path):
    found = diagnostics(USE, tmp_path)
    assert [message for severity, message in found if severity == "error"] == []
    revealed = [message.rpartition(" is ")[2].strip('"') for severity, message in found if severity == "information"]
    assert revealed == ["SoundCTMPipeline", "SoundCTMPipeline", "CTMScheduler", "LossGuidance"]


def test_a_misspelt_import_is_an_error(tmp_path):
    found = diagnostics(MISSPELT, tmp_path)
    assert [(severity, message.partition(" ")[0]) for severity, message in found] == [
        ("error", '"SoundCTMPipelin"'),
        ("error", '"LossGuidanc"'),
    ]


@pytest.mark.parametrize("package", [".", "app", "control"])
def test_type_checkers_see_the_names_that_are_exported(package):
    tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
    (exports,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
    )
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: f".{line.module}" for line in block.body for alias in line.names}
    assert seen == exports
