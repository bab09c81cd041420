"""Commands that make a sound from another one: vary, morph, draw, loop, fill, extend, and refining their results."""

import json
import shlex

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.audio import read_audio, write_audio
from diffusers_soundctm.cli import main

DRAFT = ("--duration", "0.6", "--seed", "3")


@pytest.fixture
def draft(tmp_path, monkeypatch, soundctm):
    monkeypatch.chdir(tmp_path)
    soundctm("generate", "rain", "-o", "rain.flac", *DRAFT)
    return tmp_path / "rain.flac"


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """0.8 s of noise at 8 kHz, without settings."""
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "walk.wav", 0.2 * np.random.default_rng(0).standard_normal(6400), 8000)
    return tmp_path / "walk.wav"


def samples(path):
    return soundfile.read(path)[0]


def correlation(first, second):
    return np.corrcoef(first, second)[0, 1]


def test_varied_sounds_are_as_far_as_asked(draft, soundctm):
    same = soundctm("vary", draft, "--amount", "0", "--num", "1", "-o", "same.flac")
    assert correlation(samples("same.flac"), samples(draft)) > 0.9999 and "drift 0.000" in same[0]
    lines = soundctm("vary", draft, "--amount", "0.2", "--num", "2", "--seed", "5")
    assert [line.split(":")[0] for line in lines] == [str(draft.with_name(f"rain-varied-{i}.flac")) for i in (1, 2)]
    near, other = samples("rain-varied-1.flac"), samples("rain-varied-2.flac")
    assert near.tolist() != other.tolist() != samples(draft).tolist()
    soundctm("vary", draft, "--amount", "1", "--num", "1", "--seed", "5", "-o", "far.flac")
    assert correlation(near, samples(draft)) > correlation(samples("far.flac"), samples(draft))


def test_morph_begins_as_one_draft_and_ends_as_the_other(draft, soundctm):
    soundctm("generate", "a dog barks", "-o", "dog.flac", "--duration", "0.6", "--seed", "4")
    soundctm("morph", draft, "dog.flac", "-o", "morph.flac", "--steps", "1")
    morph, first, last = (samples(path) for path in ("morph.flac", draft, "dog.flac"))
    start, end = slice(0, 1600), slice(-1600, None)
    assert correlation(morph[start], first[start]) > correlation(morph[start], last[start])
    assert correlation(morph[end], last[end]) > correlation(morph[end], first[end])


def test_loop_closes(draft, soundctm):
    soundctm("loop", draft, "--steps", "2")
    loop = samples("rain-loop.flac")
    steps = np.abs(np.diff(loop))
    assert abs(loop[0] - loop[-1]) <= steps.max()
    assert abs(loop[0]) > abs(samples(draft)[0]) == 0  # loops are not faded, all other files are


def test_draw_follows_points_values_and_sounds(draft, recording, soundctm, comment_of):
    options = ("--steps", "1", "--strength", "0.1")
    lines = soundctm("draw", draft, "--curve", "0:-60", "0.6:-20", *options, "-o", "points.flac")
    assert "dB from the curve" in lines[0]
    assert f"average {comment_of('points.flac')['curve_error_db']:.1f} dB" in lines[0]
    curve = comment_of("points.flac")["recipe"]["curve"]
    assert curve[0] == -60 and curve[-1] == -20 and np.diff(curve).min() > 0
    soundctm("draw", draft, "--curve", *curve, *options, "-o", "values.flac")
    assert samples("values.flac").tolist() == samples("points.flac").tolist() != samples(draft).tolist()
    _, report = soundctm("draw", draft, "--curve", "-1", "-1", *options, "-o", "loud.flac")
    assert "dB below your curve" in report or "misses your curve by" in report
    soundctm("draw", draft, "--like", recording, *options, "-o", "like.flac")
    assert len(comment_of("like.flac")["recipe"]["curve"]) == 64


def test_fill_and_extend_keep_the_rest(recording, soundctm, comment_of):
    soundctm("fill", recording, "rain", "--spans", "0.3:0.4", "--steps", "1", "--seed", "1", "-o", "filled.flac")
    filled, before = samples("filled.flac"), read_audio(recording, 16000)[0][0].numpy()
    assert len(filled) == 12800
    kept = slice(80, 3900)  # the first 5 ms are faded
    assert correlation(filled[kept], before[kept]) > 0.9999 > correlation(filled[4900:6300], before[4900:6300])
    (line,) = soundctm("extend", "filled.flac", "--to", "1", "--steps", "1")
    assert "1.00 s" in line
    longer = samples("filled-extended.flac")
    assert len(longer) == 16000 and correlation(longer[80:11000], filled[80:11000]) > 0.9999
    # Without a prompt, it is that of the file.
    assert comment_of("filled-extended.flac")["recipe"]["prompt"] == "rain"


EDITS = [
    ("vary", "--amount", "0.2", "--num", "1", "--seed", "5"),
    ("draw", "--curve", "0:-60", "0.6:-20", "--steps", "2"),
    ("loop", "--steps", "2"),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit[0])
def test_the_printed_commands_make_the_sound_again(edit, draft, soundctm):
    soundctm("vary", draft, "--num", "1", "--seed", "8", "-o", "near.flac")
    soundctm(edit[0], "near.flac", *edit[1:], "-o", "made.flac")
    lines = soundctm("info", "made.flac")
    commands = [line.strip() for line in lines if line.startswith("  soundctm")]
    assert len(commands) == 3
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert samples("made-again.flac").tolist() == samples("made.flac").tolist()


def test_the_printed_commands_make_morphs_and_fills_again(draft, recording, soundctm):
    soundctm("generate", "a dog barks", "-o", "dog.flac", "--duration", "0.6", "--seed", "4", "--omega", "3")
    soundctm("morph", draft, "dog.flac", "-o", "morph.flac", "--steps", "1")
    soundctm("fill", recording, "rain", "--spans", "0.3:0.4", "--steps", "1", "-o", "filled.flac")
    soundctm("extend", recording, "rain", "--to", "1.1", "--steps", "1", "-o", "longer.flac", "--loudness", "-30")
    for name in ("morph", "filled", "longer", "dog"):
        lines = soundctm("info", f"{name}.flac")
        for line in lines:
            if line.startswith("  soundctm"):
                assert main(shlex.split(line)[1:]) == 0
        assert samples(f"{name}-again.flac").tolist() == samples(f"{name}.flac").tolist()


def test_results_can_be_refined(draft, recording, soundctm, refused, comment_of):
    soundctm("loop", draft, "--steps", "1", "-o", "loop.flac")
    soundctm("refine", "loop.flac", "--steps", "2")
    assert comment_of("loop-refined.flac")["recipe"] == comment_of("loop.flac")["recipe"] | {"steps": 2}
    soundctm("fill", recording, "rain", "--spans", "0.3:0.4", "--steps", "1", "-o", "filled.flac")
    assert "drift" in soundctm("refine", "filled.flac", "--steps", "2")[0]
    soundfile.write(recording, 0.1 * np.ones(6400), 8000)
    assert "is not the recording" in refused("refine", "filled.flac", "--steps", "2", "--force")
    recording.unlink()
    assert "walk.wav" in refused("refine", "filled.flac", "--steps", "2", "--force")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["vary", "rain.flac", "--amount", "2"], "--amount is 2"),
        (["vary", "rain.flac", "--num", "0"], "--num"),
        (["vary", "rain.flac", "--seed", "-1"], "--seed"),
        (["vary", "missing.wav"], "missing.wav"),
        (["vary", "walk.wav"], "metadata"),
        (["morph", "rain.flac", "walk.wav"], "walk.wav lacks"),
        (["loop", "rain.flac", "--steps", "0"], "--steps"),
        (["loop", "rain.flac", "-o", "loop.mp3"], ".wav"),
        (["loop", "rain.flac", "-o", "walk.wav"], "exists"),
        (["loop", "rain.flac", "--loudness", "3"], "--loudness"),
        (["loop", "odd.flac"], "odd.flac"),
        (["draw", "rain.flac"], "--curve"),
        (["draw", "rain.flac", "--curve", "0:-40", "5:-10"], "0.6 s"),
        (["draw", "rain.flac", "--curve", "0:-40", "-10"], "points such as"),
        (["draw", "rain.flac", "--curve", "loud", "soft"], "points such as"),
        (["draw", "rain.flac", "--curve", "0:-40", "0.5:20"], "from -100 to 0"),
        (["draw", "rain.flac", "--curve", "0:-40", "0.5:-20", "--strength", "9"], "strength"),
        (["draw", "rain.flac", "--like", "missing.wav"], "missing.wav"),
        (["fill", "walk.wav", "--spans", "0.1:0.2"], "describe the new part"),
        (["fill", "walk.wav", "rain"], "--spans"),
        (["fill", "walk.wav", "rain", "--spans", "0.1"], "'0.1'"),
        (["fill", "walk.wav", "rain", "--spans", "0.7:0.9"], "0.7:0.9"),
        (["fill", "walk.wav", "rain", "--spans", "0:0.4", "0.4:0.8"], "whole recording"),
        (["fill", "walk.wav", "rain", "--spans", "0.1:0.12"], "shorter"),
        (["fill", "missing.wav", "rain", "--spans", "0.1:0.2"], "missing.wav"),
        (["extend", "walk.wav", "rain", "--to", "0.5"], "0.80 s already"),
        (["extend", "walk.wav", "rain", "--to", "31"], "at most 30"),
        (["extend", "walk.wav", " ", "--to", "2"], "prompt"),
        (["info", "walk.wav"], "metadata"),
        (["info", "missing.wav"], "missing.wav"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_before_a_model_is_loaded(
    arguments, named, drafts_folder, monkeypatch, no_model, refused
):
    monkeypatch.chdir(drafts_folder)
    before = sorted(drafts_folder.iterdir())
    assert named in refused(*arguments)
    assert sorted(drafts_folder.iterdir()) == before


@pytest.fixture(scope="module")
def drafts_folder(tmp_path_factory, embedded_folder):
    """A draft, a recording without settings, and a draft with a broken recipe."""
    folder = tmp_path_factory.mktemp("drafts")
    noise = 0.2 * np.random.default_rng(0).standard_normal(9600)
    settings = {"prompt": "rain", "negative_prompt": None, "model": "embedded", "seed": 3, "noise": "0" * 16}
    settings |= {"steps": 1, "nu": 1.0, "omega": 3.5, "gamma": 0.0, "duration": 0.6, "dtype": "float32"}
    write_audio(folder / "rain.flac", noise, 16000, {"comment": json.dumps(settings)})
    odd = {"model": "embedded", "dtype": "float32", "recipe": {"prompt": "rain", "noise": {"seed": -1}, "duration": 1}}
    write_audio(folder / "odd.flac", noise, 16000, {"comment": json.dumps(odd)})
    write_audio(folder / "walk.wav", noise[:6400], 8000)
    return folder


def test_another_noise_or_model_is_refused(draft, soundctm, refused, comment_of):
    for change, named in (({"seed": 4}, "gives the noise"), ({"model": "someone/else"}, "someone/else")):
        write_audio("odd.flac", *read_audio(draft), {"comment": json.dumps(comment_of(draft) | change)})
        assert named in refused("loop", "odd.flac", "--steps", "1")
    assert "one model" in refused("morph", draft, "odd.flac")


@pytest.fixture
def voice(tmp_path, monkeypatch):
    """0.8 s of a hum that rises by a fifth and gets louder."""
    monkeypatch.chdir(tmp_path)
    seconds = np.arange(12800) / 16000
    phase = 2 * np.pi * np.cumsum(200 * 1.5 ** (seconds / 0.8)) / 16000
    hum = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
    soundfile.write(tmp_path / "voice.wav", 0.1 * (0.1 + seconds) * hum, 16000)
    return tmp_path / "voice.wav"


def test_sketch_takes_the_curves_of_a_voice(voice, soundctm, refused, comment_of):
    options = ("--steps", "2", "--seed", "3")
    lines = soundctm("sketch", voice, "a growling monster", *options, "--num", "2")
    assert all(word in lines[0] for word in ("dB off", "octaves off", "of the voiced time"))
    first, second = samples("voice-sketched-1.wav"), samples("voice-sketched-2.wav")
    assert len(first) == 12800 and first.tolist() != second.tolist()
    sketch = comment_of("voice-sketched-1.wav")["recipe"]["sketch"]
    assert sketch["loudness"][-2] > sketch["loudness"][0] + 6
    sung = [pitch for pitch in sketch["pitch"] if pitch]
    assert len(sung) > 0.7 * len(sketch["pitch"]) and 1.3 < sung[-1] / sung[0] < 1.6
    soundctm("generate", "a growling monster", "-o", "plain.wav", *options, "--duration", "0.8")
    soundctm("sketch", voice, "a growling monster", *options, "--no-pitch", "--no-brightness", "-o", "loud.wav")
    assert list(comment_of("loud.wav")["recipe"]["sketch"]) == ["loudness"]
    assert samples("plain.wav").tolist() != samples("loud.wav").tolist() != first.tolist()
    assert "leave nothing to follow" in refused(
        "sketch", voice, "a monster", "--no-loudness", "--no-pitch", "--no-brightness"
    )


def test_the_printed_commands_make_sketches_again(voice, soundctm):
    soundctm("sketch", voice, "wind", "--steps", "1", "--seed", "3", "--no-brightness", "-o", "wind.wav")
    soundctm("refine", "wind.wav", "--steps", "2")
    lines = soundctm("info", "wind-refined.wav")
    assert any("follows the loudness, pitch of a voice" in line for line in lines)
    (command,) = [line for line in lines if line.startswith("  soundctm")]
    assert main(shlex.split(command)[1:]) == 0
    assert samples("wind-refined-again.wav").tolist() == samples("wind-refined.wav").tolist()
