"""The app, served from this process with a tiny model or the embedded one, and studios of tiny models."""

import importlib.util
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
import torch

from app_page import CHROMIUM, WAIT
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app.rendering import Observer
from diffusers_soundctm.app.studio import Studio
from diffusers_soundctm.lora import add_lora, block_layers, load_adapters, save_lora
from tiny_teachers import make_teacher


@contextmanager
def serving(pipe, model, folder, lora=(), **options):
    """Serve the app, with adapters to choose from and options of `launch`; yield its address and its disk budget."""
    pytest.importorskip("gradio")
    from diffusers_soundctm.app import build_app, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        pipe.set_progress_bar_config(disable=True)
        load_adapters(pipe, lora)
        app = build_app(pipe, model, lora=lora)
        _, address, _ = launch(app, prevent_thread_lock=True, quiet=True, **options)
        yield address, app.disk
        app.close()


@pytest.fixture(scope="session")
def upload_folder(tmp_path_factory):
    """The folder with the files of the tiny model's app."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="session")
def served_with_disk(embedded_folder, upload_folder):
    """The app and its MCP server with a tiny model: its address and its disk budget."""
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    has_mcp = importlib.util.find_spec("mcp") is not None
    with serving(pipe, str(embedded_folder), upload_folder, mcp_server=has_mcp) as server:
        yield server


@pytest.fixture(scope="session")
def served(served_with_disk):
    """The address of the app with a tiny model."""
    return served_with_disk[0]


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """Folder of an adapter of the embedded model, with small random weights."""
    pytest.importorskip("peft")
    student = SoundCTMPipeline.from_embedded().denoiser
    for parameter in add_lora(student, 1, targets=block_layers(student), new_parameters=False):
        torch.nn.init.normal_(parameter, std=0.05)
    folder = tmp_path_factory.mktemp("adapters") / "creature"
    save_lora(student, folder, new_parameters=False)
    return folder


@pytest.fixture(scope="session")
def served_embedded(tmp_path_factory, adapter):
    """The app with the embedded model and an adapter to choose."""
    folder = tmp_path_factory.mktemp("gradio")
    with serving(SoundCTMPipeline.from_embedded(), "embedded", folder, [f"{adapter}:0.5"]) as (address, _):
        yield address


@pytest.fixture(scope="module")
def studio(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, str(embedded_folder))


@pytest.fixture(scope="module")
def stereo_studio(tiny_pipeline, tmp_path_factory):
    """A studio whose model makes stereo waveforms of one length, and cuts them."""
    return studio_of("stable_audio", tiny_pipeline, tmp_path_factory.mktemp("stereo"))


@pytest.fixture(scope="module")
def flow_studio(tiny_pipeline, tmp_path_factory):
    """A studio whose model was a flow teacher, and makes stereo waveforms of any length."""
    return studio_of("stable_audio_3", tiny_pipeline, tmp_path_factory.mktemp("flow"))


def studio_of(family, tiny_pipeline, folder):
    """A studio of the student of a tiny teacher at 44.1 kHz."""
    make_teacher(family, folder / "teacher", tiny_pipeline)
    pipe = SoundCTMPipeline.from_teacher(folder / "teacher")
    pipe.denoiser.register_to_config(sample_size=2100)  # 1.52 s
    pipe.save_pretrained(folder / "model")
    # Loaded from a file, as in the app: on some CPUs, mapped weights give other last bits than the same ones in memory.
    pipe = SoundCTMPipeline.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe, str(folder / "model"))


@pytest.fixture
def sound_file(tmp_path):
    path = tmp_path / "upload.wav"
    samples = 0.3 * np.random.default_rng(0).standard_normal((44100, 2)).clip(-1, 1)
    soundfile.write(path, samples, 44100, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def alone():
    """A studio without the app, with its own pipeline."""
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    return Studio(pipe)


@pytest.fixture
def open_page(browser, served_embedded):
    """Return `open_page(width=1280, dark=False)`, which opens a new visitor's page. No page may log an error."""
    complaints, contexts = [], []

    def open_one(width=1280, dark=False):
        is_phone = width < 500
        context = browser.new_context(
            viewport={"width": width, "height": 844},
            is_mobile=is_phone,
            has_touch=is_phone,
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(served_embedded)
        page.locator(".sc-shelf .sc-empty").wait_for()  # the last part that the page draws
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def steps(monkeypatch):
    """(finished steps, all steps) after each sampling step of the app during the test."""
    seen, step = [], Observer.callback_fn

    def observed(self, pipeline, index, *arguments):
        seen.append((index + 1, pipeline.num_timesteps))
        return step(self, pipeline, index, *arguments)

    monkeypatch.setattr(Observer, "callback_fn", observed)
    return seen
