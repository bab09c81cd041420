import json

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.cli import main
from diffusers_soundctm.evaluation import compare, fraction_interval
from diffusers_soundctm.evaluation.sounds import load_sounds

RATE = 8000


class SpectrumEmbedding:
    """Log power in 16 bands: enough to tell a tone from noise."""

    def embed(self, waveforms, sampling_rate):
        power = np.abs(np.fft.rfft(waveforms, axis=1)) ** 2
        return np.log(np.stack([band.mean(1) for band in np.array_split(power, 16, axis=1)], 1) + 1e-3).astype(
            np.float32
        )


EMBEDDING = f"{__name__}:SpectrumEmbedding"


def sound(kind, seed):
    generator = np.random.default_rng(seed)
    time = np.arange(RATE) / RATE
    if kind == "tone":
        return 0.5 * np.sin(2 * np.pi * generator.uniform(300, 500) * time)
    return 0.1 * generator.standard_normal(RATE)


def write_folder(folder, seed, n=6, metadata=False, subfolders=True):
    rows = ["file_name,caption,label"]
    for kind in ("tone", "noise"):
        for i in range(n):
            path = folder / kind / f"{i}.wav" if subfolders else folder / f"{kind}{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound(kind, seed + i), RATE)
            rows.append(f"{path.relative_to(folder)},a {kind},{kind}")
    if metadata:
        (folder / "metadata.csv").write_text("\n".join(rows))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    return {
        "generated": write_folder(tmp_path / "generated", 0),
        "reference": write_folder(tmp_path / "reference", 100),
        "probe_train": write_folder(tmp_path / "train", 200),
    }


OPTIONS = {"embedding": EMBEDDING, "sampling_rate": RATE, "duration": 0.5}


def test_folder_is_read_with_its_subfolders_as_labels(tmp_path):
    folder = write_folder(tmp_path / "sounds", 0, n=2)
    waveforms, labels = load_sounds(folder, sampling_rate=RATE // 2, num_samples=5000)
    assert waveforms.shape == (4, 5000)
    assert waveforms.dtype == np.int16
    assert labels == ["noise", "noise", "tone", "tone"]
    assert np.abs(waveforms[3, : RATE // 2]).max() > 10000
    assert not waveforms[:, RATE // 2 :].any()


def test_flat_folder_has_no_labels(tmp_path):
    assert load_sounds(write_folder(tmp_path, 0, n=1, subfolders=False), sampling_rate=RATE, num_samples=100)[1] is None


def test_data_set_with_labels(tmp_path):
    folder = write_folder(tmp_path, 0, n=2, metadata=True)
    waveforms, labels = load_sounds(folder, sampling_rate=RATE, num_samples=RATE)
    assert waveforms.shape == (4, RATE)
    assert sorted(labels) == ["noise", "noise", "tone", "tone"]


def test_data_set_with_a_subfolder_for_each_split(tmp_path):
    write_folder(tmp_path / "train", 0, n=2, metadata=True)
    write_folder(tmp_path / "test", 5, n=1, metadata=True)
    waveforms, labels = load_sounds(str(tmp_path), split="test", sampling_rate=RATE, num_samples=RATE)
    assert (len(waveforms), sorted(labels)) == (2, ["noise", "tone"])


def test_the_only_split_of_a_folder_is_the_reference(folders, tmp_path):
    described = write_folder(tmp_path / "described", 100, metadata=True)
    result = compare(folders["generated"], described, **OPTIONS)
    assert result["n_reference"] == 12
    with pytest.raises(ValueError, match=r"no split 'test'.*train"):
        compare(folders["generated"], described, reference_split="test", **OPTIONS)


def test_compare_finds_good_sounds_near_and_recognized(folders):
    good = compare(folders["generated"], folders["reference"], probe_train=folders["probe_train"], **OPTIONS)
    assert good["n_generated"] == good["n_reference"] == 12
    assert good["recognized"] == 1
    assert good["recognized_by_class"] == {"noise": 1, "tone": 1}
    low, high = good["kernel_distance_interval"]
    assert low < 0 < high


def test_compare_finds_bad_sounds_far(folders, tmp_path):
    bad = tmp_path / "bad"
    for i in range(12):
        (bad / "tone").mkdir(parents=True, exist_ok=True)
        soundfile.write(bad / "tone" / f"{i}.wav", sound("noise", i), RATE)
    near = compare(folders["generated"], folders["reference"], **OPTIONS)
    far = compare(str(bad), folders["reference"], probe_train=folders["probe_train"], **OPTIONS)
    assert far["kernel_distance"] > near["kernel_distance"]
    assert far["frechet_distance"] > near["frechet_distance"]
    assert far["recognized"] == 0
    assert "recognized" not in near


def test_fraction_interval_stays_between_zero_and_one():
    low, high = fraction_interval(np.ones(20, bool))
    assert 0.8 < low < high <= 1
    low, high = fraction_interval(np.r_[np.ones(50, bool), np.zeros(50, bool)])
    assert (low, high) == pytest.approx((0.404, 0.596), abs=1e-3)


def arguments(folders, output):
    names = {"--generated": "generated", "--reference": "reference", "--probe-train": "probe_train"}
    listed = [item for option, name in names.items() for item in (option, folders[name])]
    options = ["--embedding", EMBEDDING, "--sampling-rate", str(RATE), "--duration", "0.5"]
    return ["evaluate", *listed, *options, "-o", str(output)]


def test_command_prints_a_table_and_writes_json(folders, tmp_path, capsys):
    output = tmp_path / "result.json"
    assert main(arguments(folders, output)) == 0
    assert json.loads(output.read_text())["recognized"] == 1
    printed = capsys.readouterr().out
    assert "12 generated, 12 reference" in printed
    assert "100.0%" in printed


def test_a_result_that_cannot_be_written_is_still_printed(folders, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    before = sorted(tmp_path.iterdir())
    assert main(arguments(folders, tmp_path / "result.json")) == 2
    captured = capsys.readouterr()
    assert "12 generated, 12 reference" in captured.out and "No space left" in captured.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--generated": "{tmp}/nowhere"}, "nowhere"),
        ({"--embedding": "clap"}, "pass 'aisfx' or"),
        ({"--embedding": "no_such_module:Thing"}, "cannot be loaded"),
        ({"--duration": "0"}, "`duration` is 0"),
        ({"--duration": "inf"}, "`duration` is inf"),
        ({"--embedding": "os:getcwd"}, "no method `embed`"),
        ({"--generated": "{empty}"}, "empty"),
        ({"--generated": "{corrupt}"}, "bad.wav cannot be decoded"),
        ({"--generated": "{flat}"}, "subfolder"),
        ({"-o": "{tmp}/missing/result.json"}, "does not exist"),
        ({"-o": "{tmp}/there.json"}, "--force"),
        ({"-o": "{empty}"}, "is not a regular file"),
        ({"-o": "/dev/null"}, "is not a regular file"),
    ],
)
def test_bad_input_ends_with_one_line_and_status_2(folders, tmp_path, capsys, change, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "bad.wav").write_bytes(b"not a sound")
    (tmp_path / "there.json").write_text("kept")
    write_folder(tmp_path / "flat", 0, n=1, subfolders=False)
    places = {name: str(tmp_path / name) for name in ("empty", "corrupt", "flat")} | {"tmp": str(tmp_path)}
    argv = arguments(folders, tmp_path / "result.json")
    for option, value in change.items():
        argv[argv.index(option) + 1] = value.format(**places)
    assert main(argv) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("soundctm: error: ") and message in line
    assert captured.out == ""
    assert not (tmp_path / "result.json").exists()
    assert (tmp_path / "there.json").read_text() == "kept"
