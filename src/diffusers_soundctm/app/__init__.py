"""The app behind `soundctm demo`: draft, pick, refine, draw and keep sounds.

Only `api`, `components`, `handlers`, `launching` and `page` require gradio.
"""

from ..lazy import lazy_exports

_PUBLIC = {
    "Cancelled": ".rendering",
    "Recipe": ".recipe",
    "Studio": ".studio",
    "Take": ".studio",
    "build_app": ".launching",
    "launch": ".launching",
    "python_code": ".code_export",
    "render": ".rendering",
}

__all__ = sorted(_PUBLIC)
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
