"""The Space: draft, pick, refine, draw, keep. All but `app`, `api` and `components` work without gradio."""

import importlib
from typing import Any

# Public name -> the module that defines it, loaded on first use.
_PUBLIC = {
    "Cancelled": ".rendering",
    "Recipe": ".recipe",
    "Studio": ".studio",
    "Take": ".studio",
    "build_app": ".app",
    "launch": ".app",
    "python_code": ".reproduction",
    "render": ".rendering",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
