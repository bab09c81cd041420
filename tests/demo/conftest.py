"""The app, served from this process around a tiny model."""

import pytest


@pytest.fixture(scope="session")
def served(embedded_folder, tmp_path_factory):
    """Address of the running app."""
    pytest.importorskip("gradio")
    from diffusers_soundctm import SoundCTMPipeline
    from diffusers_soundctm.demo import build_app, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        pipe = SoundCTMPipeline.from_pretrained(embedded_folder)
        pipe.set_progress_bar_config(disable=True)
        app = build_app(pipe, str(embedded_folder))
        _, address, _ = launch(app, prevent_thread_lock=True, quiet=True)
        yield address
        app.close()
