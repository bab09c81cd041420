"""The app behind `soundctm demo`: draft, pick, refine, draw and keep sounds.

Only `api`, `components`, `handlers`, `launching`, `page` and `server_limits` require gradio.
"""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:  # the same names, for type checkers
    from .code_export import python_code as python_code
    from .launching import build_app as build_app
    from .launching import launch as launch
    from .recipe import Recipe as Recipe
    from .rendering import Cancelled as Cancelled
    from .rendering import render as render
    from .studio import Studio as Studio
    from .studio import Take as Take
else:
    __all__ = sorted(_PUBLIC)
    __getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
