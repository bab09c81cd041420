"""Lists of prompts for `soundctm generate`: formats, names, resuming and loudness."""

import numpy as np
import pyloudnorm
import pytest
import soundfile

from diffusers_soundctm.cli.batches import Row, file_names, name_from_prompt, read_rows

OPTIONS = ("--duration", "0.5", "--seed", "5")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder, suffix=".wav"):
    return sorted(path.name for path in folder.iterdir() if path.suffix == suffix)


def test_tables_and_lines_hold_rows(folder):
    (folder / "a.txt").write_text("\ufeff# foley\n\nrain, wind\n  a dog barks  \n", encoding="utf-8")
    (folder / "a.csv").write_text('Prompt,name,seed,loudness\n# quiet ones\n"rain, wind",a,7,-30\na dog barks\n')
    (folder / "a.tsv").write_text("steps\tprompt\tduration\n4\train, wind\t0.5\n")
    assert read_rows(folder / "a.txt") == [Row("rain, wind"), Row("a dog barks")]
    assert read_rows(folder / "a.csv") == [Row("rain, wind", "a", 7, None, -30.0), Row("a dog barks")]
    assert read_rows(folder / "a.tsv") == [Row("rain, wind", steps=4, duration=0.5)]


def test_names_come_from_the_table_the_prompt_or_the_number():
    rows = [Row("Rain on a tin roof!"), Row("a dog", "dog"), Row("rain on a  tin roof")]
    assert file_names(rows, 1, "out", False) == ["out-1", "dog", "out-3"]
    assert file_names(rows, 1, "out", True) == ["rain-on-a-tin-roof", "dog", "rain-on-a-tin-roof-2"]
    assert file_names(rows[:2], 2, "out", True) == [f"{n}-{i}" for n in ("rain-on-a-tin-roof", "dog") for i in (1, 2)]
    assert file_names(rows[:1], 1, "out", False) == ["out"]
    assert name_from_prompt("雨 im Wald") == "雨-im-wald" and name_from_prompt("!?") == "sound"


def test_each_row_has_its_own_settings(folder, soundctm, comment_of):
    (folder / "list.csv").write_text(
        "name,prompt,seed,duration,loudness,steps\ndog,a dog barks,7,0.6,-30,2\nroof,rain on a tin roof\n"
    )
    soundctm("generate", "--prompts", "list.csv", "-o", "out.flac", *OPTIONS)
    dog, roof = comment_of("dog.flac"), comment_of("roof.flac")
    assert [dog[name] for name in ("prompt", "seed", "duration", "steps")] == ["a dog barks", 7, 0.6, 2]
    assert dog["loudness"] == -30 and dog["measured_loudness"] == -30
    assert [roof[name] for name in ("prompt", "seed", "duration", "steps")] == ["rain on a tin roof", 6, 0.5, 1]
    assert "loudness" not in roof and roof["measured_loudness"] < 0


def test_a_stopped_run_is_resumed(folder, soundctm, refused, comment_of):
    (folder / "list.txt").write_text("rain\na dog barks\nwind\n")
    command = ("generate", "--prompts", "list.txt", "--name-from-prompt", "--duration", "0.5")
    soundctm(*command)
    whole = {name: (folder / name).read_bytes() for name in names(folder)}
    assert list(whole) == ["a-dog-barks.wav", "rain.wav", "wind.wav"]
    (folder / "wind.wav").unlink()
    kept = (folder / "rain.wav").stat().st_mtime_ns
    # The seed was random; it is that of the run which is resumed.
    lines = soundctm(*command, "--resume")
    assert lines[0] == "2 of 3 files are there already" and lines[1].startswith("wind.wav") and len(lines) == 2
    assert {name: (folder / name).read_bytes() for name in names(folder)} == whole
    assert (folder / "rain.wav").stat().st_mtime_ns == kept
    assert soundctm(*command, "--resume") == ["3 of 3 files are there already"]
    assert "exists" in refused(*command)
    assert "rain.wav was made with steps = 1, not 2" in refused(*command, "--resume", "--steps", "2")


def test_match_brings_all_to_what_the_peaks_allow(folder, soundctm, comment_of):
    (folder / "list.txt").write_text("rain\na dog barks\nwind\n")
    command = ("generate", "--prompts", "list.txt", "-o", "out.wav", *OPTIONS, "--match")
    said = soundctm(*command)[-1]
    loudness = [comment_of(name)["measured_loudness"] for name in names(folder)]
    assert len(set(loudness)) == 1 and f"{loudness[0]:.1f} LUFS" in said
    peaks = []
    for name in names(folder):
        samples, rate = soundfile.read(name)
        assert pyloudnorm.Meter(rate).integrated_loudness(samples) == pytest.approx(loudness[0], abs=0.1)
        peaks.append((np.abs(samples).max(), name))
    # One file is at its limit of -1 dBTP, and none is above.
    assert max(peaks)[0] <= 10 ** (-1 / 20) + 1e-3
    assert soundctm(*command, "--resume")[-1].split(",")[0] == said.split(",")[0]


def test_a_shortfall_names_its_file(folder, soundctm, comment_of):
    (line,) = soundctm("generate", "rain", "-o", "loud.wav", *OPTIONS, "--loudness", "0")
    measured = comment_of("loud.wav")["measured_loudness"]
    assert measured < 0 and line.startswith("loud.wav") and f"{measured:.1f} LUFS instead of 0" in line


@pytest.mark.parametrize(
    ("file", "text", "options", "named"),
    [
        ("a.csv", "name,text\na,rain\n", (), "the columns name, text"),
        ("a.csv", "prompt,mood\nrain,dark\n", (), "the columns prompt, mood"),
        ("a.csv", "prompt\n", (), "no prompts"),
        ("a.csv", "prompt\nrain, wind\n", (), "line 2 has 2 cells"),
        ("a.csv", "name,prompt\na,\n", (), "line 2 has no prompt"),
        ("a.csv", "prompt,seed\n\nrain,one\n", (), "line 3: seed is 'one'"),
        ("a.csv", "prompt,steps\nrain,0\n", (), "line 2: steps is 0"),
        ("a.csv", "prompt,duration\nrain,-1\n", (), "line 2: duration is -1"),
        ("a.csv", "prompt,loudness\nrain,9\n", (), "line 2: loudness is 9"),
        ("a.csv", "prompt,loudness\nrain,-9\n", ("--match",), "--match"),
        ("a.csv", "name,prompt\n../a,rain\n", (), "line 2: name is '../a'"),
        ("a.csv", "name,prompt\na,rain\na,wind\n", (), "the name 'a' twice"),
        ("a.csv", "name,prompt\nrain,a dog\n,rain\n", ("--name-from-prompt",), None),
        ("a.txt", "# only comments\n", (), "no prompts"),
        ("a.txt", "rain\n", ("--match", "--loudness", "-20"), "--match"),
        ("a.txt", "rain\n", ("--gamma", "2"), "--gamma"),
        ("a.txt", "rain\n", ("--omega", "inf"), "--omega"),
    ],
)
def test_bad_lists_are_one_line_before_a_model_is_loaded(file, text, options, named, folder, no_model, refused):
    (folder / file).write_text(text)
    if named is None:  # "rain" is taken by the first row
        assert file_names(read_rows(folder / file), 1, "out", True) == ["rain", "rain-2"]
        return
    assert named in refused("generate", "--prompts", file, *options)
    assert [path.name for path in folder.iterdir()] == [file]
