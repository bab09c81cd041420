import csv
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.data import load_clips
from diffusers_soundctm.data.clips import open_dataset

pytest.importorskip("datasets")

RATE = 16000
LENGTH = 4096
TRAINING = Path(__file__).parents[2] / "training"


def tone(frequency, seconds=0.256, rate=RATE, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def audiofolder(folder, waveforms, rate=RATE, extra=None):
    """An audiofolder with a metadata.csv; `waveforms` maps a file name to samples, or to bytes written as they are."""
    folder.mkdir()
    for name, waveform in waveforms.items():
        if isinstance(waveform, bytes):
            (folder / name).write_bytes(waveform)
        else:
            soundfile.write(folder / name, waveform, rate, subtype="PCM_16")
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "caption", *(extra or {})])
        writer.writeheader()
        for name in waveforms:
            writer.writerow({"file_name": name, "caption": f"the sound of {name}", **(extra or {})})
    return str(folder)


def test_crops_pads_and_averages_channels(tmp_path):
    left, right = tone(440), np.zeros(LENGTH, np.float32)
    folder = audiofolder(
        tmp_path / "sounds",
        {
            "long.wav": tone(440, seconds=1),
            "short.wav": tone(440, seconds=0.1),
            "stereo.wav": np.stack([left, right], axis=1),
        },
    )
    clips = load_clips(folder, num_samples=LENGTH)
    assert clips.waveforms.shape == (3, LENGTH)
    assert clips.waveforms.dtype == np.int16
    assert clips.skipped == []
    assert clips.labels is None
    by_name = {
        captions[0].removeprefix("the sound of "): wave
        for captions, wave in zip(clips.captions, clips.waveforms, strict=True)
    }
    np.testing.assert_allclose(by_name["long.wav"], tone(440)[:LENGTH] * 32767, atol=2)
    assert np.abs(by_name["short.wav"][:1600]).max() > 16000
    assert not by_name["short.wav"][1600:].any()
    np.testing.assert_allclose(by_name["stereo.wav"], left * 32767 / 2, atol=2)


def test_resamples_to_the_asked_rate(tmp_path):
    folder = audiofolder(tmp_path / "sounds", {"a.flac": tone(1000, seconds=0.512, rate=44100)}, rate=44100)
    clip = load_clips(folder, num_samples=LENGTH).waveforms[0]
    expected = tone(1000)[:LENGTH] * 32767
    np.testing.assert_allclose(clip[200:-200], expected[200:-200], atol=60)


def test_skips_names_and_counts_a_few_corrupt_or_silent_files(tmp_path, caplog):
    waveforms = {f"{i:03d}.wav": tone(200 + i, seconds=0.05) for i in range(198)}
    waveforms |= {"broken.wav": b"this is not audio", "silent.wav": np.zeros(800, np.float32)}
    folder = audiofolder(tmp_path / "sounds", waveforms)
    with caplog.at_level(logging.WARNING):
        clips = load_clips(folder, num_samples=800)
    assert len(clips) == len(clips.waveforms) == len(clips.captions) == 198
    assert sorted(Path(name).name for name in clips.skipped) == ["broken.wav", "silent.wav"]
    assert "broken.wav" in caplog.text and "silent.wav" in caplog.text
    assert "2 of 200" in caplog.text
    assert all(np.abs(waveform).max() > 10000 for waveform in clips.waveforms)


def test_refuses_a_data_set_with_more_than_one_percent_corrupt(tmp_path):
    folder = audiofolder(tmp_path / "sounds", {"good.wav": tone(440), "broken.wav": b"no audio"})
    with pytest.raises(ValueError, match=r"1 of 2 clips.*broken\.wav.*remove"):
        load_clips(folder, num_samples=LENGTH)


@pytest.mark.parametrize("argument", ["audio_column", "caption_column"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path, argument):
    folder = audiofolder(tmp_path / "sounds", {"a.wav": tone(440)})
    with pytest.raises(ValueError, match=r"'lyrics'.*'audio', 'caption'"):
        load_clips(folder, **{argument: "lyrics"})


def test_a_missing_split_is_named_with_those_there_are(tmp_path):
    folder = audiofolder(tmp_path / "sounds", {"a.wav": tone(440)})
    with pytest.raises(ValueError, match=r"'validation'.*\['train'\]"):
        load_clips(folder, split="validation")


def test_folders_without_sounds_or_metadata_are_refused_with_the_remedy(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is an empty folder; put audio files and a metadata\.csv"):
        load_clips(str(tmp_path))
    soundfile.write(tmp_path / "a.wav", tone(440), RATE)
    with pytest.raises(ValueError, match=r"audio files but no metadata\.csv or metadata\.jsonl; add one"):
        load_clips(str(tmp_path))


def test_labels_captions_and_max_samples_from_a_saved_data_set(tmp_path):
    from datasets import Audio, Dataset, DatasetDict

    paths = []
    for i in range(3):
        paths.append(str(tmp_path / f"{i}.wav"))
        soundfile.write(paths[-1], tone(300 + 100 * i), RATE)
    rows = {"audio": paths, "caption": [["a", "b"], ["c"], ["d"]], "label": ["x", "y", "z"]}
    dataset = Dataset.from_dict(rows).cast_column("audio", Audio(decode=False))
    DatasetDict({"train": dataset, "test": dataset.select([2])}).save_to_disk(str(tmp_path / "saved"))

    clips = load_clips(str(tmp_path / "saved"), num_samples=LENGTH, max_samples=2)
    assert clips.captions == [["a", "b"], ["c"]]
    assert clips.labels == ["x", "y"]
    assert load_clips(str(tmp_path / "saved"), split="test", num_samples=LENGTH).labels == ["z"]


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("embedded", [False, True])
def test_a_row_without_audio_is_skipped_with_a_cache_too(tmp_path, missing, embedded):
    from datasets import Audio, Dataset

    file = tmp_path / "a.wav"
    soundfile.write(file, tone(440), RATE)
    audio = {"bytes": file.read_bytes(), "path": None} if embedded else {"bytes": None, "path": str(file)}
    rows = [None if row == missing else audio for row in range(200)]
    dataset = Dataset.from_dict({"audio": rows, "caption": [str(row) for row in range(200)]})
    dataset.cast_column("audio", Audio(decode=False)).save_to_disk(str(tmp_path / "saved"))
    clips = load_clips(str(tmp_path / "saved"), num_samples=LENGTH, cache_dir=tmp_path / "cache")
    assert (len(clips), clips.skipped) == (199, [f"row {missing}"])


def test_metadata_with_a_byte_order_mark_is_read(tmp_path):
    folder = audiofolder(tmp_path / "sounds", {"a.wav": tone(440)})
    metadata = tmp_path / "sounds" / "metadata.csv"
    metadata.write_text(metadata.read_text(), encoding="utf-8-sig")
    assert load_clips(folder, num_samples=LENGTH).captions == [["the sound of a.wav"]]


def test_the_cache_is_read_again_without_decoding(tmp_path, monkeypatch):
    folder = audiofolder(tmp_path / "sounds", {"a.wav": tone(440), "b.wav": tone(880)}, extra={"label": "tone"})
    first = load_clips(folder, num_samples=LENGTH, cache_dir=tmp_path / "cache")

    def fail(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr("diffusers_soundctm.data.clips.decode_audio", fail)
    second = load_clips(folder, num_samples=LENGTH, cache_dir=tmp_path / "cache")
    assert isinstance(second.waveforms, np.memmap)
    np.testing.assert_array_equal(first.waveforms, second.waveforms)
    assert second.captions == first.captions
    assert second.labels == ["tone", "tone"]
    assert not list((tmp_path / "cache").glob("*.tmp"))
    with pytest.raises(AssertionError, match="decoded again"):
        load_clips(folder, num_samples=LENGTH // 2, cache_dir=tmp_path / "cache")


def test_a_changed_file_is_decoded_again(tmp_path):
    folder = audiofolder(tmp_path / "sounds", {"a.wav": tone(440)})
    before = load_clips(folder, num_samples=LENGTH, cache_dir=tmp_path / "cache").waveforms.copy()
    soundfile.write(tmp_path / "sounds" / "a.wav", tone(440, seconds=0.2, amplitude=0.25), RATE, subtype="PCM_16")
    after = load_clips(folder, num_samples=LENGTH, cache_dir=tmp_path / "cache").waveforms
    assert np.abs(after).max() < 0.6 * np.abs(before).max()


@pytest.fixture
def prepare_dataset(monkeypatch):
    """The script's module, where the Debian packages and tinysoundfont it renders from are installed."""
    fonts = Path("/usr/share/sounds/sf2")
    if find_spec("tinysoundfont") is None or not all((fonts / f"FluidR3_{font}.sf2").exists() for font in ("GM", "GS")):
        pytest.skip("needs tinysoundfont, fluid-soundfont-gm and fluid-soundfont-gs")
    monkeypatch.setattr(sys, "path", [str(TRAINING), *sys.path])
    import prepare_dataset

    return prepare_dataset


def test_a_rendered_clip_depends_on_its_task_alone(prepare_dataset):
    tasks = [("train", 0, 1, "violin"), ("test", 0, 2, "dog"), ("train", 0, 3, "rain")]
    first = [prepare_dataset.make_clip(task) for task in tasks]
    again = [prepare_dataset.make_clip(task) for task in reversed(tasks)][::-1]
    assert first == again
    for row, (split, *_) in zip(first, tasks, strict=True):
        waveform = prepare_dataset.soundfile.read(prepare_dataset.io.BytesIO(row["audio"]["bytes"]))[0]
        assert waveform.shape == (prepare_dataset.NUM_SAMPLES,)
        assert prepare_dataset.sounding_share(waveform) > 0.2
        assert len(set(row["caption"])) == prepare_dataset.CAPTIONS_PER_CLIP[split]
    other = prepare_dataset.make_clip(("train", 1, 1, "violin"))
    assert other["audio"]["bytes"] != first[0]["audio"]["bytes"]


def test_no_instrument_sample_zone_or_held_out_file_serves_both_splits(prepare_dataset):
    from sources.classes import CLASSES
    from sources.rendering import holds_out_zones, split_keys, split_voices

    assert 60 <= len(CLASSES) <= 80
    for sound in CLASSES:
        train, test = (split_voices(sound, split) for split in ("train", "test"))
        assert train and test
        assert bool(set(train) & set(test)) != bool(sound.heldout)
        if sound.kind == "instrument" and sound.styles != ("rhythm",):
            for voice in sound.voices:
                assert not set(split_keys(sound, voice, "train")) & set(split_keys(sound, voice, "test"))
    by_label = {sound.label: sound for sound in CLASSES}
    assert holds_out_zones(by_label["violin"]) and holds_out_zones(by_label["piano"])


def test_folders_of_one_name_and_card_and_changed_files_are_told_apart(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: train, path: train-*.parquet}\n---\n"

    def captions(folder, *written):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        rows = [{"audio": {"bytes": None, "path": "a.wav"}, "caption": caption} for caption in written]
        parquet.write_table(pa.Table.from_pylist(rows), folder / "train-0.parquet")
        return open_dataset(str(folder), "train")["caption"][:]

    assert captions(tmp_path / "small" / "data", "one") == ["one"]
    assert captions(tmp_path / "large" / "data", "two", "three") == ["two", "three"]
    assert captions(tmp_path / "large" / "data", "four", "five", "six") == ["four", "five", "six"]
