"""The Space: draft, pick, refine, draw, keep. All but `app`, `api` and `components` work without gradio."""

from ..lazy import lazy_exports

_PUBLIC = {
    "Cancelled": ".rendering",
    "Recipe": ".recipe",
    "Studio": ".studio",
    "Take": ".studio",
    "build_app": ".page",
    "launch": ".page",
    "python_code": ".code_export",
    "render": ".rendering",
}

__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
