"""Every control example runs and writes a figure and its waveforms."""

import importlib
import sys
from pathlib import Path

import pytest
import soundfile

EXAMPLES = Path(__file__).parents[2] / "examples" / "control"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "common")
FEWER = {
    "draw_loudness": ["--iterations", "2", "--points", "0:-40", "1:-20"],
    "long_sound": ["--seconds", "2", "--prompts", "rain", "wind"],
    "widen_band": ["--cutoff", "2000"],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_example_writes_a_figure_and_sounds(script, embedded_folder, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("common", script):
        sys.modules.pop(name, None)
    arguments = ["--model", str(embedded_folder), "--output", str(tmp_path), "--steps", "2", *FEWER.get(script, [])]
    importlib.import_module(script).main(arguments)
    for name in ("common", script):
        sys.modules.pop(name, None)
    figures, sounds = list(tmp_path.glob("*.png")), list(tmp_path.glob("*.wav"))
    assert len(figures) == 1 and len(sounds) >= 2
    assert all(abs(soundfile.read(path)[0]).max() > 0 for path in sounds)
