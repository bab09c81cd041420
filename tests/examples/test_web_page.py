"""The page of examples/web in a real browser: what a person does, offline as well, and the sounds of Python.

The page runs a tiny model, or the embedded one if the environment variable WEB_MODEL names the folder that
`soundctm export embedded --dtype fp16` wrote. Screenshots go to `outputs/screenshots`, or to the folder named by the
environment variable SCREENSHOTS.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from static_server import serve

from diffusers_soundctm import SoundCTMPipeline, audio
from diffusers_soundctm.app.sound_files import read_settings
from diffusers_soundctm.control import CircularTime, decode_loop
from tiny_pipelines import make_pipeline

ROOT = Path(__file__).parents[2]
WEB = ROOT / "examples" / "web"
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = ROOT / os.environ.get("SCREENSHOTS", "outputs/screenshots")
MODEL = Path(os.environ.get("WEB_MODEL", ROOT / "tests" / "fixtures" / "tiny-onnx"))
WAIT = 120_000  # milliseconds; enough for a busy machine
PROMPT = "rain on a tin roof"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is missing; apt-get install nodejs npm"),
]


def _npm(folder: Path, *arguments: str) -> None:
    process = subprocess.run(["npm", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def pipe():
    pipe = SoundCTMPipeline.from_embedded() if "WEB_MODEL" in os.environ else make_pipeline("embedded")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def site_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    source = shutil.copytree(WEB, folder / "web", ignore=shutil.ignore_patterns("node_modules", "dist"))
    _npm(source, "ci", "--no-audit", "--no-fund")
    _npm(source, "run", "build")
    _npm(source, "run", "assemble", "--", str(MODEL), str(folder / "site"))
    return folder / "site"


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Visitor:
    """A browser with its own storage. Its pages may not log errors, nor ask another host."""

    def __init__(self, chromium, site, **options):
        self.site, self.complaints = site, []
        self.context = chromium.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(WAIT)

    def open(self, query: str = ""):
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("request", self._check_host)
        page.goto(self.site.url + query)
        return page

    def _check_host(self, request):
        if not request.url.startswith((self.site.url, "blob:", "data:")):
            self.complaints.append(f"asks another host: {request.url}")

    def close(self):
        self.context.close()
        assert self.complaints == []


def draft(page, prompt: str = PROMPT, seconds: float = 0.6) -> None:
    page.evaluate("seconds => document.getElementById('duration').value = seconds", seconds)
    page.fill("#prompt", prompt)
    page.keyboard.press("Enter")


def wait_for_draft(page, number: int = 1) -> None:
    page.locator(f"#drafts button:nth-child({number}):enabled").wait_for()


def pick(page, number: int) -> None:
    page.locator("h1").click()  # out of the text field
    page.keyboard.press(str(number))
    page.locator("#save:enabled").wait_for()


def saved(page, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click("#save")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def rendered(pipe, seed: int, steps: int) -> torch.Tensor:
    """The sound of Python, (samples,), as the app writes it to a file."""
    generator = torch.Generator().manual_seed(seed)
    waveform = pipe(PROMPT, num_inference_steps=steps, generator=generator, output_type="pt").audios[0, 0]
    return audio.fade_edges(audio.leave_headroom(waveform), pipe.sampling_rate)


def _seconds_of(pipe) -> float:
    """Median seconds of PyTorch for a draft, with two threads, after one that does not count."""
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(2)
    for _ in range(4):
        start = time.perf_counter()
        pipe(PROMPT)
        seconds.append(time.perf_counter() - start)
    torch.set_num_threads(threads)
    return float(np.median(seconds[1:]))


def test_first_visit_then_offline_with_the_sounds_of_python(pipe, site_folder, chromium, tmp_path):
    with serve(site_folder) as site:
        visitor = Visitor(chromium, site, viewport={"width": 1280, "height": 900})
        page, start = visitor.open(), time.perf_counter()
        draft(page, seconds=pipe.default_audio_length_in_s)
        wait_for_draft(page)
        first = time.perf_counter() - start
        wait_for_draft(page, 8)
        eighth = page.evaluate("document.body.dataset.seconds")
        print(f"first draft after {first:.1f} s, the eighth in {eighth} s, one of PyTorch in {_seconds_of(pipe):.3f} s")
        assert "2 threads" in page.inner_text("#machine") or os.cpu_count() != 2
        pick(page, 3)
        draft_file = saved(page, tmp_path)
        page.evaluate("navigator.serviceWorker.ready")
        page.close()

    # The server is gone.
    page = visitor.open()
    draft(page, seconds=pipe.default_audio_length_in_s)
    wait_for_draft(page, 3)
    pick(page, 3)
    assert saved(page, tmp_path).read_bytes() == draft_file.read_bytes()
    page.get_by_label("4", exact=True).check()
    page.locator("#save:enabled").wait_for()
    refined_file = saved(page, tmp_path)
    page.get_by_label("Loop without a seam").check()
    page.locator("#save:enabled").wait_for()
    loop_file = saved(page, tmp_path)
    visitor.close()

    for file, steps in ((draft_file, 1), (refined_file, 4)):
        waveform, rate = soundfile.read(file, dtype="float32")
        assert rate == pipe.sampling_rate
        np.testing.assert_allclose(waveform, rendered(pipe, 2, steps), atol=1e-3)
        _, recipe = read_settings(file)
        assert (recipe.prompt, recipe.noise.seed, recipe.steps) == (PROMPT, 2, steps)
    generator = torch.Generator().manual_seed(2)
    circle = pipe(
        PROMPT, num_inference_steps=4, generator=generator, output_type="latent", callback_on_step_end=CircularTime()
    ).audios
    np.testing.assert_allclose(
        soundfile.read(loop_file, dtype="float32")[0], audio.leave_headroom(decode_loop(pipe, circle)[0])[0], atol=1e-3
    )


def test_server_without_isolation_gives_one_thread_and_then_all(site_folder, chromium):
    with serve(site_folder, isolated=False, has_ranges=False) as site:
        visitor = Visitor(chromium, site)
        page = visitor.open()
        draft(page)
        wait_for_draft(page)
        assert "1 thread." in page.inner_text("#machine")
        page.evaluate("navigator.serviceWorker.ready")
        page.reload()
        draft(page)
        wait_for_draft(page)
        assert page.evaluate("crossOriginIsolated")
        visitor.close()


def test_closed_page_goes_on_where_the_download_stopped(site_folder, chromium):
    with serve(site_folder) as site:
        visitor = Visitor(chromium, site)
        site.cut_after = 2**20 + 1000  # one part, and a little
        page = visitor.open()
        page.get_by_role("alert").filter(has_text="What has arrived is kept").wait_for()
        page.close()
        visitor.complaints.clear()  # the browser reports the lost connection
        site.cut_after, before = None, len(site.requests)
        page = visitor.open()
        draft(page)
        wait_for_draft(page)
        (wanted,) = [ranges for path, ranges in site.requests[before:] if path.endswith("threaded.wasm.packed")]
        assert wanted == f"bytes={3 * 2**20}-"  # three attempts brought a part each
        visitor.close()


# What a browser lacks, as code that runs before the worker's, and what the page says then.
LACKS = {
    "room": (
        "Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError'));",
        "no room for the model",
    ),
    "storage": ("Object.defineProperty(self, 'caches', {value: undefined});", "no room for the model"),
    "graphics": (
        "Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: async () => ({info: {}, features: []})}});",
        "thread",
    ),
}


@pytest.mark.parametrize("lack", LACKS)
def test_browser_that_lacks_something(lack, site_folder, chromium, tmp_path):
    script, sentence = LACKS[lack]
    folder = shutil.copytree(site_folder, tmp_path / "site")
    worker = folder / "worker.js"
    worker.write_text(script + worker.read_text())
    with serve(folder) as site:
        visitor = Visitor(chromium, site)
        page = visitor.open()
        draft(page)
        wait_for_draft(page)
        assert sentence in page.inner_text("#machine")
        asked = [path for path, _ in site.requests]
        assert ("/runtime/ort-wasm-simd-threaded.asyncify.wasm.packed" in asked) == (lack == "graphics")
        visitor.close()


def test_bad_input_is_refused_in_a_sentence(site_folder, chromium, tmp_path):
    folder = shutil.copytree(site_folder, tmp_path / "site")
    files = json.loads((folder / "files.json").read_text())
    content = b'{"format": 99}'
    (folder / "model" / "soundctm.json").write_bytes(content)
    files["model"]["soundctm.json"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "files.json").write_text(json.dumps(files))
    with serve(folder) as site:
        visitor = Visitor(chromium, site)
        page = visitor.open()
        alert = page.get_by_role("alert")
        alert.filter(has_text="format 99").wait_for()
        for prompt, sentence in (("", "Describe a sound first"), ("a" * 301, "shorten it to 300")):
            draft(page, prompt)
            alert.filter(has_text=sentence).wait_for()
        visitor.close()


def test_layout_is_accessible_light_and_dark_wide_and_narrow(site_folder, chromium):
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
    contrast = (ROOT / "tests" / "app" / "contrast.js").read_text()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with serve(site_folder) as site:
        visitor = Visitor(chromium, site)
        page = visitor.open()
        draft(page, seconds=5.12)
        wait_for_draft(page, 8)
        pick(page, 3)
        page.locator("summary").click()
        for width, scheme in itertools.product((1280, 390), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 844})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
            assert page.evaluate(contrast) == []
            assert [one["id"] for one in Axe().run(page).response["violations"]] == []
            page.screenshot(path=SCREENSHOTS / f"web-{width}-{scheme}.png", full_page=True)
        visitor.close()


def test_keyboard_alone_from_prompt_to_file(site_folder, chromium, tmp_path):
    with serve(site_folder) as site:
        visitor = Visitor(chromium, site)
        page = visitor.open()
        draft(page)
        wait_for_draft(page, 2)
        keys = page.keyboard
        keys.press("Tab")  # from the text field to the button, out of typing
        keys.press("2")
        page.locator("#save:enabled").wait_for()
        assert page.locator("#drafts [aria-pressed=true]").inner_text() == "2"
        page.locator("#play").focus()
        keys.press("Tab")
        keys.press("ArrowRight")  # from 1 step to 2
        page.locator("#about", has_text="2 steps").wait_for()
        page.locator("#save:enabled").wait_for()
        page.locator("#save").focus()
        with page.expect_download() as download:
            keys.press("Enter")
        assert download.value.suggested_filename == "rain-on-a-tin-roof-1-2.wav"
        visitor.close()
