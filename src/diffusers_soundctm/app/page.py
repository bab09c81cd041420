"""The page: what is where, and which function answers which control."""

import secrets
import threading
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from . import api, components
from . import studio as work
from .components import said
from .progress import steps_then_take
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload, integer
from .rendering import Cancelled
from .sound_files import card
from .studio import MAX_UPLOAD_BYTES, NUM_DRAFTS, NUM_VARIATIONS, Studio, Take

EXAMPLES = [
    "rain on a tin roof",
    "a music box plays a melody",
    "a dog barks twice",
    "a church bell rings",
    "wind howls around a house",
    "footsteps on gravel",
]
STEPS = [2, 4, 8, 16]
EXPECTED = (OSError, RuntimeError, TypeError, ValueError)


def build_app(pipe: SoundCTMPipeline, model: str = "embedded", on_gpu: Any = None) -> gr.Blocks:
    """The app around a pipeline; see `Studio` for the arguments. Start it with `launch`."""
    desk = Desk(Studio(pipe, model, on_gpu))
    with gr.Blocks(title="SoundCTM", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as app:
        api.add_endpoints(desk.studio)  # first, for their names
        _layout(desk)
        app.unload(desk.cancel)  # of a closed tab
    if on_gpu is None:
        threading.Thread(target=desk.warm_up, daemon=True).start()
    return app


def launch(app: gr.Blocks, **kwargs: Any) -> Any:
    """`app.launch` with the app's look and limits; other arguments are passed on."""
    app.queue(max_size=64, default_concurrency_limit=16)
    return app.launch(
        theme=gr.themes.Base(
            primary_hue="indigo",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ).set(body_text_color_subdued="*neutral_500"),  # one shade darker than the theme's, to be read with ease
        css_paths=components.ASSETS / "app.css",
        max_file_size=MAX_UPLOAD_BYTES,
        max_threads=128,  # whoever waits for a turn holds one; cancelling needs one more
        footer_links=["api"],
        ssr_mode=False,
        **kwargs,
    )


def answering(others: int = 1) -> Callable:
    """What goes wrong in a generator of updates is said in its first output, the message; the `others` stay."""

    def decorate(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @wraps(function)
        def answer(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except Cancelled:
                yield (said("Cancelled."), *[gr.skip()] * others)
            except EXPECTED as error:
                yield (said(str(error), is_bad=True), *[gr.skip()] * others)

        return answer

    return decorate


class Desk:
    """The answers to the page's controls. `request.session_hash`, one a browser tab, is whose turn it is.

    `current` is what is picked: {"recipe": ...}, or {"digest": ..., "seconds": ...} of an uploaded sound.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self._newest: dict[tuple[str, str], object] = {}

    def _card(self, recipe: Recipe, owner: str, with_files: bool = False) -> dict[str, Any]:
        return card(self.studio, self.studio.make(recipe, owner), with_files)

    def warm_up(self) -> None:
        """Make a draft that nobody asked for: the first one pays for what libraries load when first used."""
        recipe = Recipe(EXAMPLES[0], Noise(0), self.studio.default_duration)
        card(self.studio, self.studio.make(recipe, "warm-up"))

    @answering()
    def draft(self, prompt, negative_prompt, omega, nu, gamma, duration, seed, request: gr.Request) -> Iterator[Any]:
        typed = (seed or "").strip()
        seed = (
            integer("The seed", int(typed) if typed.isdecimal() else typed, 0, MAX_SEED - NUM_DRAFTS) if typed else None
        )
        recipes = work.draft_recipes(prompt, duration, seed, **advanced(negative_prompt, omega, nu, gamma))
        yield from self._grid(recipes, request.session_hash, "Draft", keys=True)

    def _grid(self, recipes: list[Recipe], owner: str, what: str, keys: bool) -> Iterator[Any]:
        """Tiles as they are done; those that are asked for later take the place of what is not done by then."""
        cards: list[dict[str, Any]] = []
        grid, run = (owner, what), object()
        self._newest[grid] = run

        def is_outdated() -> bool:
            return self._newest.get(grid) is not run

        def update(text: str, total: int) -> tuple[Any, Any]:
            bar = (len(cards), total) if text else None
            return said(text, progress=bar), {"cards": list(cards), "total": total, "keys": keys}

        try:
            yield update("Waiting for a turn …", len(recipes))
            for take in self.studio.make_each(recipes, owner):
                if is_outdated():
                    return
                cards.append(card(self.studio, take))
                done = len(cards) == len(recipes)
                yield update("" if done else f"{what} {len(cards) + 1} of {len(recipes)} …", len(recipes))
        except (Cancelled, *EXPECTED):
            if is_outdated():
                return
            yield update("", len(cards))  # nothing more is waited for
            raise
        finally:
            if not is_outdated():
                del self._newest[grid]

    @answering(others=7)
    def pick(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        settings = (recipe.omega, recipe.nu, recipe.gamma, recipe.negative_prompt, recipe.prompt)
        yield (said(), {"recipe": recipe.to_json()}, {"a": self._card(recipe, request.session_hash)}, *settings)

    @answering(others=2)
    def bring(self, path: str | None, request: gr.Request) -> Iterator[Any]:
        if path is None:
            yield said(), gr.skip(), gr.skip()
            return
        upload = self.studio.bring(path)
        waveform = self.studio.upload(upload)
        shown = uploaded_card(self.studio, upload)
        current = {"digest": upload.digest, "seconds": waveform.shape[-1] / self.studio.pipe.sampling_rate}
        yield said("The uploaded sound is picked; mark a part of it, or continue it."), current, {"a": shown}

    @answering()
    def choose_second(self, event: gr.EventData) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        words = f"The picked sound will turn into: {recipe.prompt}, seed {recipe.noise.seed}."
        yield said(words), recipe.to_json()

    @answering()
    def keep(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        yield said(), self._card(Recipe.from_json(event.recipe), request.session_hash, with_files=True)

    @answering()
    def refine(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked(current)
        final = work.refined(recipe, steps=steps, **advanced(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, final, request.session_hash)

    @answering()
    def vary(self, current, amount, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked(current).change(**advanced(negative_prompt, omega, nu, gamma))
        recipes = work.variation_recipes(recipe, amount, secrets.randbelow(10**6))
        yield from self._grid(recipes, request.session_hash, "Variation", keys=False)

    @answering()
    def morph(self, current, second, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        if second is None:
            raise ValueError("Choose where to go first: press ⇢ on another draft.")
        recipe = picked(current)
        first = recipe.change(**advanced(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, work.morphed(first, Recipe.from_json(second), steps), request.session_hash)

    @answering()
    def draw(
        self, current, curve, strength, steps, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        recipe = picked(current)
        plain = recipe.change(**advanced(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, work.drawn(plain, curve, strength, steps), request.session_hash)

    @answering()
    def curve_of(self, path: str | None) -> Iterator[Any]:
        if path is None:
            yield said(), gr.skip()
            return
        waveform = self.studio.upload(self.studio.bring(path))
        low = -60.0  # the canvas ends there
        yield said("The curve is that of the uploaded sound."), [max(db, low) for db in self.studio.loudness(waveform)]

    @answering()
    def fill(
        self, current, prompt, span, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = source_of(current, self.studio, request.session_hash)
        spans = [tuple(span)] if span else []
        seed, settings = integer("The seed", seed, 0, MAX_SEED), advanced(negative_prompt, omega, nu, gamma)
        recipe = work.filled(source, seconds, prompt, spans, steps, seed, **settings)
        yield from self._compare(source, recipe, request.session_hash)

    @answering()
    def go_on(
        self, current, prompt, more, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = source_of(current, self.studio, request.session_hash)
        seed, settings = integer("The seed", seed, 0, MAX_SEED), advanced(negative_prompt, omega, nu, gamma)
        recipe = work.continued(source, seconds, prompt, more, steps, seed, **settings)
        yield from self._compare(source, recipe, request.session_hash)

    @answering()
    def loop(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked(current)
        plain = recipe.change(**advanced(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, work.looped(plain, steps), request.session_hash)

    def cancel(self, request: gr.Request) -> None:
        self.studio.cancel(request.session_hash)

    def _compare(self, first: Recipe | Upload, second: Recipe, owner: str) -> Iterator[Any]:
        """Progress, then the player with the picked sound as A and the new one as B."""
        yield said("Waiting for a turn …", progress=(0, second.steps)), gr.skip()
        take = None
        for news in steps_then_take(self.studio, second, owner):
            if isinstance(news, Take):
                take = news
            else:
                yield said(f"Step {news[0]} of {news[1]}", progress=news), gr.skip()
        value = {"b": card(self.studio, take), "drift": None}
        if isinstance(first, Upload):
            value["a"] = uploaded_card(self.studio, first)
        else:
            before = self.studio.make(first, owner)
            value["a"] = card(self.studio, before)
            value["drift"] = self.studio.drift(before, take)
            if second.curve:
                value["target"] = list(second.curve)
                value["before"] = self.studio.loudness(before.waveform)
                value["achieved"] = self.studio.loudness(take.waveform)
        yield said(), value


def advanced(negative_prompt: str, omega: float, nu: float, gamma: float) -> dict[str, Any]:
    """What stands under Advanced, for every sound that is made while it stands there."""
    return {"negative_prompt": negative_prompt, "omega": omega, "nu": nu, "gamma": gamma}


def picked(current: dict[str, Any] | None) -> Recipe:
    """The recipe of the picked sound."""
    if not current:
        raise ValueError("Pick a sound first.")
    if "recipe" not in current:
        raise ValueError("An uploaded sound has no noise to start from; pick a draft for this.")
    return Recipe.from_json(current["recipe"])


def source_of(current: dict[str, Any] | None, studio: Studio, owner: str) -> tuple[Recipe | Upload, float]:
    """The picked sound as one to fill or continue, and its seconds; `owner` waits where it must be made again."""
    if current and "digest" in current:
        return Upload(current["digest"]), current["seconds"]
    recipe = picked(current)
    return recipe, studio.make(recipe, owner).seconds


def uploaded_card(studio: Studio, upload: Upload) -> dict[str, Any]:
    """An uploaded sound as the page shows it; it has no recipe."""
    waveform = studio.upload(upload)
    stand_in = Recipe("uploaded sound", Noise(0), DURATION[0])
    shown = card(studio, Take(stand_in, waveform, studio.pipe.sampling_rate))
    return shown | {"id": upload.digest, "about": "", "recipe": None}


def _layout(desk: Desk) -> None:
    low, high = DURATION
    limits = f"{low:g}–{high:g} s, up to {MAX_UPLOAD_BYTES // 2**20} MB"
    longest = min(high, 2 * desk.studio.default_duration)
    current, second = gr.State(), gr.State()
    private = {"api_visibility": "private", "show_progress": "hidden"}

    gr.HTML(
        "<h1>SoundCTM</h1><p>Describe a sound, press Enter, play eight drafts with 1 to 8, make the best better.</p>",
        elem_classes="sc-title",
        js_on_load=None,
    )
    with gr.Row(equal_height=True):
        prompt = gr.Textbox(
            label="What to hear",
            placeholder="rain on a tin roof",
            scale=6,
            min_width=260,
            max_lines=1,
            submit_btn=False,
            elem_id="prompt",
            autofocus=True,
        )
        with gr.Column(scale=1, min_width=150):
            go = gr.Button(f"Draft {NUM_DRAFTS}", variant="primary", elem_id="draft")
            stop = gr.Button("Cancel", variant="stop", elem_id="cancel")  # shown while there is something to cancel
    draft_message = components.message()
    examples = gr.Examples(EXAMPLES, prompt, label="Examples")
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            negative = gr.Textbox(
                label="Negative prompt",
                info="What the sound is pushed away from; needs a mix ν other than 1.",
                max_lines=1,
                elem_id="negative",
            )
            seed = gr.Textbox(label="Seed", info="Of the first draft; empty draws one.", max_lines=1, elem_id="seed")
        with gr.Row():
            omega = gr.Slider(0, 10, 3.5, step=0.1, label="Guidance ω", info="How literally the prompt is taken.")
            nu = gr.Slider(0, 5, 1, step=0.1, label="Mix ν", info="Above 1: away from the negative prompt.")
            gamma = gr.Slider(0, 1, 0, step=0.05, label="Noise γ", info="0: more steps refine the same sound.")
            duration = gr.Slider(
                low,
                longest,
                desk.studio.default_duration,
                step=0.01,
                label="Length (s)",
                info="The model was trained with the middle.",
            )
    drafts = components.grid("Drafts", elem_id="drafts")

    gr.HTML("<h2>Work on one</h2>", elem_classes="sc-section", js_on_load=None)
    with gr.Row():
        with gr.Column(scale=6, min_width=320):
            player = components.player()
            player_message = components.message()
        with gr.Column(scale=5, min_width=320), gr.Tabs():
            with gr.Tab("Refine"):
                refine_steps = gr.Radio(STEPS, value=8, label="Steps", info="Of the same sound; the more, the better.")
                refine = gr.Button("Refine", variant="primary", elem_id="refine")
                refine_message = components.message()
            with gr.Tab("Vary"):
                amount = gr.Slider(
                    0, 1, 0.3, step=0.05, label="Distance", info="0 the picked sound, 1 nothing in common with it."
                )
                vary = gr.Button(f"{NUM_VARIATIONS} variations", variant="primary", elem_id="vary")
                vary_message = components.message()
                variations = components.grid("Variations", elem_id="variations", elem_classes="sc-narrow")
            with gr.Tab("Morph"):
                second_message = components.message()
                morph_steps = gr.Radio(STEPS, value=8, label="Steps", info="⇢ on a draft chooses where to go.")
                morph = gr.Button("Morph", variant="primary", elem_id="morph")
                morph_message = components.message()
            with gr.Tab("Draw"):
                curve = components.drawing()
                curve_file = gr.File(label=f"or the curve of a sound file ({limits})", file_count="single", height=170)
                curve_message = components.message()
                strength = gr.Slider(
                    0.05, 1, Recipe.strength, step=0.05, label="Strength", info="How firmly the curve is followed."
                )
                draw_steps = gr.Radio(STEPS, value=8, label="Steps")
                draw = gr.Button("Follow the curve", variant="primary", elem_id="draw")
                draw_message = components.message()
            with gr.Tab("Fill, continue"):
                brought = gr.File(label=f"Work on a sound file ({limits})", file_count="single", height=170)
                brought_message = components.message()
                fill_prompt = gr.Textbox(label="What to hear there", max_lines=1, elem_id="fill-prompt")
                marked = components.marking()
                with gr.Row():
                    fill_steps = gr.Radio(STEPS, value=8, label="Steps", scale=4, min_width=200)
                    fill_seed = gr.Number(0, label="Seed", scale=1, min_width=90)
                fill = gr.Button("Fill the marked part", variant="primary", elem_id="fill")
                fill_message = components.message()
                more = gr.Slider(0.5, 5, 2, step=0.1, label="Seconds to go on")
                go_on = gr.Button("Continue", elem_id="continue")
                go_on_message = components.message()
            with gr.Tab("Loop"):
                loop_steps = gr.Radio(STEPS, value=8, label="Steps", info="The end runs into the start.")
                loop = gr.Button("Make it loop", variant="primary", elem_id="loop")
                loop_message = components.message()
    gr.HTML("<h2>Kept</h2>", elem_classes="sc-section", js_on_load=None)
    shelf = components.shelf()
    shelf_message = components.message()

    def listen(triggers: list[Callable], answer: Callable, inputs: Any, outputs: Any, **kwargs: Any) -> None:
        # `gr.on` knows no events of one's own.
        for trigger in triggers:
            trigger(answer, inputs, outputs, **private, concurrency_limit=None, **kwargs)

    settings = [negative, omega, nu, gamma]
    draft_inputs = [prompt, *settings, duration, seed]
    asked = [prompt.submit, negative.submit, seed.submit, go.click, examples.load_input_event.then]
    listen(asked, desk.draft, draft_inputs, [draft_message, drafts], trigger_mode="multiple")
    stop.click(desk.cancel, queue=False, **private)

    picks = [player_message, current, player, omega, nu, gamma, negative, fill_prompt]
    listen([drafts.pick, variations.pick, shelf.pick, player.use], desk.pick, None, picks)
    listen([drafts.second, variations.second], desk.choose_second, None, [second_message, second])
    listen(
        [drafts.keep, variations.keep, player.keep], desk.keep, None, [shelf_message, shelf], trigger_mode="multiple"
    )
    listen([brought.upload], desk.bring, brought, [brought_message, current, player])
    listen([curve_file.upload], desk.curve_of, curve_file, [curve_message, curve])

    listen([refine.click], desk.refine, [current, refine_steps, *settings], [refine_message, player])
    listen([vary.click], desk.vary, [current, amount, *settings], [vary_message, variations])
    listen([morph.click], desk.morph, [current, second, morph_steps, *settings], [morph_message, player])
    listen([draw.click], desk.draw, [current, curve, strength, draw_steps, *settings], [draw_message, player])
    filling = [current, fill_prompt, marked, fill_steps, fill_seed, *settings]
    listen([fill.click], desk.fill, filling, [fill_message, player])
    continuing = [current, fill_prompt, more, fill_steps, fill_seed, *settings]
    listen([go_on.click], desk.go_on, continuing, [go_on_message, player])
    listen([loop.click], desk.loop, [current, loop_steps, *settings], [loop_message, player])
