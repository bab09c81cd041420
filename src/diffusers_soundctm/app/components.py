"""Custom controls of the page: gradio's HTML component with the scripts in `assets/`.

Each script may trigger events of its own; their names are given below.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"


def component(name: str, value: Any, label: str, **kwargs: Any) -> gr.HTML:
    """Return an element of class `sc-{name}` that `assets/{name}.js` fills.

    Args:
        name: Name of the script and of the CSS class.
        value: Initial value, any JSON.
        label: Name of the region for screen readers.
        **kwargs: Passed to `gr.HTML`.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="sc-{name}" role="region" aria-label="{html.escape(label)}"></div>',
        js_on_load=(ASSETS / "common.js").read_text() + (ASSETS / f"{name}.js").read_text(),
        label=label,
        **kwargs,
    )


def shortcuts() -> gr.HTML:
    """Return the list of keyboard shortcuts, shown by its button or the key "?". It also handles the keys."""
    return component("shortcuts", {}, "Keyboard shortcuts")


def grid(label: str, **kwargs: Any) -> gr.HTML:
    """Return a grid of sounds.

    Its value is {cards, total, keys}: the finished cards, how many there will be, and whether keys 1 to 8 play them.
    Its events `pick`, `second` and `keep` carry the tile's `recipe`.
    """
    return component("grid", {"cards": [], "total": 0}, label, **kwargs)


def kinds(known: dict[str, list[str]]) -> gr.HTML:
    """Return the list of the kinds that the model knows, each with prompts. Its event `use` carries a `prompt`."""
    return component("kinds", known, "What the model knows")


def player() -> gr.HTML:
    """Return the player of sounds A and B, which keeps the position when it switches.

    Its value is {a, b, drift, target, before, achieved}: two cards, their drift, and three loudness curves in dB.
    Its events `keep` and `use` carry a `recipe`.
    """
    return component("player", {}, "A/B player")


def drawing() -> gr.HTML:
    """Return a canvas for a loudness curve over the picked sound. Its value is 64 dB values, or an empty list."""
    return component("draw", [], "Loudness curve")


def marking() -> gr.HTML:
    """Return a surface to mark a part of the picked sound. Its value is [start, end] in seconds, or an empty list."""
    return component("mark", [], "Marked part")


def shelf() -> gr.HTML:
    """Return the list of sounds kept in the browser.

    Setting its value to a card with files adds that sound, and setting it to {download: address} downloads a file. Its
    event `pick` carries a `recipe`, and `export` a list `sounds` of {recipe, kept: date and time}.
    """
    return component("shelf", {}, "Kept sounds")


def heading(level: int, title: str, text: str = "") -> gr.HTML:
    """Return a heading, with a line of text below it if there is one."""
    markup = f"<h{level}>{html.escape(title)}</h{level}>" + (f"<p>{html.escape(text)}</p>" if text else "")
    return gr.HTML(markup, elem_classes="sc-title" if level == 1 else "sc-section", js_on_load=None)


def paragraph(text: str) -> gr.HTML:
    """Return a paragraph."""
    return gr.HTML(f"<p>{html.escape(text)}</p>", js_on_load=None)


def message() -> gr.HTML:
    """Return a line beside a control that shows progress and errors. Its values come from `message_html`."""
    return gr.HTML("", js_on_load=None, elem_classes="sc-note")


def message_html(text: str = "", is_error: bool = False, progress: Sequence[int] | None = None) -> str:
    """Return the markup of a message.

    Args:
        text: Any text, escaped here. An empty text removes the message.
        is_error: Whether screen readers announce the message as an alert.
        progress: Finished and total steps of a progress bar.
    """
    if not text:
        return ""
    bar = "" if progress is None else f'<progress value="{progress[0]}" max="{progress[1]}"></progress>'
    role, kind = ("alert", " sc-bad") if is_error else ("status", "")
    return f'<p class="sc-message{kind}" role="{role}">{bar}<span>{html.escape(text)}</span></p>'
