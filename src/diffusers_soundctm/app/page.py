"""The layout of the page, and which handler each control calls."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..lora import parse_lora
from . import components
from .defaults import FINAL_STEPS, STEERED_STEPS
from .edits import NUM_DRAFTS, NUM_VARIATIONS
from .examples import EXAMPLES
from .export import FIELDS, ExportSettings
from .handlers import Handlers
from .recipe import DURATION, Recipe
from .uploads import MAX_UPLOAD_BYTES

STEPS = [2, 4, 8, 16]
REFINE_INFO = f"Make the same sound in more steps. {FINAL_STEPS} are a good final; more gain little."
LEVEL_INFO = "Loudness: as set beside, as far as peaks allow. Peak: all peaks at −1 dB."
FILE_LIMITS = f"{DURATION[0]:g}–{DURATION[1]:g} s, up to {MAX_UPLOAD_BYTES // 2**20} MB"
# JavaScript: removes error messages, and leaves progress and other messages.
WITHOUT_ERRORS = """(...messages) => messages.map((message) => message?.includes('role="alert"') ? "" : message)"""


# Events after which the value of a control may have changed.
EVENTS = {gr.State: ["change"], gr.Textbox: ["change"], gr.HTML: ["change", "input"]}


def has_recipe(current: dict[str, Any] | None) -> bool:
    """Whether the picked sound is one of the app, not an upload."""
    return current is not None and "recipe" in current


def is_from_noise(current: dict[str, Any] | None) -> bool:
    """Whether the picked sound is made from noise alone, so that it can be drawn, morphed and looped."""
    return "source" not in (current or {}).get("recipe", {"source": None})


def name_of(lora: str) -> str:
    """Name of an adapter in the drop-down: "runs/my-creature:0.8" is "my-creature (0.8)"."""
    source, weight = parse_lora(lora)
    return Path(source).name + ("" if weight == 1 else f" ({weight:g})")


class Page:
    """Builds the page inside an open `gr.Blocks`.

    Each method adds one part of the page and connects its controls, except for those that need a later part.
    """

    def __init__(self, handlers: Handlers):
        self.handlers = handlers
        studio = handlers.studio
        self.longest = min(DURATION[1], studio.pipe.max_audio_length_in_s)
        self.saved = gr.BrowserState([], storage_key="soundctm-drafts", secret="soundctm")  # recipes of the drafts
        self.current, self.second = gr.State(), gr.State()  # the picked sound, and the one that a morph ends with
        self.tool_messages: list[gr.HTML] = []

    def build(self) -> None:
        """Add all parts of the page."""
        with gr.Row():
            with gr.Column(scale=8, min_width=200):
                intro = f"Describe a sound and press Enter. Play drafts with 1 to {NUM_DRAFTS}, pick one, refine it."
                components.heading(1, "SoundCTM", intro)
            with gr.Column(scale=1, min_width=120):
                components.shortcuts()
        self._prompt()
        self._drafts()
        components.heading(2, "Work on one sound")
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                self.player = components.player()
                self.player_message = components.message()
            with gr.Column(scale=5, min_width=320), gr.Tabs():
                self._refine_tab()
                self._vary_tab()
                self._morph_tab()
                self._draw_tab()
                self._fill_tab()
                self._loop_tab()
        components.heading(2, "Kept")
        self.shelf, self.shelf_message = components.shelf(), components.message()
        self._export()
        self._connect_picks()

    def _on(self, triggers: Sequence[Callable], handler: Callable, inputs: Any, outputs: Any, **kwargs: Any) -> list:
        # Not `gr.on`, which does not accept the events of custom components.
        options = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        return [trigger(handler, inputs, outputs, **options, **kwargs) for trigger in triggers]

    def _clear_errors(self, triggers: Sequence[Callable], messages: list[gr.HTML]) -> None:
        """Remove error messages in the browser, once their cause may be gone."""
        for trigger in triggers:
            trigger(None, messages, messages, js=WITHOUT_ERRORS, api_visibility="private", show_progress="hidden")

    def _enable(self, button: gr.Button, is_ready: Callable[..., bool], needed: list) -> None:
        """Disable a button until `is_ready` returns True for the values of the controls that it needs."""
        changes = [
            getattr(control, event)
            for control in needed
            for event in ("change", "input")
            if event in EVENTS[type(control)]
        ]
        for change in changes:
            change(
                lambda *values: gr.update(interactive=is_ready(*values)),
                needed,
                button,
                queue=False,
                api_visibility="private",
                show_progress="hidden",
            )

    def _tool(
        self,
        button: gr.Button,
        handler: Callable,
        inputs: list,
        changes: Sequence[Callable] = (),
        submits: Sequence[Callable] = (),
    ) -> None:
        """Add a tool's message below its button and connect the button to the player.

        Args:
            button: Starts the tool.
            handler: Receives `current`, the inputs and the settings under Advanced.
            inputs: The tool's own controls.
            changes: Events after which the tool's error message disappears.
            submits: Events of text fields that do what the button does.
        """
        message = components.message()
        self.tool_messages.append(message)
        self._on([button.click, *submits], handler, [self.current, *inputs, *self.settings], [message, self.player])
        self._clear_errors(changes, [message])

    def _prompt(self) -> None:
        """Add the prompt and its buttons, the examples and the settings under Advanced."""
        with gr.Row(equal_height=True):
            self.prompt = gr.Textbox(
                label="Describe a sound",
                placeholder="rain on a tin roof",
                scale=6,
                min_width=260,
                max_lines=1,
                submit_btn=False,
                elem_id="prompt",
                autofocus=True,
            )
            with gr.Column(scale=1, min_width=150):
                self.draft = gr.Button(f"Draft {NUM_DRAFTS}", variant="primary", elem_id="draft", interactive=False)
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")  # app.css hides it while nothing runs
        self.draft_message = components.message()
        self.examples = gr.Examples(list(EXAMPLES), self.prompt, label="Examples")
        self._kinds()
        self._advanced()
        self._enable(self.draft, lambda prompt: bool((prompt or "").strip()), [self.prompt])
        cancel.click(self.handlers.cancel, queue=False, api_visibility="private", show_progress="hidden")

    def _kinds(self) -> None:
        """Add the list of the kinds of sounds that the model knows. Models for any prompt have none."""
        known = self.handlers.studio.known_kinds
        self.known_prompts = []
        if known:
            with gr.Accordion("What it knows", open=False):
                text = f"The model knows {len(known)} kinds of sounds, one at a time. Press a prompt to draft it."
                components.paragraph(f"{text} Other prompts give a sound that it knows.")
                kinds = components.kinds(known)
            (chosen,) = self._on([kinds.use], self.handlers.known_prompt, None, self.prompt)
            self.known_prompts = [chosen.then]

    def _advanced(self) -> None:
        default = self.handlers.studio.default_duration
        with gr.Accordion("Advanced", open=False):
            with gr.Row():
                self.negative = gr.Textbox(
                    label="Negative prompt",
                    info="What to avoid. It needs a strength other than 1.",
                    max_lines=1,
                    elem_id="negative",
                )
                self.seed = gr.Textbox(
                    label="Seed",
                    info="Seed of the first draft. Leave empty for a random seed.",
                    max_lines=1,
                    elem_id="seed",
                )
            with gr.Row():
                omega = gr.Slider(
                    0, 10, 3.5, step=0.1, label="Prompt strength", info="How closely the sound follows the prompt."
                )
                nu = gr.Slider(
                    0,
                    5,
                    1,
                    step=0.1,
                    label="Negative strength",
                    info="1: off. Above 1: avoids it more.",
                )
                gamma = gr.Slider(0, 1, 0, step=0.05, label="Randomness", info="0: more steps refine the same sound.")
                self.duration = gr.Slider(
                    DURATION[0],
                    min(DURATION[1], 2 * default),
                    default,
                    step=0.01,
                    label="Length (s)",
                    info=f"The model was trained on {default:.4g} s.",
                )
            adapters = self.handlers.studio.lora
            self.adapter = gr.Dropdown(
                [("None", ""), *((name_of(lora), lora) for lora in adapters)],
                value="",
                label="Adapter",
                info="New sounds that the model has learned.",
                elem_id="adapter",
                visible=bool(adapters),
            )
        self.settings = [self.negative, omega, nu, gamma]

    def _drafts(self) -> None:
        """Add the grid of drafts, and connect everything that asks for drafts."""
        self.warning = components.message()
        self.drafts = components.grid("Drafts", elem_id="drafts")
        fields = [self.prompt, *self.settings, self.duration, self.seed, self.adapter]
        submits = [self.prompt.submit, self.negative.submit, self.seed.submit]
        triggers = [*submits, self.draft.click, self.examples.load_input_event.then, *self.known_prompts]
        outputs = [self.draft_message, self.drafts, self.warning, self.saved]
        self._on(triggers, self.handlers.draft, fields, outputs, trigger_mode="multiple")
        self._clear_errors([field.change for field in fields], [self.draft_message])

    def restore_drafts(self, app: gr.Blocks) -> None:
        """Show the last drafts of this browser when the page is opened or reloaded."""
        self._on([app.load], self.handlers.restore, [self.saved], [self.draft_message, self.drafts, self.warning])

    def _refine_tab(self) -> None:
        with gr.Tab("Refine"):
            steps = gr.Radio(STEPS, value=FINAL_STEPS, label="Steps", info=REFINE_INFO)
            button = gr.Button("Refine", variant="primary", elem_id="refine", interactive=False)
            self._enable(button, has_recipe, [self.current])
            self._tool(button, self.handlers.refine, [steps])

    def _vary_tab(self) -> None:
        with gr.Tab("Vary"):
            amount = gr.Slider(
                0,
                1,
                0.3,
                step=0.05,
                label="Distance",
                info="0: the picked sound. 1: nothing in common with it.",
            )
            button = gr.Button(f"{NUM_VARIATIONS} variations", variant="primary", elem_id="vary", interactive=False)
            self._enable(button, has_recipe, [self.current])
            message = components.message()
            self.variations = components.grid("Variations", elem_id="variations", elem_classes="sc-narrow")
            self.tool_messages.append(message)
            inputs = [self.current, amount, *self.settings]
            self._on([button.click], self.handlers.vary, inputs, [message, self.variations])

    def _morph_tab(self) -> None:
        with gr.Tab("Morph"):
            self.second_message = components.message()
            info = "Press ⇢ on a draft to choose the sound to end with."
            steps = gr.Radio(STEPS, value=FINAL_STEPS, label="Steps", info=info)
            button = gr.Button("Morph", variant="primary", elem_id="morph", interactive=False)
            both = [self.current, self.second]
            self._enable(button, lambda first, second: is_from_noise(first) and second is not None, both)
            self._tool(button, self.handlers.morph, [self.second, steps])

    def _draw_tab(self) -> None:
        with gr.Tab("Draw"):
            curve = components.drawing()
            file = gr.File(label=f"Or take the curve of a sound file ({FILE_LIMITS})", file_count="single", height=170)
            file_message = components.message()
            strength = gr.Slider(
                0.05,
                1,
                Recipe.strength,
                step=0.05,
                label="Strength",
                info="How closely the sound follows the curve.",
            )
            steps = gr.Radio(STEPS, value=STEERED_STEPS, label="Steps")
            button = gr.Button("Follow the curve", variant="primary", elem_id="draw", interactive=False)
            self._enable(button, lambda picked, line: is_from_noise(picked) and bool(line), [self.current, curve])
            changes = [curve.input, file.upload]
            self._tool(button, self.handlers.draw, [curve, strength, steps], changes)
            self._on([file.upload], self.handlers.curve_from_file, file, [file_message, curve])
            self._clear_errors([file.clear], [file_message])

    def _fill_tab(self) -> None:
        """Add the tools that work on an existing recording: fill a marked part, and continue after the end."""
        with gr.Tab("Fill, continue"):
            file = gr.File(label=f"Work on a sound file ({FILE_LIMITS})", file_count="single", height=170)
            file_message = components.message()
            with gr.Row():
                steps = gr.Radio(STEPS, value=STEERED_STEPS, label="Steps", scale=4, min_width=200)
                seed = gr.Number(0, label="Seed", scale=1, min_width=90)
            marked = components.marking()
            self.fill_prompt = gr.Textbox(label="Describe the marked part", max_lines=1, elem_id="fill-prompt")
            fill = gr.Button("Fill the marked part", variant="primary", elem_id="fill", interactive=False)
            self._enable(fill, lambda picked, part: bool(picked and part), [self.current, marked])
            changes = [self.fill_prompt.change, seed.change, marked.input]
            inputs = [self.fill_prompt, marked, steps, seed]
            self._tool(fill, self.handlers.fill, inputs, changes, [self.fill_prompt.submit])
            self.extend_prompt = gr.Textbox(label="Describe what follows", max_lines=1, elem_id="extend-prompt")
            self.extend_to = gr.Slider(DURATION[0], self.longest, step=0.1, label="Extend to (s)", elem_id="extend-to")
            extend = gr.Button("Continue", elem_id="continue", interactive=False)
            self._enable(extend, bool, [self.current])
            changes = [self.extend_prompt.change, seed.change, self.extend_to.change]
            inputs = [self.extend_prompt, self.extend_to, steps, seed]
            self._tool(extend, self.handlers.extend, inputs, changes, [self.extend_prompt.submit])
            outputs = [file_message, self.current, self.player, self.extend_to]
            self.uploads = self._on([file.upload], self.handlers.upload, file, outputs)
            self._clear_errors([file.clear], [file_message])

    def _loop_tab(self) -> None:
        with gr.Tab("Loop"):
            info = "The end runs seamlessly into the start."
            steps = gr.Radio(STEPS, value=STEERED_STEPS, label="Steps", info=info)
            button = gr.Button("Make it loop", variant="primary", elem_id="loop", interactive=False)
            self._enable(button, is_from_noise, [self.current])
            self._tool(button, self.handlers.loop, [steps])

    def _export(self) -> None:
        """Add the settings of exported files."""
        with gr.Accordion("Export settings", open=False):
            with gr.Row():
                extension = gr.Radio([("WAV", ".wav"), ("FLAC", ".flac")], value=".wav", label="Format")
                bits = gr.Radio([16, 24], value=16, label="Bits")
                rates = [("of the model", 0), ("16 kHz", 16000), ("44.1 kHz", 44100), ("48 kHz", 48000)]
                rate = gr.Dropdown(rates, value=0, label="Sampling rate")
                channels = gr.Radio([("of the model", 0), ("mono", 1), ("stereo", 2)], value=0, label="Channels")
            with gr.Row():
                level = gr.Radio(["as made", "loudness", "peak"], value="as made", label="Level", info=LEVEL_INFO)
                loudness = gr.Slider(-40, -10, -23, step=1, label="Loudness (LUFS)")
                fields = ", ".join(f"{{{name}}}" for name in FIELDS)
                pattern = gr.Textbox(ExportSettings.pattern, label="File names", info=fields, max_lines=1)
                folders = gr.Checkbox(False, label="A folder for each kind of sound")
        settings = [extension, bits, rate, channels, level, loudness, pattern, folders]
        self._on([self.shelf.export], self.handlers.export, settings, [self.shelf_message, self.shelf])
        self._clear_errors([field.change for field in settings], [self.shelf_message])

    def _connect_picks(self) -> None:
        """Connect the buttons on tiles, in the player and on the shelf."""
        handlers, settings = self.handlers, [*self.settings[1:], self.settings[0]]
        prompts = [self.fill_prompt, self.extend_prompt]
        outputs = [self.player_message, self.current, self.player, *settings, *prompts, self.extend_to]
        triggers = [self.drafts.pick, self.variations.pick, self.shelf.pick, self.player.use]
        picks = self._on(triggers, handlers.pick, [self.current, *prompts], outputs)
        seconds = [self.drafts.second, self.variations.second]
        chosen = self._on(seconds, handlers.choose_second, None, [self.second_message, self.second])
        keeps = [self.drafts.keep, self.variations.keep, self.player.keep]
        self._on(keeps, handlers.keep, None, [self.shelf_message, self.shelf], trigger_mode="multiple")
        self._clear_errors([event.success for event in (*picks, *chosen, *self.uploads)], self.tool_messages)
