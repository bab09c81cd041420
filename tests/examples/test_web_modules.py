"""The modules of examples/web compute what the library computes: noise, tokens, jumps, loops and files."""

import base64
import json
import math
import shutil
import subprocess
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoTokenizer

from diffusers_soundctm import CTMScheduler, audio, hub
from diffusers_soundctm.app.recipe import Noise, Recipe
from diffusers_soundctm.app.sound_files import read_settings
from diffusers_soundctm.cli.made import read_made
from diffusers_soundctm.control import seams

COUNTS = [1, 3, 15, 16, 17, 40, 2, 16384]
SEEDS = [0, 7, 2**32 + 5, 2**53 - 1]
PROMPTS = [
    "rain on a tin roof",
    "",
    "  a   dog\tbarks,\nthen—stops!  ",
    "Café Überraschung naïve ÅNGSTRÖM İstanbul ΌΔΥΣΣΕΎΣ",
    "👩‍🚀 a rocket 🚀 starts!! 3.5% at $10",
    "雨の音 中文 한국어 дождь",
    "[MASK] and [CLS]x[SEP]",
    "a" * 101,
    "e\u0301\u200d\ufffd\0\x0b\x85z",
    "rain " * 600,
]
SHAPE = [2, 12, 3]
SAMPLING_RATE = 16000


def _node() -> str | None:
    """A Node.js that runs TypeScript: the system's from version 22.18 on, or the one that Playwright brings."""
    candidates = [shutil.which("node")]
    if spec := find_spec("playwright"):
        candidates.append(str(Path(spec.origin).parent / "driver" / "node"))
    for node in filter(None, candidates):
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        if version and tuple(map(int, version.strip("v\n").split(".")[:2])) >= (22, 18):
            return node
    return None


def _characters() -> list[str]:
    """Words with each character that kept its category since Unicode 3.2, which all tokenizers know."""
    old = unicodedata.ucd_3_2_0
    known = [c for c in map(chr, range(0x20000)) if old.category(c) == unicodedata.category(c) not in ("Cn", "Cs")]
    return [f"a{c}b ##{c}" for c in known[::7] + known[:1200]]


@pytest.fixture(scope="module")
def given():
    draw = torch.Generator().manual_seed(0)
    levels = {"sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    noise = torch.randn(SHAPE, generator=draw).flatten().tolist()
    runs = [(1, False), (4, False), (1, True), (5, True)]
    return {
        "noise": [{"seed": seed, "counts": COUNTS} for seed in SEEDS],
        "tokenizer": str(hub.embedded_folder() / "tokenizer" / "tokenizer.json"),
        "prompts": PROMPTS + _characters(),
        "maxTokens": 512,
        "sampler": [
            {"noise": noise, "shape": SHAPE, "steps": steps, "levels": levels, "isLoop": is_loop}
            for steps, is_loop in runs
        ],
        "loop": {
            "latents": noise,
            "shape": SHAPE,
            "margin": 4,
            "waveform": torch.randn(5000, generator=draw).tolist(),
            "start": 900,
            "end": 3900,
            "samplingRate": SAMPLING_RATE,
        },
        "sound": {
            "waveform": (1.7 * torch.randn(4001, generator=draw)).tolist(),
            "recipe": {"prompt": "Regen, „naß“ 🌧", "noise": {"seed": 5}, "duration": 0.5, "steps": 4, "omega": 3.0},
            "gain": -6,
            "samplingRate": SAMPLING_RATE,
            "model": "embedded",
        },
    }


@pytest.fixture(scope="module")
def computed(given):
    node = _node()
    if node is None:
        pytest.skip("There is no Node.js from 22.18 on; `pip install playwright` brings one.")
    script = Path(__file__).with_name("web_modules.mjs")
    process = subprocess.run([node, script], input=json.dumps(given), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_noise_is_that_of_torch(computed):
    for seed, drawn in zip(SEEDS, computed["noise"], strict=True):
        generator = torch.Generator().manual_seed(seed)
        for count, values in zip(COUNTS, drawn, strict=True):
            expected = torch.randn(count, generator=generator)
            np.testing.assert_allclose(values, expected, atol=2e-6, err_msg=f"seed {seed}, {count} numbers")


def test_tokens_are_those_of_transformers(given, computed):
    tokenizer = AutoTokenizer.from_pretrained(hub.embedded_folder() / "tokenizer")
    expected = tokenizer(given["prompts"], padding=False, truncation=True, max_length=512).input_ids
    wrong = {
        prompt: tokens["ids"]
        for prompt, tokens, ids in zip(given["prompts"], computed["tokens"], expected, strict=True)
        if tokens["ids"] != ids
    }
    assert wrong == {}
    assert [tokens["isCut"] for tokens in computed["tokens"][: len(PROMPTS)]] == [False] * 9 + [True]


def test_jumps_are_those_of_the_scheduler(given, computed):
    for run, latents in zip(given["sampler"], computed["latents"], strict=True):
        scheduler = CTMScheduler()
        schedule = scheduler.make_schedule(run["steps"])
        z = torch.tensor(run["noise"]).reshape(1, *SHAPE) * schedule.sigmas[0]
        ripple = torch.arange(z.numel()).sin().reshape(z.shape)
        cuts = [round(SHAPE[1] * (step * seams.GOLDEN_SECTION % 1)) for step in (*range(run["steps"]), 0)]
        for i, (sigma, target) in enumerate(zip(schedule.sigmas, schedule.target_sigmas, strict=False)):
            g = 0.3 * z + 0.01 * sigma - target + ripple
            z = target / sigma * z + (1 - target / sigma) * g
            z = z.roll(cuts[i] - cuts[i + 1], dims=2) if run["isLoop"] else z
        np.testing.assert_allclose(latents, z.flatten(), rtol=1e-5, atol=1e-5)


def test_loops_close_as_in_python(given, computed):
    loop = given["loop"]
    z = torch.tensor(loop["latents"]).reshape(SHAPE)
    around = torch.cat([z[:, -4:], z, z[:, :4]], dim=1)
    np.testing.assert_array_equal(computed["around"], around.flatten())
    waveform, fade = torch.tensor(loop["waveform"]), round(seams.FADE_IN_S * SAMPLING_RATE)
    start, end = loop["start"], loop["end"]
    seam = seams.crossfade(waveform[end : end + fade], waveform[start : start + fade])
    np.testing.assert_allclose(computed["loop"], torch.cat([seam, waveform[start + fade : end]]), atol=1e-5)


def test_files_hold_the_sound_and_its_recipe(given, computed, tmp_path):
    file, sound = tmp_path / "sound.wav", given["sound"]
    file.write_bytes(base64.b64decode(computed["wav"]))
    waveform = audio.limit_peak(torch.tensor(sound["waveform"]) * 10 ** (sound["gain"] / 20), 10 ** (-1 / 20))
    read, rate = soundfile.read(file)
    assert rate == SAMPLING_RATE
    np.testing.assert_allclose(read, audio.fade_edges(waveform, rate), atol=1e-4)
    assert audio.read_tags(file)["title"] == sound["recipe"]["prompt"]
    model, recipe = read_settings(file)
    assert (model, recipe) == ("embedded", Recipe("Regen, „naß“ 🌧", Noise(5), 0.5, steps=4, omega=3.0))
    assert read_made(file).recipe == recipe  # which `soundctm refine` reads
    peak_db = 20 * math.log10(np.abs(sound["waveform"]).max())
    assert json.loads(audio.read_tags(file)["comment"])["gain_db"] == pytest.approx(min(-6, -1 - peak_db))
