"""training/embedded.py: its stages fit their scripts, it continues and refuses, and its small scale makes a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffusers_soundctm import SoundCTMPipeline
from runs import SCRIPTS, SOURCES, load

SETTINGS = ("autoencoder", "vocoder", "teacher", "student")


def recipe(output_dir, scale="full", **given):
    script = load("embedded")
    return script, script.EmbeddedRecipe(script.parse_args(["--output_dir", str(output_dir), "--scale", scale, *given]))


@pytest.fixture
def recorded(monkeypatch):
    """Stages that record their commands instead of running them."""

    def make(output_dir, scale):
        script, made = recipe(output_dir, scale)
        commands = []
        monkeypatch.setattr(made, "call", lambda command, arguments, output=None: commands.append((command, arguments)))
        return script, made, commands

    return make


@pytest.mark.parametrize("scale", ["full", "small"])
def test_every_stage_is_a_command_that_its_script_accepts(scale, recorded, tmp_path):
    script, made, commands = recorded(tmp_path, scale)
    made.folder("captions").mkdir()
    (made.folder("captions") / "captions.txt").write_text("rain\n")
    for name in (*SETTINGS, "data", "model", "evaluation"):
        script.STAGES[name].run(made)
    parsed = {}
    for command, arguments in commands:
        path = next(Path(word) for word in command if word.endswith(".py"))
        if path.stem.startswith("train_"):
            argv = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
            parsed[path.stem] = load(path.stem).parse_args(argv)
    assert set(parsed) == {"train_autoencoder", "train_vocoder", "train_teacher", "train_ctm"}
    student = parsed["train_ctm"]
    assert student.captions and student.dataset_name is None  # no audio
    assert student.denoising_target == "teacher" and student.lr_scheduler == "cosine"
    assert len(commands) == 8
    costs = yaml.safe_load((SCRIPTS / "configs" / "embedded" / "costs.yaml").read_text(encoding="utf-8"))
    assert list(costs[scale]) == list(script.STAGES)


def test_what_is_done_is_skipped_and_what_changed_is_refused(tmp_path, capsys, monkeypatch):
    script, made = recipe(tmp_path, "small")
    done = []
    for name, stage in script.STAGES.items():
        folder = made.folder(name)

        def finish(recipe, folder=folder, stage=stage):
            folder.mkdir(exist_ok=True)
            (folder / stage.result).write_text("{}")
            done.append(stage.name)

        monkeypatch.setitem(script.STAGES, name, script.Stage(name, finish, stage.result, stage.needs))
    made.run()
    assert done == list(script.STAGES) and "hours" in capsys.readouterr().out
    (made.folder("student") / "training.json").unlink()
    made.run()
    assert done[len(script.STAGES) :] == ["student"]
    made.check()
    record = tmp_path / "teacher.json"
    record.write_text(json.dumps({"settings": "of another day"}))
    with pytest.raises(ValueError, match="teacher was begun with other settings"):
        made.check()
    with pytest.raises(SystemExit) as stopped:
        script.main(["--output_dir", str(tmp_path), "--scale", "small"])
    assert stopped.value.code == 2


def test_missing_sound_packages_are_named_before_work(tmp_path, capsys, monkeypatch):
    script, _ = recipe(tmp_path)
    monkeypatch.setattr(script, "SOUNDFONT", tmp_path / "missing.sf2")
    with pytest.raises(SystemExit) as stopped:
        script.main(["--output_dir", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "apt-get install" in error and len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_small_scale_goes_from_packages_to_a_model(tmp_path):
    if not load("embedded").SOUNDFONT.is_file():
        pytest.skip("needs Debian's sound packages")
    command = [sys.executable, str(SCRIPTS / "embedded.py"), "--output_dir", str(tmp_path / "run"), "--scale", "small"]
    environment = {"PYTHONPATH": str(SOURCES), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]
    pipe = SoundCTMPipeline.from_pretrained(tmp_path / "run" / "model")
    assert pipe("rain on a tin roof", num_inference_steps=2).audios.std() > 0
    table = (tmp_path / "run" / "evaluation" / "trajectory.md").read_text()
    assert "distance to the teacher's solution" in table
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("done") == 8 and "==" not in again.stdout
