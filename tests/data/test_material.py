"""Recordings as training material: captions, silence, levels, windows, duplicates, and what is refused."""

import csv
import shutil

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.data.material import change_speed, cut_windows, find_recordings, read_material, trim

RATE = 16000


def noise(seconds, seed=0, level=0.1):
    return level * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def bursts(seed):
    """Four bursts whose times and pitches depend on the seed."""
    rng, time = np.random.default_rng(seed), np.arange(RATE) / RATE
    tones = (np.sin(2 * np.pi * rng.uniform(200, 4000) * time) * (abs(time - rng.uniform(0, 1)) < 0.1) for _ in "1234")
    return 0.1 * sum(tones).astype(np.float32)


def write(folder, sounds, rate=RATE):
    folder.mkdir(exist_ok=True)
    for name, sound in sounds.items():
        soundfile.write(folder / name, sound, rate)
    return folder


def five(folder, **more):
    return write(folder, {f"door_creak-{i}.wav": bursts(i) for i in range(5)} | more)


def table(folder, rows):
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *rows])


def captions(folder, caption=None):
    return {found.path.name: found.captions for found in find_recordings(folder, caption)}


def test_captions_come_from_the_table_the_argument_or_the_names(tmp_path):
    folder = five(tmp_path / "sounds")
    assert set(map(tuple, captions(folder).values())) == {("door creak",)}
    assert set(map(tuple, captions(folder, "my door").values())) == {("my door",)}
    table(folder, [(f"door_creak-{i}.wav", f"door number {i}") for i in range(5)])
    assert captions(folder)["door_creak-3.wav"] == ["door number 3"]


def test_material_is_trimmed_leveled_and_cut(tmp_path):
    silence = np.zeros(RATE, np.float32)
    loud, quiet = noise(0.5, 1, 0.2), noise(0.5, 2, 0.02)
    folder = five(tmp_path / "sounds")
    write(folder, {"loud.wav": np.concatenate([silence, loud, silence]), "quiet.wav": quiet, "long.wav": noise(3, 3)})
    stereo = np.stack([noise(0.5, 4), noise(0.5, 5)], axis=1)
    write(folder, {"stereo.flac": stereo}, rate=44100)
    material = read_material(find_recordings(folder, "doors"), RATE, RATE)
    counts = {name: material.sources.count(name) for name in material.sources}
    assert counts["long.wav"] == 5 and counts["loud.wav"] == counts["quiet.wav"] == counts["stereo.flac"] == 1
    assert material.clips.waveforms.shape == (len(material.sources), RATE)
    assert material.clips.captions == [["doors"]] * len(material.sources)

    def window(name):
        return material.clips.waveforms[material.sources.index(name)].astype(float)

    first, second = (np.sqrt(np.square(window(name)).sum()) for name in ("loud.wav", "quiet.wav"))
    assert first == pytest.approx(second, rel=0.1)
    assert abs(window("loud.wav")[: RATE // 20]).max() > 0  # the second of silence before it is gone
    assert material.notes == []


def test_duplicates_are_found_and_named(tmp_path):
    folder = five(tmp_path / "sounds")
    shutil.copy(folder / "door_creak-0.wav", folder / "copy.wav")
    soundfile.write(folder / "again.ogg", bursts(1), RATE)
    material = read_material(find_recordings(folder, "doors"), RATE, RATE)
    assert len(material.sources) == 6 and len(material.notes) == 2
    same, alike = sorted(material.notes, key=lambda note: "almost" in note)
    assert "door_creak-0.wav is the same as copy.wav and is left out" in same
    assert "door_creak-1.wav sounds almost the same as again.ogg" in alike


def test_speed_adds_a_version(tmp_path):
    recordings = find_recordings(five(tmp_path / "sounds"))
    assert len(read_material(recordings, RATE, RATE, speed_semitones=2).sources) >= 10
    time = np.arange(RATE) / RATE
    faster = change_speed(np.sin(2 * np.pi * 440 * time).astype(np.float32), 2.0)
    assert len(faster) == RATE // 2
    assert np.argmax(abs(np.fft.rfft(faster))) * RATE / len(faster) == pytest.approx(880, abs=4)


def test_windows_cover_the_recording_and_trimming_keeps_it():
    sound = noise(2.3)
    windows = list(cut_windows(sound, RATE))
    assert len(windows) == 4
    np.testing.assert_array_equal(windows[-1], sound[-RATE:])
    np.testing.assert_array_equal(trim(sound, RATE), sound)
    assert list(cut_windows(np.zeros(3 * RATE), RATE)) == []


def copies(folder):
    for name in "abcde":
        soundfile.write(write(folder, {}) / f"door {name}{name}.wav", bursts(0), RATE)


def silent(folder):
    five(folder, **{"still.wav": np.zeros(RATE)})


def described_twice(folder):
    five(folder)
    table(folder, [*((f"door_creak-{i}.wav", "a door") for i in range(5)), ("door_creak-0.wav", "a dog")])


def same_file_as_two_things(folder):
    five(folder)
    shutil.copy(folder / "door_creak-0.wav", folder / "dog.wav")


def of_numbers(folder):
    write(folder, {f"{i:03d}.wav": bursts(i) for i in range(5)})


def with_a_text_file(folder):
    five(folder)
    (folder / "broken.wav").write_text("no audio")


REFUSED = {
    "one file": (lambda folder: write(folder, {"door.wav": bursts(0)}), "holds 1 recording; give 5 to 200"),
    "all the same": (copies, "All 5 files are copies of door aa.wav"),
    "silence": (silent, r"still\.wav is silent"),
    "two captions": (described_twice, "describes door_creak-0.wav as 'a door' and as 'a dog'"),
    "two names": (same_file_as_two_things, "are the same file, described as 'dog' and as 'door creak'"),
    "no names": (of_numbers, "says nothing; pass --caption"),
    "no audio": (with_a_text_file, r"broken\.wav cannot be read"),
    "no folder": (lambda folder: None, "is not a folder"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learned_is_refused_in_a_sentence(make, message, tmp_path):
    make(tmp_path / "sounds")
    with pytest.raises(ValueError, match=message):
        read_material(find_recordings(tmp_path / "sounds"), RATE, RATE)


def test_hours_of_audio_and_a_second_caption_are_refused(tmp_path, monkeypatch):
    folder = five(tmp_path / "sounds")
    monkeypatch.setattr("diffusers_soundctm.data.material.MAX_SECONDS", 4.0)
    with pytest.raises(ValueError, match="minutes of audio; give at most"):
        find_recordings(folder)
    table(folder, [("door_creak-0.wav", "a door")])
    with pytest.raises(ValueError, match="leave out one of them"):
        find_recordings(folder, "another")
