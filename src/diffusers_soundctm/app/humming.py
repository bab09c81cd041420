"""The part of the page that takes a sketch from a voice and drafts sounds that follow it."""

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np
from transformers.audio_utils import hertz_to_mel

from ..control import sketch_curves
from . import edits
from .cards import data_uri
from .components import message, message_html
from .curves import LOWEST_DRAWN_DB
from .edits import NUM_DRAFTS
from .handlers import Handlers, call_settings, with_messages
from .recipe import Recipe
from .sketches import CURVES, Sketch
from .spectrograms import spectrogram_png
from .visitors import owner_of

STEPS = [1, 2, 4, 8]
# Colors that are told apart on a spectrogram, and dashes that tell them apart without color.
LINES = {"loudness": ("#ffffff", ""), "brightness": ("#4ade80", "6 3"), "pitch": ("#38bdf8", "2 2")}


class HumIt:
    """Adds the panel inside an open `gr.Blocks`; `connect` then joins it to the grid of drafts.

    Args:
        handlers: Of the page.
    """

    def __init__(self, handlers: Handlers):
        self.handlers = handlers
        with gr.Accordion("Hum it", open=False):
            gr.Markdown("Hum, growl or hiss the sound, describe it above, and get drafts that follow your voice.")
            with gr.Row():
                with gr.Column(scale=4, min_width=300):
                    self.voice = gr.Audio(
                        sources=["microphone", "upload"],
                        type="filepath",
                        label="Your voice, 0.5 to 30 s",
                        elem_id="voice",
                    )
                with gr.Column(scale=5, min_width=300):
                    self.picture = gr.HTML("", js_on_load=None, elem_id="sketch")
                    self.wanted = gr.CheckboxGroup(
                        [name.capitalize() for name in CURVES],
                        value=[name.capitalize() for name in CURVES],
                        label="Follow",
                        elem_id="follow",
                    )
                    with gr.Row():
                        self.strength = gr.Slider(0.05, 1, Recipe.strength, step=0.05, label="Strength")
                        self.steps = gr.Radio(STEPS, value=4, label="Steps")
            self.button = gr.Button(
                f"{NUM_DRAFTS} drafts that follow your voice", variant="primary", elem_id="hum", interactive=False
            )
            self.message = message()
        self.taken = gr.State()  # curves, spectrogram and length of the voice

    def connect(
        self, on: Callable, prompt: gr.Textbox, settings: list, drafts: gr.HTML, saved: gr.BrowserState
    ) -> None:
        """Connect the controls.

        Args:
            on: `Page._on`.
            prompt: The prompt.
            settings: The controls under Advanced.
            drafts: The grid that shows the drafts.
            saved: Keeps the recipes of the drafts.
        """
        outputs = [self.message, self.taken, self.picture, self.button]
        on([self.voice.change], self.take, [self.voice, self.wanted], outputs)
        on([self.wanted.change], self.show, [self.taken, self.wanted], [self.picture])
        inputs = [prompt, self.taken, self.wanted, self.strength, self.steps, *settings]
        on([self.button.click], self.draft, inputs, [self.message, drafts, saved], trigger_mode="multiple")

    @staticmethod
    def show(taken: dict[str, Any] | None, wanted: Sequence[str]) -> str:
        """Return the picture of the sketch."""
        return "" if not taken else sketch_picture(taken, chosen(wanted))

    @with_messages(num_others=3)
    def take(self, path: str | None, wanted: Sequence[str], request: gr.Request) -> Iterator[Any]:
        """Take the curves of a recording."""
        if path is None:
            yield message_html(), None, "", gr.update(interactive=False)
            return
        studio = self.handlers.studio
        waveform = studio.upload(self.handlers._read(path, request))
        rate = studio.pipe.sampling_rate
        curves = {name: curve.tolist() for name, curve in sketch_curves(waveform, rate).items()}
        image = data_uri(spectrogram_png(waveform, rate), "image/png")
        taken = {"curves": curves, "image": image, "seconds": waveform.shape[-1] / rate, "rate": rate}
        yield message_html(), taken, sketch_picture(taken, chosen(wanted)), gr.update(interactive=True)

    @with_messages(num_others=2)
    def draft(
        self, prompt, taken, wanted, strength, steps, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        """Make drafts that follow the curves."""
        if not taken:
            raise ValueError("There is no recording; record or upload your voice.")
        sketch = Sketch.of_curves(taken["curves"], chosen(wanted))
        settings, seed = call_settings(negative_prompt, omega, nu, gamma), edits.random_seed()
        seconds = round(taken["seconds"], 2)
        recipes = [
            edits.sketched(prompt, seconds, sketch, strength, steps, seed + number, **settings)
            for number in range(NUM_DRAFTS)
        ]
        saved = [recipe.to_json() for recipe in recipes]
        for update in self.handlers._grid(recipes, owner_of(request), "Draft", keys=True):
            yield (*update, saved)


def chosen(wanted: Sequence[str]) -> list[str]:
    """Return the names of the curves from the labels of their check boxes."""
    return [name for name in CURVES if name.capitalize() in (wanted or [])]


def sketch_picture(taken: dict[str, Any], wanted: Sequence[str]) -> str:
    """Return the markup of a voice's spectrogram with the `wanted` curves over it.

    Brightness and pitch are drawn at their frequencies, the loudness between −60 dB at the bottom and 0 dB at the top.
    """
    top = hertz_to_mel(taken["rate"] / 2, mel_scale="slaney")
    curves = {name: np.asarray(curve) for name, curve in taken["curves"].items()}
    heights = {"loudness": 1 - curves["loudness"] / LOWEST_DRAWN_DB}
    for name in ("brightness", "pitch"):
        heights[name] = hertz_to_mel(curves[name], mel_scale="slaney") / top
    lines, keys = [], []
    for name in wanted:
        color, dashes = LINES[name]
        at = np.linspace(0, 100, len(heights[name]))
        is_heard = curves["confidence"] >= 0.5 if name == "pitch" else np.ones(len(at), bool)
        for part in np.split(np.arange(len(at)), np.flatnonzero(np.diff(is_heard)) + 1):
            if is_heard[part[0]]:
                points = " ".join(f"{at[i]:.1f},{100 * (1 - heights[name][i].clip(0, 1)):.1f}" for i in part)
                lines.append(
                    f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2" '
                    f'stroke-dasharray="{dashes}" vector-effect="non-scaling-stroke" data-curve="{name}"/>'
                )
        keys.append(f'<span style="border-bottom: 2px {"dashed" if dashes else "solid"}">{name}</span>')
    label = html.escape(f"Spectrogram of your voice with its {', '.join(wanted) or 'curves switched off'}")
    return (
        f'<div class="sc-plot" role="img" aria-label="{label}" style="height: 160px">'
        f'<img src="{html.escape(taken["image"])}" alt="">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'style="position: absolute; inset: 0; width: 100%; height: 100%">{"".join(lines)}</svg></div>'
        f'<p style="display: flex; gap: 1rem; font-size: 0.8rem; margin: 0.3rem 0 0">{"".join(keys)}</p>'
    )
