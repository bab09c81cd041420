"""The `curl` commands of docs/app.md, word for word, against the running app."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from diffusers_soundctm.app.sound_files import read_settings

PAGE = Path(__file__).parents[2] / "docs" / "app.md"

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="needs apt-get install curl")


def test_the_commands_of_the_page_work(served, tmp_path):
    blocks = [block.split("```")[0] for block in PAGE.read_text(encoding="utf-8").split("```bash\n")[1:]]
    script = "\n".join(block for block in blocks if "curl" in block)
    assert script.count("curl") == 7
    script = script.replace("http://127.0.0.1:7860/", served)
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    _, recipe = read_settings(tmp_path / "rain.wav")
    assert (recipe.prompt, recipe.noise.seed, recipe.steps) == ("rain on a tin roof", 3, 1)
    assert soundfile.info(tmp_path / "rain.wav").samplerate == 16000
    assert done.stdout.count("event: complete") == 1 and '"is_in_use": true' in done.stdout
    paths = json.loads((tmp_path / "openapi.json").read_text())["paths"]
    assert {"/gradio_api/call/v2/draft", "/gradio_api/call/v2/metadata"} <= set(paths)
