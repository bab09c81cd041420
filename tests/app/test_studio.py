"""The work behind the app: each kind of sound, the code that makes it again, files, turns, cancelling, uploads."""

import json
import sys
import threading

import numpy as np
import pytest
import soundfile
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import sound_files, studio
from diffusers_soundctm.app.code_export import python_code
from diffusers_soundctm.app.fair_queue import FairQueue
from diffusers_soundctm.app.progress import events
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.rendering import Cancelled
from diffusers_soundctm.app.studio import Studio
from diffusers_soundctm.cli import main
from tiny_teachers import make_teacher

PLAIN = Recipe("rain on a tin roof", Noise(3), 1.0, steps=2)
OTHER = Recipe("a dog barks", Noise(4), 1.0)
FILLED = studio.filled(PLAIN, 1.0, "wind", [(0.3, 0.6)], 2)


@pytest.fixture(scope="module")
def desk(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, str(embedded_folder))


@pytest.fixture(scope="module")
def stereo_desk(tiny_pipeline, tmp_path_factory):
    """With a model of stereo waveforms."""
    folder = tmp_path_factory.mktemp("stereo")
    make_teacher("stable_audio", folder / "teacher", tiny_pipeline)
    pipe = SoundCTMPipeline.from_teacher(folder / "teacher")
    pipe.transformer.register_to_config(sample_size=2100)  # 1.52 s
    pipe.save_pretrained(folder / "model")
    # As the app has it: on some CPUs weights mapped from a file give other last bits than the same ones in memory.
    pipe = SoundCTMPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, str(folder / "model"))


@pytest.fixture
def sound_file(tmp_path):
    path = tmp_path / "upload.wav"
    samples = 0.3 * np.random.default_rng(0).standard_normal((44100, 2)).clip(-1, 1)
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    return path


def kinds(desk, sound_file):
    """One recipe of each kind."""
    upload = desk.bring(sound_file)
    return {
        "plain": PLAIN,
        "settings": PLAIN.change(nu=1.5, negative_prompt="wind", gamma=0.4, omega=2.5),
        "variation": studio.variation_recipes(PLAIN, 0.3, seed=9)[1],
        "morph": studio.morphed(PLAIN, OTHER, 2),
        "morph of the noise": studio.morphed(PLAIN, PLAIN.change(noise=Noise(8, ((0.5, 1),))), 2),
        "drawn": studio.drawn(PLAIN, [-50, -20, -50], 0.5, 2),
        "loop": studio.looped(PLAIN, 3),
        "filled": studio.filled(PLAIN, 1.0, "wind", [(0.3, 0.6)], 2),
        "filled upload": studio.filled(upload, 1.0, "wind", [(0.3, 0.6)], 2, seed=5),
        "continued upload": studio.continued(upload, 1.0, "wind", 0.5, 2),
    }


KINDS = ("plain", "settings", "variation", "morph", "morph of the noise", "drawn", "loop")
KINDS += ("filled", "filled upload", "continued upload")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("studio_name", "channels"), [("desk", 1), ("stereo_desk", 2)])
def test_code_makes_the_same_file(kind, studio_name, channels, sound_file, tmp_path, monkeypatch, request):
    desk = request.getfixturevalue(studio_name)
    take = desk.make(kinds(desk, sound_file)[kind])
    assert len(take.waveform) == channels and take.waveform.isfinite().all() and take.waveform.abs().max() > 0
    expected = 1.5 if kind == "continued upload" else 1.0
    if kind == "loop" and channels == 2:  # of Stable Audio a loop is the model's whole window
        expected = desk.pipe.default_audio_length_in_s
    assert take.seconds == pytest.approx(expected, abs=0.041 if kind == "loop" else 1e-4)
    monkeypatch.chdir(tmp_path)
    exec(python_code(take.recipe, desk.model, "again.wav"), {})
    (tmp_path / "made.wav").write_bytes(sound_files.encode(desk, take))
    made, again = (soundfile.read(tmp_path / name, always_2d=True)[0] for name in ("made.wav", "again.wav"))
    assert made.shape[1] == channels and made.tolist() == again.tolist()


def test_the_embedded_model_follows_a_steep_curve_in_few_steps():
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    desk = Studio(pipe)
    plain = Recipe("rain on a tin roof", Noise(7), 5.12, steps=8)
    rise = np.linspace(-48, -15, 64)
    before, drawn = (
        desk.loudness(desk.make(recipe).waveform) for recipe in (plain, studio.drawn(plain, list(rise), 0.2, 8))
    )
    assert np.abs(rise - drawn).mean() < 0.15 * np.abs(rise - before).mean()


def test_code_of_the_embedded_model_names_no_folder():
    assert "SoundCTMPipeline.from_embedded()" in python_code(PLAIN)


def test_code_has_the_dtype_and_device_of_the_app():
    code = python_code(PLAIN, "folder", dtype=torch.bfloat16, device="cuda:0")
    assert "from_pretrained('folder', torch_dtype=torch.bfloat16)" in code and "pipe.to('cuda')" in code
    assert "torch_dtype" not in python_code(PLAIN) and "pipe.to" not in python_code(PLAIN)


def test_prompts_are_text_in_code_not_code():
    nasty = PLAIN.change(prompt='"); import os; os.abort() #')
    tree = compile(python_code(nasty), "sound.py", "exec")
    assert "abort" not in tree.co_names


def test_kinds_differ_from_the_plain_sound_and_drift_says_so(desk, sound_file):
    plain = desk.make(PLAIN)
    assert desk.drift(plain, plain) == pytest.approx(0, abs=1e-4)
    for kind in ("variation", "morph", "drawn"):
        take = desk.make(kinds(desk, sound_file)[kind])
        assert not torch.equal(take.waveform, plain.waveform)
        assert desk.drift(plain, take) > 1e-4


def test_filling_leaves_the_rest_alone(desk):
    filled = desk.make(studio.filled(PLAIN, 1.0, "wind", [(0.4, 0.6)], 2))
    before = desk.make(PLAIN).waveform
    outside = [slice(4800), slice(-4800, None)]
    assert all(torch.equal(filled.waveform[:, part], before[:, part]) for part in outside)
    assert not torch.equal(filled.waveform[:, 6400:9600], before[:, 6400:9600])


@pytest.mark.parametrize("extension", [".wav", ".flac"])
def test_files_carry_their_settings(extension, desk, tmp_path, sound_file, capsys):
    path = tmp_path / f"rain{extension}"
    path.write_bytes(sound_files.encode(desk, desk.make(PLAIN), extension))
    # The command line reads them, checks the noise and makes the same sound.
    assert main(["refine", str(path), "--steps", "2"]) == 0
    assert float(capsys.readouterr().out.split("drift ")[1].split()[0]) < 0.001
    drawn = desk.make(kinds(desk, sound_file)["drawn"])
    path.write_bytes(sound_files.encode(desk, drawn, extension))
    with soundfile.SoundFile(path) as file:
        tags = file.copy_metadata()
    assert Recipe.from_json(json.loads(tags["comment"])["recipe"]) == drawn.recipe
    assert tags["title"] == PLAIN.prompt


def test_wav_header_that_would_overflow_refers_to_the_flac(desk, tmp_path):
    recipe = studio.drawn(PLAIN.change(prompt="rain " * 59), [-99.9] * 128, 0.5, 1)
    for prompt in ("wind ", "dogs "):
        recipe = studio.filled(recipe, 1.0, prompt * 59, [(0.2, 0.4)], 1)
    take = studio.Take(recipe, torch.rand(16000), 16000)
    for extension in (".wav", ".flac"):
        path = tmp_path / f"long{extension}"
        path.write_bytes(sound_files.encode(desk, take, extension))
        with soundfile.SoundFile(path) as file:
            comment = json.loads(file.copy_metadata()["comment"])
        assert ("recipe" in comment) == (extension == ".flac")


def test_names_of_files_are_harmless(desk):
    nasty = PLAIN.change(prompt="../../etc/passwd; rm -rf / ☃")
    assert sound_files.file_name(studio.Take(nasty, torch.zeros(1), 16000)).startswith("etc-passwd-rm-rf-")
    assert sound_files.file_name(studio.Take(nasty.change(prompt="☃"), torch.zeros(1), 16000)).startswith("sound-")


def test_card_has_axes_and_a_playable_file(desk):
    shown = sound_files.card(desk, desk.make(PLAIN), with_files=True)
    json.dumps(shown)
    assert [tick["label"] for tick in shown["ticks"]] == ["250", "1k", "2k", "4k", "8k"]
    assert shown["ticks"][-1]["at"] == 1
    assert shown["seed"] == 3 and shown["about"] == "seed 3, 2 steps"
    assert shown["image"].startswith("data:image/png;base64,") and shown["audio"].startswith("data:audio/flac;base64,")
    assert "manual_seed(3)" in shown["code"] and Recipe.from_json(shown["recipe"]) == PLAIN


def test_spectrogram_shows_low_below_high_and_early_left(desk):
    import io

    from PIL import Image

    seconds = torch.arange(16000) / 16000
    chirp = torch.sin(2 * torch.pi * (100 * seconds + 3500 * seconds**2))
    picture = np.asarray(
        Image.open(io.BytesIO(sound_files.spectrogram_png(chirp[None], 16000))).convert("L"), dtype=float
    )
    brightest = picture[:, 40:-40].argmax(axis=0)
    assert brightest[:50].mean() > 80 and brightest[-50:].mean() < 30


def test_drafts_are_eight_seeds(desk):
    recipes = studio.draft_recipes("rain", 1.0, seed=5)
    assert [recipe.noise.seed for recipe in recipes] == list(range(5, 13))
    assert studio.draft_recipes("rain", 1.0) != studio.draft_recipes("rain", 1.0)


def test_equal_requests_are_made_once(desk, monkeypatch):
    calls = []
    fresh = Studio(desk.pipe)
    make = fresh._render
    fresh._render = lambda pipe, recipe, *rest: calls.append(recipe.id) or make(pipe, recipe, *rest)
    threads = [threading.Thread(target=fresh.make, args=(PLAIN, f"somebody {i}")) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [PLAIN.id]


def test_ten_at_once_get_what_they_asked_for(desk):
    fresh, results = Studio(desk.pipe), {}
    recipes = [PLAIN.change(noise=Noise(100 + i), duration=0.5, steps=1) for i in range(10)]
    alone = [Studio(desk.pipe).make(recipe).waveform for recipe in recipes]

    def ask(i):
        results[i] = fresh.make(recipes[i], f"somebody {i}").waveform

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[i], alone[i]) for i in range(10))


def test_turns_go_round_between_owners():
    turns, order, running = FairQueue(), [], threading.Event()

    def ask(owner):
        with turns.turn(owner) as has_turn:
            assert has_turn
            order.append(owner)

    with turns.turn("first"):
        threads = []
        for number, owner in enumerate(["greedy"] * 4 + ["modest"] + ["shy"]):
            threads.append(threading.Thread(target=ask, args=(owner,)))
            threads[-1].start()
            while sum(map(len, turns._waiting.values())) < number + 1:
                running.wait(0.01)
    for thread in threads:
        thread.join()
    assert order[:3] == ["greedy", "modest", "shy"] and order[3:] == ["greedy"] * 3


def test_cancel_stops_the_sampler_and_only_ones_own(desk):
    fresh = Studio(desk.pipe)
    steps = []

    def on_step(done, of):
        steps.append(done)
        fresh.cancel("somebody else")
        if done == 2:
            fresh.cancel("me")

    with pytest.raises(Cancelled):
        fresh.make(PLAIN.change(steps=16), "me", on_step)
    assert steps == [1, 2]
    assert fresh.make(PLAIN, "me").seconds == 1  # what was cancelled does not stay so


def test_cancel_reaches_those_who_wait(desk):
    fresh = Studio(desk.pipe)
    outcome = []

    def wait():
        try:
            fresh.make(PLAIN, "waiting")
        except Cancelled:
            outcome.append("cancelled")

    with fresh._turns.turn("busy"):
        thread = threading.Thread(target=wait)
        thread.start()
        while "waiting" not in fresh._turns._waiting:
            threading.Event().wait(0.01)
        fresh.cancel("waiting")
        thread.join(timeout=20)
    assert outcome == ["cancelled"] and fresh._takes.get(PLAIN.id) is None


def test_a_failure_frees_the_turn(desk):
    with pytest.raises(ValueError, match="upload it again"):
        desk.make(PLAIN.change(source=studio.Upload("0" * 16), spans=((0.1, 0.5),)))
    assert desk.make(PLAIN).seconds == 1


def test_on_another_machine_the_sound_is_the_same(desk, sound_file):
    import copy

    def elsewhere(function):
        return lambda *arguments: function(*copy.deepcopy(arguments))

    remote = Studio(desk.pipe, on_gpu=elsewhere)
    remote.bring(sound_file)
    for recipe in (PLAIN, kinds(desk, sound_file)["filled upload"], kinds(desk, sound_file)["filled"]):
        assert torch.equal(remote.make(recipe).waveform, desk.make(recipe).waveform)


def test_uploads_are_limited(desk, tmp_path, monkeypatch):
    def written(samples):
        path = tmp_path / "sound.wav"
        soundfile.write(path, samples, 8000)
        return path

    for name, content in (("page.html", b"<script>"), ("model.pkl", b"\x80\x04N."), ("empty.wav", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="no sound file"):
            desk.bring(tmp_path / name)
    (tmp_path / "samples.raw").write_bytes(bytes(8000))
    with pytest.raises(ValueError, match="no sound file"):
        desk.bring(tmp_path / "samples.raw")
    with pytest.raises(ValueError, match="no file"):
        desk.bring(None)
    for seconds in (0.2, 31):
        with pytest.raises(ValueError, match="give one of"):
            desk.bring(written(np.ones(int(seconds * 8000)) * 0.1))
    with pytest.raises(ValueError, match="silent"):
        desk.bring(written(np.zeros(8000)))
    with monkeypatch.context() as patch:
        patch.setattr(studio, "MAX_UPLOAD_SAMPLES", 15000)
        with pytest.raises(ValueError, match="channels"):
            desk.bring(written(np.ones((8000, 2)) * 0.1))
    monkeypatch.setattr(studio, "MAX_UPLOAD_BYTES", 1000)
    with pytest.raises(ValueError, match="MB"):
        desk.bring(written(np.ones(8000) * 0.1))


def test_loudness_of_a_rising_sound_rises(desk):
    rising = torch.randn(80000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, -1, 80000)
    curve = desk.loudness(rising)
    assert len(curve) == 64 and curve[-5] - curve[5] > 30


@pytest.mark.parametrize(
    "make",
    [
        lambda: studio.filled(PLAIN, 1.0, "wind", [], 2),
        lambda: studio.continued(PLAIN, 29.0, "wind", 2, 2),
        lambda: studio.drawn(PLAIN, [], 0.5, 2),
        lambda: studio.drawn(PLAIN, 5, 0.5, 2),
        lambda: studio.filled(PLAIN, 1.0, "wind", 5, 2),
        lambda: studio.variation_recipes(PLAIN, 1.5),
        # A filled sound is not its noise's: nothing else can be made of that without the recording.
        lambda: studio.looped(FILLED, 2),
        lambda: studio.drawn(FILLED, [-50, -20], 0.5, 2),
        lambda: studio.morphed(FILLED, PLAIN, 2),
        lambda: studio.morphed(PLAIN, FILLED, 2),
    ],
)
def test_requests_without_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_events_are_reported_then_returned_or_raised():
    assert list(events(lambda report: report(1) or report(2) or 3)) == [1, 2, 3]
    with pytest.raises(KeyError):
        list(events(lambda report: {}["missing"]))


def test_the_work_needs_no_gradio():
    import subprocess

    code = "import sys; import diffusers_soundctm.app.sound_files; print('gradio' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "False", result.stderr
