"""The app, served from this process around a tiny model or around the embedded one."""

from contextlib import contextmanager

import pytest

from diffusers_soundctm import SoundCTMPipeline


@contextmanager
def serving(pipe, model, folder):
    """Address of the running app."""
    pytest.importorskip("gradio")
    from diffusers_soundctm.app import build_app, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        pipe.set_progress_bar_config(disable=True)
        app = build_app(pipe, model)
        _, address, _ = launch(app, prevent_thread_lock=True, quiet=True)
        yield address
        app.close()


@pytest.fixture(scope="session")
def served(embedded_folder, tmp_path_factory):
    """The app around a tiny model."""
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
    with serving(pipe, str(embedded_folder), tmp_path_factory.mktemp("gradio")) as address:
        yield address


@pytest.fixture(scope="session")
def served_embedded(tmp_path_factory):
    """The app around the embedded model."""
    with serving(SoundCTMPipeline.from_embedded(), "embedded", tmp_path_factory.mktemp("gradio")) as address:
        yield address
