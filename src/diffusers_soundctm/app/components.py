"""The page's own components: gradio's HTML with the scripts of `assets`, each with the events its script triggers."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def component(name: str, value: Any, label: str, **kwargs: Any) -> gr.HTML:
    """An element of class `sc-{name}` that `assets/{name}.js` fills; its value is JSON."""
    return gr.HTML(
        value,
        html_template=f'<div class="sc-{name}" role="region" aria-label="{html.escape(label)}"></div>',
        js_on_load=(ASSETS / "common.js").read_text() + (ASSETS / f"{name}.js").read_text(),
        label=label,
        **kwargs,
    )


def grid(label: str, **kwargs: Any) -> gr.HTML:
    """Tiles of sounds; value {cards, total, keys}; events `pick`, `second` and `keep` with the tile's `recipe`."""
    return component("grid", {"cards": [], "total": 0}, label, **kwargs)


def player() -> gr.HTML:
    """A and B at the same position; value {a, b, drift, target, before, achieved}; events `keep` and `use`."""
    return component("player", {}, "A/B player")


def drawing() -> gr.HTML:
    """A loudness curve over the picked sound; value: 64 decibels, or an empty list."""
    return component("draw", [], "Loudness curve")


def marking() -> gr.HTML:
    """A marked part of the picked sound; value: start and end in seconds, or an empty list."""
    return component("mark", [], "Marked part")


def shelf() -> gr.HTML:
    """Sounds kept in the browser; a card with files as value is added; event `pick` with its `recipe`."""
    return component("shelf", {}, "Kept sounds")


def message() -> gr.HTML:
    """A line next to a control, for progress and for what went wrong."""
    return gr.HTML("", js_on_load=None, elem_classes="sc-note")


def said(text: str = "", is_bad: bool = False, progress: Sequence[int] | None = None) -> str:
    """The line's markup; `text` may be anybody's."""
    if not text:
        return ""
    bar = "" if progress is None else f'<progress value="{progress[0]}" max="{progress[1]}"></progress>'
    role, kind = ("alert", " sc-bad") if is_bad else ("status", "")
    return f'<p class="sc-message{kind}" role="{role}">{bar}<span>{html.escape(text)}</span></p>'
