"""Build the app around a model and start its server."""

import threading
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from . import api, components
from .disk import DiskBudget
from .handlers import Handlers
from .page import Page
from .server_limits import ServerLimits
from .studio import Studio
from .uploads import MAX_UPLOAD_BYTES

CACHE_SECONDS = (3600, 86400)  # how often files of API clients are checked, and the age at which they are deleted


class SoundCTMApp(gr.Blocks):
    """The app, not yet started. `disk` bounds the files of its clients."""

    def __init__(self, disk: DiskBudget):
        super().__init__(title="SoundCTM", analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS)
        self.disk = disk


def build_app(
    pipe: SoundCTMPipeline, model: str = "embedded", on_gpu: Any = None, lora: Sequence[str] = ()
) -> SoundCTMApp:
    """Build the app around a pipeline. Start it with `launch`.

    Args:
        pipe: Any `SoundCTMPipeline`.
        model: The model's name in files and code: "embedded", a folder or a Hub id.
        on_gpu: Decorator for the function that runs the model, such as `spaces.GPU` on ZeroGPU.
        lora: Adapters to choose from, which `lora.load_adapters` has loaded into the pipeline.

    Returns:
        The app, not yet started.
    """
    disk = DiskBudget()
    handlers = Handlers(Studio(pipe, model, on_gpu, lora), disk)
    with SoundCTMApp(disk) as app:
        # The endpoints come first; otherwise gradio appends numbers to those of their names that the page uses too.
        api.add_endpoints(handlers.studio, disk)
        page = Page(handlers)
        page.build()
        page.restore_drafts(app)
        app.unload(handlers.cancel)  # when a browser tab is closed
    if on_gpu is None:
        threading.Thread(target=handlers.warm_up, daemon=True).start()
    return app


def launch(app: SoundCTMApp, **kwargs: Any) -> Any:
    """Start the server of an app from `build_app`, with its look and its limits.

    Args:
        app: The app.
        **kwargs: Passed to `gr.Blocks.launch`.

    Returns:
        What `gr.Blocks.launch` returns.

    Raises:
        OSError: The port is taken.
        RuntimeError: `mcp_server=True` was passed, and the installed package mcp does not fit gradio.
    """
    # The studio's queue has the limits that matter. Gradio's holds requests only while all threads are occupied.
    app.queue(max_size=64, default_concurrency_limit=16)
    try:
        served = _serve(app, **kwargs)
    except OSError as error:
        if "empty port" not in str(error):
            raise
        port = kwargs.get("server_port")
        where = "The ports from 7860 to 7959 are" if port is None else f"The port {port} is"
        raise OSError(f"{where} taken; stop the program that uses it, or choose another with --port.") from error
    if kwargs.get("mcp_server") and not app.mcp_server:
        app.close()
        raise RuntimeError(f'{app.mcp_error}; install a package that fits gradio: pip install "mcp>=1.21,<2"')
    return served


def _serve(app: SoundCTMApp, **kwargs: Any) -> Any:
    theme = gr.themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return app.launch(
        theme=theme.set(
            # The theme's own colors have too little contrast with their backgrounds.
            body_text_color_subdued="*neutral_500",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
        ),
        css_paths=components.ASSETS / "app.css",
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=128,  # more than can wait for a sound, so that some are always free for everything else
        app_kwargs={"middleware": [Middleware(ServerLimits, disk=app.disk)]},
        footer_links=["api"],
        ssr_mode=False,
        **kwargs,
    )
