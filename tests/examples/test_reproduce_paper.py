"""The reproduction script: each caption once, by any number of processes, stopped or not."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusers_soundctm import SoundCTMPipeline

SCRIPT = Path(__file__).parents[2] / "examples" / "reproduce_paper.py"
CAPTIONS = ["A dog barks", "rain on a tin roof", "a loud train", "piano plays", "wind"]
NAMES = [f"Y{i}" for i in range(len(CAPTIONS))]


def script():
    spec = importlib.util.spec_from_file_location("reproduce_paper", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arguments(tmp_path, embedded_folder):
    rows = "".join(f"audio/{name}.wav,{caption}\n" for name, caption in zip(NAMES, CAPTIONS, strict=True))
    (tmp_path / "test.csv").write_text(f"file_name,caption\n{rows}")
    options = {"--model": embedded_folder, "--captions": tmp_path / "test.csv", "--seconds": 0.5}
    return [str(part) for pair in options.items() for part in pair] + ["--steps", "1", "2"]


def sounds(output):
    files = sorted(output.rglob("*.wav"))
    return {str(path.relative_to(output)): soundfile.read(path)[0] for path in files}


def test_each_caption_once_and_the_same_in_any_batch(arguments, tmp_path):
    for folder, size in (("alone", "1"), ("batched", "3")):
        script().main([*arguments, "--output", str(tmp_path / folder), "--batch-size", size])
    alone, batched = sounds(tmp_path / "alone"), sounds(tmp_path / "batched")
    assert set(alone) == {f"steps-{steps}/{name}.wav" for steps in ("01", "02") for name in NAMES}
    assert all(sound.shape == (8000,) for sound in alone.values())
    for name, sound in alone.items():
        np.testing.assert_allclose(batched[name], sound, atol=2e-3)
    assert not np.allclose(alone["steps-01/Y0.wav"], alone["steps-01/Y1.wav"])
    settings = json.loads((tmp_path / "alone" / "steps-01" / "settings.json").read_text())
    assert settings["omega"] == 3.5 and settings["nu"] == 1.0 and settings["captions"] == 5


def test_goes_on_where_it_was(arguments, tmp_path, monkeypatch):
    output = tmp_path / "out"
    script().main([*arguments, "--output", str(output)])
    expected = sounds(output)
    (output / "steps-02" / "Y3.wav").unlink()
    prompts = []
    call = SoundCTMPipeline.__call__
    monkeypatch.setattr(
        SoundCTMPipeline, "__call__", lambda self, prompt, **k: (prompts.append(prompt), call(self, prompt, **k))[1]
    )
    script().main([*arguments, "--output", str(output)])
    assert prompts == [["piano plays"]]
    assert sounds(output).keys() == expected.keys()
    assert all(np.array_equal(sound, expected[name]) for name, sound in sounds(output).items())
    with pytest.raises(ValueError, match="has sounds made with"):
        script().main([*arguments, "--output", str(output), "--omega", "4.0"])


def test_metrics_of_every_number_of_steps(arguments, tmp_path, monkeypatch):
    class Levels:
        def embed(self, waveforms, rate):
            return np.stack([waveforms.std(1), np.abs(waveforms).max(1)], 1)

    monkeypatch.setattr("diffusers_soundctm.evaluation.load_embedding", lambda _: Levels())
    monkeypatch.setattr("diffusers_soundctm.evaluation.comparison.load_embedding", lambda _: Levels())
    output, reference = tmp_path / "out", tmp_path / "reference"
    reference.mkdir()
    for i, name in enumerate(NAMES):
        soundfile.write(reference / f"{name}.wav", 0.1 * np.random.default_rng(i).standard_normal(8000), 16000)
    script().main([*arguments, "--output", str(output), "--reference", str(reference)])
    for steps in ("01", "02"):
        results = json.loads((output / f"steps-{steps}.json").read_text())
        assert results["n_generated"] == results["n_reference"] == 5


def test_what_metrics_need_is_checked_before_any_sound(arguments, tmp_path, monkeypatch, capsys):
    command = [*arguments, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        script().main([*command, "--metrics", "clap"])
    assert "pass their folder as --reference" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no audio"):
        script().main([*command, "--reference", str(tmp_path / "empty")])
    monkeypatch.setitem(sys.modules, "hear21passt", None)
    with pytest.raises(ImportError, match="pip install hear21passt"):
        script().main([*command, "--reference", str(tmp_path / "empty"), "--metrics", "kl-passt"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_go_on_and_give_what_one_gives(arguments, tmp_path):
    script().main([*arguments, "--output", str(tmp_path / "one")])
    counting = tmp_path / "counting.py"
    counting.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "import reproduce_paper\n"
        "from diffusers_soundctm import audio\n"
        "write = audio.write_audio\n"
        "audio.write_audio = lambda path, *a: (write(path, *a), print(f'{path.parent.name}/{path.name}\\n', end=''))\n"
        "reproduce_paper.main(sys.argv[1:])\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--redirects", "1", "--log-dir", str(tmp_path / "log")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # A run that was stopped: all of the first folder is there, and one sound of the second.
    done = {"steps-02/Y2.wav", *(f"steps-01/{name}.wav" for name in NAMES)}
    for name in (*done, "steps-01/settings.json", "steps-02/settings.json"):
        (tmp_path / "two" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "one" / name, tmp_path / "two" / name)
    subprocess.run([*launch, counting, *arguments, "--output", tmp_path / "two"], check=True, env=environment)
    one, two = sounds(tmp_path / "one"), sounds(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, sound in one.items():  # sums of one thread and of two round differently: by one step of 16 bits
        np.testing.assert_allclose(two[name], sound, atol=1e-4)
    written = [path.read_text().split() for path in (tmp_path / "log").rglob("stdout.log")]
    assert len(written) == 2 and all(len(names) >= 2 for names in written)  # both had their share
    assert sorted(written[0] + written[1]) == sorted(one.keys() - done)
