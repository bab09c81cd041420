"""Random calls of every entry point, most of them wrong: each works, or is refused in one sentence that says why.

A call fails the test if it ends in a traceback or another exit code, leaves half a file, or takes more than a minute.
"""

import argparse
import contextlib
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import diffusers_soundctm
from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.audio import normalize_loudness, read_audio, read_tags, write_audio
from diffusers_soundctm.cli import main
from diffusers_soundctm.control import (
    BandEnergyObjective,
    IntensityObjective,
    LoopObjective,
    LossGuidance,
    PromptMorph,
    drift,
    extend_bandwidth,
    generate_long,
    inpaint,
    noise_hash,
    vary,
)
from diffusers_soundctm.training.config import run_script
from diffusers_soundctm.training.ranges import range_problems
from runs import SCRIPTS, load
from tiny_teachers import make_teacher

OURS = (Path(diffusers_soundctm.__file__).parent, SCRIPTS)
SEED = 20261130
RATE = 16000
NUMBERS = (0, 1, 2, 3, -1, 0.5, 1.5, 1e-9, 7, math.nan, math.inf, -math.inf, 1e30, True, None, "1", "rain", [1], 2**70)
TEXTS = ("rain", "", "a dog barks " * 40, "雨 🎧", "\0", "a\nb", "--help", "rain \udce9", "%s {0}")
NAMES = (
    "out.wav", "out.flac", "OUT.WAV", "out.mp3", "out", "good.wav", "text.wav", "missing/out.wav", "folder.wav",
    "link.wav", "dangling.wav", "device.wav", "readonly/out.wav", "雨.wav", "é" * 123 + ".wav", "x" * 300 + ".wav", "",
    ".wav", "-.wav", "a b.flac", "/dev/null", "/", "nul\0.wav",
)  # fmt: skip
pytestmark = pytest.mark.slow


CHANGES = ({"seed": 10**30}, {"nu": "x"}, {"duration": math.nan}, {"steps": -1}, {"model": "../.."}, {"prompt": 5},
           {"dtype": "int8"}, {"omega": 1e400})  # fmt: skip


class Spectrum:
    """An embedding for `soundctm evaluate`."""

    def embed(self, waveforms, sampling_rate):
        return np.abs(np.fft.rfft(waveforms, 64, axis=1)).astype(np.float32)


class Faults(list):
    """What went wrong, with the call that shows it."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is None:
            assert not self, f"{len(self)} of the calls:\n" + "\n".join(self[:20])


@contextlib.contextmanager
def no_hang(seconds: int = 60) -> Iterator[None]:
    def ring(*_):
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def draw(rng: random.Random, pools: dict[str, tuple], likely: float = 0.35) -> dict:
    """Some of the options, each with a value of its pool."""
    return {name: rng.choice(values) for name, values in pools.items() if rng.random() < likely}


def last_line(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"


def is_sentence_of_ours(error: BaseException) -> bool:
    """Whether the library itself raised `error`, with a message that names an argument or a remedy.

    A `TypeError` is Python's own where a value of another type is compared.
    """
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = any(file.is_relative_to(folder) for folder in OURS)
    written = "`" in str(error) or "; " in str(error)
    return ours and (isinstance(error, TypeError) or (written and isinstance(error, (ValueError, OSError))))


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_size for path in folder.rglob("*")}


# Commands


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, embedded_folder):
    """A folder of good, bad and odd files, and of damaged models."""
    root = tmp_path_factory.mktemp("zoo")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", embedded_folder)
        assert main(["generate", "rain", "-o", str(root / "good.wav"), "--duration", "0.5", "--seed", "1"]) == 0
    samples, _ = read_audio(root / "good.wav")
    settings = json.loads(read_tags(root / "good.wav")["comment"])
    for number, change in enumerate(CHANGES):
        write_audio(root / f"changed-{number}.flac", samples, RATE, {"comment": json.dumps(settings | change)})
    write_audio(root / "list.flac", samples, RATE, {"comment": "[1]"})
    (root / "text.wav").write_text("no sound")
    (root / "empty.wav").touch()
    (root / "half.wav").write_bytes((root / "good.wav").read_bytes()[:100])
    soundfile.write(root / "nan.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    (root / "folder.wav").mkdir()
    (root / "readonly").mkdir()
    (root / "link.wav").symlink_to("text.wav")
    (root / "dangling.wav").symlink_to("absent/a.wav")
    (root / "device.wav").symlink_to("/dev/null")
    (root / "prompts.txt").write_bytes(b"\xef\xbb\xbfrain\n\ndog\n")
    (root / "latin.txt").write_bytes(b"pluie \xe0 No\xebl\n")
    (root / "utf16.txt").write_bytes("rain".encode("utf-16"))
    for name in ("sounds", "reference"):
        for label in ("rain", "dog"):
            (root / name / label).mkdir(parents=True)
            for number in range(3):
                soundfile.write(root / name / label / f"{number}.wav", rng.uniform(-0.5, 0.5, RATE), RATE)
    (root / "sounds" / "._rain.wav").write_bytes(b"\0\5\x16\7")
    (root / "sounds" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "bad_sounds").mkdir()
    (root / "bad_sounds" / "a.wav").write_text("no sound")
    for number in range(14):
        damage(shutil.copytree(embedded_folder, root / f"model-{number}"), random.Random(number))
    return root


def damage(folder: Path, rng: random.Random) -> None:
    """Break one file of a model folder."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = rng.choice(["delete", "cut", "flip", "type", "empty", "list"])
    content = file.read_bytes()
    if kind == "delete":
        file.unlink()
    elif kind == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif file.suffix == ".json" and kind in ("type", "list"):
        values = json.loads(content)
        name = rng.choice(sorted(values)) if isinstance(values, dict) and values else None
        file.write_text(json.dumps([values] if name is None or kind == "list" else values | {name: {"x": []}}))
    else:
        file.write_bytes(bytes(rng.randrange(256) for _ in range(len(content) % 4096)))


MODELS = (None, "embedded", "no/such/model", "good.wav", "folder.wav", "", "..", "a/b/c/d",
          *(f"model-{n}" for n in range(14)))  # fmt: skip
SOUND = {
    "-o": NAMES, "--force": (None,), "--loudness": ("-23", "-70", "3", "nan", "x", "-inf"), "--model": MODELS[1:],
    "--dtype": ("float32", "bfloat16", "int8"), "--device": ("cpu", "toaster", "cuda:99", "meta", ""),
    "--steps": ("1", "2", "0", "-1", "1e3", "x", "33333333333333333333"),
}  # fmt: skip
GENERATE = {
    "--prompts": ("prompts.txt", "latin.txt", "utf16.txt", "empty.wav", "missing.txt", "folder.wav", "good.wav"),
    "--nu": ("1", "1.5", "nan", "inf", "-1e30"), "--omega": ("3", "-3", "nan", "1e30", "x"),
    "--gamma": ("0", "1", "0.5", "2", "-1", "nan"), "--negative-prompt": TEXTS,
    "--seed": ("0", "7", "-1", "1.5", str(2**63), str(2**80)), "--num": ("1", "2", "0", "-3", "x"),
    "--duration": ("0.5", "1e-9", "0", "31", "nan", "inf", "-1", "x"),
}  # fmt: skip
DRAFTS = ("good.wav", "text.wav", "empty.wav", "half.wav", "nan.wav", "list.flac", "missing.wav", "folder.wav",
          "link.wav", "", "/dev/null", *(f"changed-{n}.flac" for n in range(8)))  # fmt: skip
EVALUATE = {
    "--reference-split": ("test", "train", "", "雨"), "--probe-train": ("sounds", "missing", "good.wav"),
    "--embedding": ("aisfx", "os:getcwd", "int:", ":", "no.such:thing", "builtins:object", "x"),
    "--sampling-rate": ("16000", "0", "-1", "x", "1"), "--duration": ("0.5", "inf", "nan", "0", "1e300", "1e-9", "1e7"),
    "--metrics": ("clap", "fad", ""), "--captions": ("prompts.txt", "missing.csv", "good.wav"), "-o": NAMES,
    "--force": (None,),
}  # fmt: skip
FOLDERS = ("sounds", "reference", "bad_sounds", "missing", "good.wav", "folder.wav", "", "no/such/set", "model-0")


def command(rng: random.Random) -> list[str]:
    kind = rng.choice(["generate"] * 4 + ["refine"] * 3 + ["info", "evaluate", "evaluate", "demo", "convert", "wrong"])
    argv, options = [kind], {}
    if kind == "generate":
        argv += [rng.choice(TEXTS)] * rng.choice([1, 1, 1, 1, 0, 2])
        options = draw(rng, SOUND, 0.15) | draw(rng, GENERATE, 0.2)
        options.setdefault("-o", "out.wav")
        options.setdefault("--duration", "0.5")
    elif kind == "refine":
        argv += [rng.choice(DRAFTS)]
        options = {"-o": "out.wav", "--steps": "2"} | draw(rng, SOUND, 0.2)
    elif kind == "info":
        options = draw(rng, {"--model": MODELS[1:]}, 0.9)
    elif kind == "evaluate":
        usual = {"--generated": "sounds", "--reference": "reference", "--duration": "0.5", "-o": "out.json",
                 "--embedding": "test_fuzz:Spectrum"}  # fmt: skip
        wrong = draw(rng, {"--generated": FOLDERS, "--reference": FOLDERS}, 0.3)
        options = usual | wrong | draw(rng, EVALUATE, 0.15)
    elif kind == "demo":
        ports = ("-1", "0", "65536", "x", "1e3")
        options = {"--port": rng.choice(ports)} | draw(rng, {"--model": MODELS[1:], "--host": ("", "999.1.1.1")})
    elif kind == "convert":
        options = {
            "--from": rng.choice(["sony-unet", "sony-dit-v1", "x", ""]),
            "-o": rng.choice(["new", "good.wav", ""]),
        }
        options |= {"--checkpoint": rng.choice(["missing.pt", "good.wav", "text.wav", "sounds", ""])}
        options |= draw(rng, {"--variants": ("fp16", "fp8"), "--config": ("prompts.txt", "missing.json", "folder.wav")})
    else:
        argv = rng.choice([[], ["x"], ["--version"], ["--help"], ["generate", "--help"], ["info", "x", "y"]])
    for name, value in options.items():
        argv += [name] if value is None else [f"{name}={value}"] if name.startswith("--") else [name, value]
    return argv


def call_command(argv: list[str]) -> tuple[object, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_hang():
        try:
            code = main(argv)
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def test_commands(zoo, embedded_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("diffusers_soundctm.hub.folders.EMBEDDED", embedded_folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("diffusers_soundctm.cli.demo.load_pipeline", lambda *_: pytest.fail("the app would start"))
    rng = random.Random(SEED)
    monkeypatch.chdir(zoo)
    with Faults() as faults:
        for _ in range(450):
            argv, before = command(rng), snapshot(zoo)
            try:
                code, out, err = call_command(argv)
            except BaseException as error:
                faults.append(f"{argv}: {last_line(error)}")
                continue
            after = snapshot(zoo)
            new = [Path(path) for path in after if path not in before]
            if code not in (0, 2, None) or "Traceback" in out + err:
                faults.append(f"{argv}: exit code {code!r}: {err[-300:]}")
            elif code == 2 and (after != before or len(err.split()) < 4):
                faults.append(f"{argv}: says {err[-200:]!r} and leaves {[path.name for path in new]}")
            for path in new:
                if path.suffix.lower() in (".wav", ".flac"):
                    samples, _ = soundfile.read(path)
                    if len(samples) == 0 or not np.isfinite(samples).all():
                        faults.append(f"{argv}: {path.name} is damaged")
                if path.name.endswith(".unfinished"):
                    faults.append(f"{argv}: {path.name} is left")
                path.unlink(missing_ok=True)


# The Python API


def arrays(rng: random.Random) -> object:
    """Samples, latents or curves of all kinds."""
    x = np.random.default_rng(rng.randrange(9)).uniform(-0.5, 0.5, rng.choice([0, 1, 100, 8000, 16000]))
    return rng.choice([
        x, x[::-1], x.astype(np.float32), (x * 2**15).astype(np.int16), (x + 0j), x[None], x[None, None], x > 0,
        torch.from_numpy(x), torch.from_numpy(x)[None, None].half(), np.full_like(x, np.nan), x * 1e30, x.tolist(),
        torch.randn(1, 8, 32, 16), torch.randn(2, 8, 32, 16), torch.randn(1, 8, 5, 16), torch.zeros(1, 8, 32, 16),
        torch.randn(1, 3, 16), torch.randn(1, 16), [], None, "rain", np.array("x"), {0: -30.0}, [(0, -30), (1, -20)],
    ])  # fmt: skip


LENGTHS = (1.2, 0.4, *NUMBERS[:9])
BANDS = ((100, 1000), (5, 1), (1,), "x", (math.nan, 5), 7)
SPANS = ([(0.1, 0.2)], [(0.2, 0.1)], [(0, 99)], [], None, "x", [(math.nan, 1)], [(5, 6)], [1, 2], [(0, 1, 2)])


def pipeline_call(rng: random.Random, pipe: SoundCTMPipeline) -> Callable:
    generators = [None, torch.Generator().manual_seed(0), [torch.Generator()], [torch.Generator()] * 2, 5, "x"]
    options = draw(rng, {
        "audio_length_in_s": (0.3, *NUMBERS), "num_inference_steps": (1, 2, 3, np.int64(2), *NUMBERS),
        "guidance_scale": (2.0, 5, *NUMBERS), "nu": (1.5, *NUMBERS), "gamma": (0.3, *NUMBERS),
        "negative_prompt": (["a"], [], ["a", "b"], 3, *TEXTS), "num_waveforms_per_prompt": (1, 2, *NUMBERS),
        "sigmas": ([80, 1, 0.01], [1, 2], [], [math.nan, 0], "x", [80], np.array([80.0, 0.002]), [90.0, 0.002]),
        "generator": generators, "strength": (0.5, *NUMBERS), "output_type": ("np", "pt", "latent", "x", None),
        "initial_audio_sampling_rate": (RATE, 44100, 0, -1, "x", None, 1.5, 10**9), "return_dict": (True, False),
        "callback_on_step_end": (None, "x", PromptMorph("dog"), LossGuidance(IntensityObjective({0: -30.0})),
                                 lambda *_: {"x": 1}, lambda *_: None, lambda pipe, i, t, kwargs: kwargs),
        "callback_on_step_end_tensor_inputs": (["latents"], ["x"], [], ["previous_latents", "latents"]),
    }, 0.12)  # fmt: skip
    for name in ("latents", "prompt_embeds", "negative_prompt_embeds", "attention_mask", "initial_audio_waveforms"):
        if rng.random() < 0.08:
            options[name] = arrays(rng)
    if isinstance(options.get("num_inference_steps"), int) and options["num_inference_steps"] > 1e6:
        options["num_inference_steps"] = 2
    prompts = (*TEXTS, ["rain", "dog"], [], None, 5, ["a", 1], ("a", "b"))
    options["prompt"] = rng.choice(prompts) if rng.random() < 0.3 else "rain"
    options.setdefault("audio_length_in_s", 0.3)
    return lambda: pipe(**options), options


def control_call(rng: random.Random, pipe: SoundCTMPipeline, folder: Path) -> tuple[Callable, dict]:
    number, text = (lambda: rng.choice(NUMBERS)), rng.choice(TEXTS)
    samples, rate = arrays(rng), rng.choice([RATE, 44100, 0, -1, "x", None, 2.5])
    spans = rng.choice(SPANS)
    path = folder / rng.choice([name for name in NAMES if "/" not in name])
    curve = rng.choice([arrays(rng), {0.0: -30.0, 0.4: -20.0}, [-30.0, -20.0], lambda t: t, {}, {0: math.nan}, [5.0]])
    calls = {
        "vary": (vary, (arrays(rng), number(), rng.choice([1, 2, 0, "x", 1.5]))),
        "inpaint": (inpaint, (pipe, "rain", samples, rate, spans)),
        "generate_long": (generate_long, (pipe, rng.choice(["rain", [], ["a", "b"], 3]), rng.choice(LENGTHS))),
        "extend_bandwidth": (extend_bandwidth, (pipe, "rain", samples, rate, rng.choice([3000, *NUMBERS]))),
        "IntensityObjective": (lambda *given: guided(pipe, *given), (curve, "mel", rng.choice(LENGTHS))),
        "BandEnergyObjective": (BandEnergyObjective, (curve, rng.choice(BANDS))),
        "LoopObjective": (LoopObjective, (number(),)),
        "LossGuidance": (LossGuidance, (rng.choice([LoopObjective(), "x", None]), number(), number())),
        "PromptMorph": (PromptMorph, (rng.choice([text, ["a"], 5, []]), number(), number())),
        "drift": (drift, (samples, arrays(rng), rate)),
        "noise_hash": (noise_hash, (arrays(rng),)),
        "write_audio": (write_audio, (path, samples, rate, rng.choice([None, {"title": text}, {"comment": 5}, "x"]))),
        "read_audio": (read_audio, (rng.choice([folder / "good.wav", path, folder, "x", ""]), rate)),
        "normalize_loudness": (normalize_loudness, (samples, rate, number())),
        "set_timesteps": (CTMScheduler().set_timesteps, (rng.choice([2, 3, 0, -1, "x", 1.5, None]), None, number())),
        "encode_prompt": (pipe.encode_prompt, (rng.choice([text, [text], 5, None, []]),)),
        "encode_audio": (pipe.encode_audio, (samples, rate, 8000)),
    }  # fmt: skip
    name = rng.choice(sorted(calls))
    function, given = calls[name]
    return lambda: function(*given), {name: given}


def guided(pipe: SoundCTMPipeline, *objective):
    return pipe("rain", audio_length_in_s=0.3, callback_on_step_end=LossGuidance(IntensityObjective(*objective)))


def check_api(call: Callable, given: dict, faults: Faults) -> None:
    shown = str(given)[:400]
    try:
        with no_hang():
            result = call()
    except Exception as error:
        if not is_sentence_of_ours(error):
            faults.append(f"{shown}: {last_line(error)}")
        return
    audios = getattr(result, "audios", None)
    huge = any(isinstance(value, float) and abs(value) > 1e6 for value in given.values())
    if audios is not None and not huge and not torch.as_tensor(audios).isfinite().all():
        faults.append(f"{shown}: the result is not finite")


@pytest.mark.parametrize("family", ["embedded", "dit"])
def test_pipeline_calls(tiny_pipeline, family):
    pipe, rng = tiny_pipeline(family), random.Random(SEED)
    with Faults() as faults:
        for _ in range(175):
            check_api(*pipeline_call(rng, pipe), faults)


def test_control_and_audio_calls(tiny_pipeline, tmp_path):
    pipe, rng = tiny_pipeline("embedded"), random.Random(SEED)
    write_audio(tmp_path / "good.wav", 0.1 * torch.randn(8000), RATE)
    with Faults() as faults:
        for _ in range(400):
            check_api(*control_call(rng, pipe, tmp_path), faults)
        assert not [path.name for path in tmp_path.rglob("*.unfinished")]


# Training scripts

PARSED = {
    "train_ctm": {"dataset_name": "d", "teacher_model": "t"},
    "train_teacher": {"dataset_name": "d", "vae": "v", "text_encoder": "t", "unet_config": "u"},
    "train_autoencoder": {"dataset_name": "d"},
    "train_vocoder": {"dataset_name": "d"},
    "precompute": {"dataset_name": "d", "teacher_model": "t"},
}
VALUES = ("0", "1", "2", "-1", "0.5", "nan", "inf", "-inf", "1e30", "x", "", "no", "bf16", "true", "[1]", "16000", "雨")


@pytest.mark.parametrize("script", PARSED)
def test_arguments_of_scripts(script, tmp_path, monkeypatch, capsys):
    module, rng = load(script), random.Random(SEED)
    options = options_of(module, tmp_path, monkeypatch, PARSED[script])
    capsys.readouterr()
    with Faults() as faults:
        for number in range(60):
            given = dict(PARSED[script], output_dir=tmp_path / "run")
            wrong = {rng.choice(options): rng.choice(VALUES) for _ in range(rng.randint(1, 3))}
            argv = [f"--{name}={value}" for name, value in {**given, **wrong}.items()]
            if rng.random() < 0.3:  # the same in a file
                file = tmp_path / f"{number}.yaml"
                file.write_text("".join(f"{name}: {value}\n" for name, value in wrong.items()), encoding="utf-8-sig")
                argv = [f"--{name}={value}" for name, value in given.items()] + [f"--config={file}"]
            try:
                with no_hang():
                    args = module.parse_args(argv)
                if list(range_problems(args)):
                    faults.append(f"{argv}: accepted {list(range_problems(args))}")
            except SystemExit as ended:
                err = capsys.readouterr().err.strip().splitlines()
                if ended.code != 2 or "error: " not in err[-1]:
                    faults.append(f"{argv}: exit code {ended.code}: {err[-1:]}")
            except Exception as error:
                faults.append(f"{argv}: {last_line(error)}")
        assert not (tmp_path / "run").exists()


def options_of(module, tmp_path, monkeypatch, required) -> list[str]:
    """The options of a script's parser, without those that only print something."""
    parsers = []
    parse = argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(
            argparse.ArgumentParser, "parse_args", lambda self, argv: (parsers.append(self), parse(self, argv))[1]
        )
        module.parse_args([f"--{name}={value}" for name, value in {**required, "output_dir": tmp_path}.items()])
    return [action.dest for action in parsers[0]._actions if action.dest not in ("help", "output_dir")]


@pytest.fixture(scope="module")
def inputs(training_inputs, tmp_path_factory, tiny_pipeline, zoo):
    root = tmp_path_factory.mktemp("inputs")
    make_teacher("audioldm", root / "teacher", tiny_pipeline)
    return {**training_inputs, "teacher_model": str(root / "teacher")}


READ = {
    "train_ctm": ("dataset_name", "teacher_model"),
    "train_teacher": ("dataset_name", "vae", "text_encoder", "unet_config"),
    "train_autoencoder": ("dataset_name",),
    "train_vocoder": ("dataset_name", "autoencoder", "initial_vocoder"),
    "precompute": ("dataset_name", "teacher_model"),
}
SMALL = {
    "train_ctm": {"num_scales": 3, "mixed_precision": "no", "trajectory_reuse": 2},
    "train_autoencoder": {"block_out_channels": 8, "norm_num_groups": 4, "num_frames": 16},
    "train_vocoder": {"hidden_size": 8, "num_layers": 1, "intermediate_size": 16, "num_frames": 16},
}


@pytest.mark.parametrize("script", READ)
def test_inputs_of_scripts(script, inputs, zoo, tmp_path, monkeypatch, capsys):
    """What a script reads is damaged or something else: one line and exit code 2, before the first step."""
    rng = random.Random(f"{SEED} {script}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / f"{script}.py")])
    sources = {**inputs, "autoencoder": inputs["vae"], "initial_vocoder": inputs["vocoder"]}
    with Faults() as faults:
        for number in range(40):
            given = {name: sources[name] for name in READ[script]} | {"num_samples": 5120} | SMALL.get(script, {})
            given |= {"output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache"}
            if script != "precompute":
                given |= {"max_train_steps": 1, "train_batch_size": 2, "checkpointing_steps": 1}
            name = rng.choice(READ[script])
            others = [zoo / "good.wav", zoo / "sounds", zoo / "folder.wav", "no/such/thing", zoo / "model-1"]
            given[name] = rng.choice([damaged(Path(sources[name]), tmp_path / f"damaged-{number}", rng)] * 4 + others)
            code, seen = run_in_process(script, given, capsys)
            if code not in (0, 2) or (code == 2 and "error: " not in seen):
                faults.append(f"{script} {name}={given[name]}: {code} {seen[-400:]}")
            if [path for path in tmp_path.rglob("*.unfinished")]:
                faults.append(f"{script} {name}={given[name]}: leaves a temporary file")
            shutil.rmtree(tmp_path / "run", ignore_errors=True)


def damaged(source: Path, target: Path, rng: random.Random) -> Path:
    if source.is_dir():
        shutil.copytree(source, target)
        damage(target, rng)
        return target
    values = json.loads(source.read_text())
    wrong = [values | {rng.choice(sorted(values)): "x"}, values | {"no_such_argument": 1}]
    target.write_text(rng.choice(["", "[1]", "{", "null", *map(json.dumps, wrong)]))
    return target


def run_in_process(script: str, given: dict, capsys) -> tuple[object, str]:
    module = load(script)
    argv = [f"--{name}={value}" for name, value in given.items()]
    capsys.readouterr()
    try:
        with no_hang():
            run_script(lambda: module.main(argv))
    except SystemExit as ended:
        return ended.code, capsys.readouterr().err
    except BaseException as error:
        return "traceback", last_line(error)
    finally:
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
    return 0, ""
