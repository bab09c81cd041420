"""The layout of the page, and which handler each control calls."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from . import components
from .edits import NUM_DRAFTS, NUM_VARIATIONS
from .handlers import Handlers
from .recipe import DURATION, Recipe
from .uploads import MAX_UPLOAD_BYTES

EXAMPLES = [
    "rain on a tin roof",
    "a music box plays a melody",
    "a dog barks",
    "a police siren",
    "wind howls around a house",
    "footsteps on gravel",
]
STEPS = [2, 4, 8, 16]
FILE_LIMITS = f"{DURATION[0]:g}–{DURATION[1]:g} s, up to {MAX_UPLOAD_BYTES // 2**20} MB"
# JavaScript: removes error messages, and leaves progress and other messages.
WITHOUT_ERRORS = """(...messages) => messages.map((message) => message?.includes('role="alert"') ? "" : message)"""


class Page:
    """Builds the page inside an open `gr.Blocks`.

    Each method adds one part of the page and connects its controls, except for those that need a later part.
    """

    def __init__(self, handlers: Handlers):
        self.handlers = handlers
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
        self._connect_picks()

    def _on(self, triggers: Sequence[Callable], handler: Callable, inputs: Any, outputs: Any, **kwargs: Any) -> list:
        # Not `gr.on`, which does not accept the events of custom components.
        options = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        return [trigger(handler, inputs, outputs, **options, **kwargs) for trigger in triggers]

    def _clear_errors(self, triggers: Sequence[Callable], messages: list[gr.HTML]) -> None:
        """Remove error messages in the browser, once their cause may be gone."""
        for trigger in triggers:
            trigger(None, messages, messages, js=WITHOUT_ERRORS, api_visibility="private", show_progress="hidden")

    def _tool(self, button: gr.Button, handler: Callable, inputs: list, changes: Sequence[Callable] = ()) -> None:
        """Add a tool's message below its button and connect the button to the player.

        Args:
            button: Starts the tool.
            handler: Receives `current`, the inputs and the settings under Advanced.
            inputs: The tool's own controls.
            changes: Events after which the tool's error message disappears.
        """
        message = components.message()
        self.tool_messages.append(message)
        self._on([button.click], handler, [self.current, *inputs, *self.settings], [message, self.player])
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
                self.draft = gr.Button(f"Draft {NUM_DRAFTS}", variant="primary", elem_id="draft")
                cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")  # app.css hides it while nothing runs
        self.draft_message = components.message()
        self.examples = gr.Examples(EXAMPLES, self.prompt, label="Examples")
        self._known_sounds()
        self._advanced()
        cancel.click(self.handlers.cancel, queue=False, api_visibility="private", show_progress="hidden")

    def _known_sounds(self) -> None:
        """Add the list of what the model knows, if its folder has one."""
        known = self.handlers.studio.pipe.known_sounds
        if known is not None:
            with gr.Accordion(f"What it knows: {len(known.kinds)} kinds of sounds", open=False):
                gr.Markdown(", ".join(known.kinds))

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
        self.settings = [self.negative, omega, nu, gamma]

    def _drafts(self) -> None:
        """Add the grid of drafts, and connect everything that asks for drafts."""
        self.drafts = components.grid("Drafts", elem_id="drafts")
        fields = [self.prompt, *self.settings, self.duration, self.seed]
        submits = [self.prompt.submit, self.negative.submit, self.seed.submit]
        triggers = [*submits, self.draft.click, self.examples.load_input_event.then]
        outputs = [self.draft_message, self.drafts]
        self._on(triggers, self.handlers.draft, fields, outputs, trigger_mode="multiple")
        self._clear_errors([field.change for field in fields], [self.draft_message])

    def _refine_tab(self) -> None:
        with gr.Tab("Refine"):
            steps = gr.Radio(STEPS, value=8, label="Steps", info="Make the same sound in more steps.")
            button = gr.Button("Refine", variant="primary", elem_id="refine")
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
            button = gr.Button(f"{NUM_VARIATIONS} variations", variant="primary", elem_id="vary")
            message = components.message()
            self.variations = components.grid("Variations", elem_id="variations", elem_classes="sc-narrow")
            self.tool_messages.append(message)
            inputs = [self.current, amount, *self.settings]
            self._on([button.click], self.handlers.vary, inputs, [message, self.variations])

    def _morph_tab(self) -> None:
        with gr.Tab("Morph"):
            self.second_message = components.message()
            steps = gr.Radio(STEPS, value=8, label="Steps", info="Press ⇢ on a draft to choose the sound to end with.")
            button = gr.Button("Morph", variant="primary", elem_id="morph")
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
            steps = gr.Radio(STEPS, value=8, label="Steps")
            button = gr.Button("Follow the curve", variant="primary", elem_id="draw")
            changes = [curve.input, file.upload]
            self._tool(button, self.handlers.draw, [curve, strength, steps], changes)
            self._on([file.upload], self.handlers.curve_from_file, file, [file_message, curve])
            self._clear_errors([file.clear], [file_message])

    def _fill_tab(self) -> None:
        """Add the tools that work on an existing recording: fill a marked part, and continue after the end."""
        with gr.Tab("Fill, continue"):
            file = gr.File(label=f"Work on a sound file ({FILE_LIMITS})", file_count="single", height=170)
            file_message = components.message()
            self.fill_prompt = gr.Textbox(label="Describe the new part", max_lines=1, elem_id="fill-prompt")
            marked = components.marking()
            with gr.Row():
                steps = gr.Radio(STEPS, value=8, label="Steps", scale=4, min_width=200)
                seed = gr.Number(0, label="Seed", scale=1, min_width=90)
            fill = gr.Button("Fill the marked part", variant="primary", elem_id="fill")
            changes = [self.fill_prompt.change, seed.change]
            self._tool(fill, self.handlers.fill, [self.fill_prompt, marked, steps, seed], [*changes, marked.input])
            more = gr.Slider(0.5, 5, 2, step=0.1, label="Seconds to add")
            extend = gr.Button("Continue", elem_id="continue")
            self._tool(extend, self.handlers.extend, [self.fill_prompt, more, steps, seed], [*changes, more.change])
            outputs = [file_message, self.current, self.player]
            self.uploads = self._on([file.upload], self.handlers.upload, file, outputs)
            self._clear_errors([file.clear], [file_message])

    def _loop_tab(self) -> None:
        with gr.Tab("Loop"):
            steps = gr.Radio(STEPS, value=8, label="Steps", info="The end runs seamlessly into the start.")
            button = gr.Button("Make it loop", variant="primary", elem_id="loop")
            self._tool(button, self.handlers.loop, [steps])

    def _connect_picks(self) -> None:
        """Connect the buttons on tiles, in the player and on the shelf."""
        handlers, settings = self.handlers, [*self.settings[1:], self.settings[0]]
        outputs = [self.player_message, self.current, self.player, *settings, self.fill_prompt]
        triggers = [self.drafts.pick, self.variations.pick, self.shelf.pick, self.player.use]
        picks = self._on(triggers, handlers.pick, None, outputs)
        seconds = [self.drafts.second, self.variations.second]
        chosen = self._on(seconds, handlers.choose_second, None, [self.second_message, self.second])
        keeps = [self.drafts.keep, self.variations.keep, self.player.keep]
        self._on(keeps, handlers.keep, None, [self.shelf_message, self.shelf], trigger_mode="multiple")
        self._clear_errors([event.success for event in (*picks, *chosen, *self.uploads)], self.tool_messages)
