"""What happens when somebody uses a control of the page."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import gradio as gr

from . import edits
from .cards import card, upload_card
from .components import message_html
from .edits import NUM_DRAFTS
from .progress import steps_then_take
from .recipe import MAX_SEED, Noise, Recipe, Upload
from .rendering import Cancelled
from .studio import Studio, Take
from .validators import integer

LOWEST_DRAWN_DB = -60.0  # lower edge of the canvas in assets/draw.js
WARM_UP_PROMPT = "rain on a tin roof"
# Errors with a message for the person at the screen. All others are faults of the app and reach its log.
EXPECTED_ERRORS = (OSError, RuntimeError, TypeError, ValueError)
QUEUED = "Waiting in the queue …"


def with_messages(num_others: int = 1) -> Callable:
    """Decorate a generator of updates whose first output is a message, so that errors appear there.

    Args:
        num_others: Number of the generator's other outputs. An error leaves them unchanged.
    """

    def decorate(function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        @wraps(function)
        def handler(*args: Any, **kwargs: Any) -> Iterator[Any]:
            unchanged = [gr.skip()] * num_others
            try:
                yield from function(*args, **kwargs)
            except Cancelled as error:
                yield (message_html(str(error)), *unchanged)
            except EXPECTED_ERRORS as error:
                yield (message_html(str(error), is_error=True), *unchanged)

        return handler

    return decorate


class Handlers:
    """The handlers of the page's controls.

    `request.session_hash` identifies a browser tab and is the owner of its sounds in the queue. `current` is the
    picked sound: {"recipe": ...} for a sound of the app, {"digest": ..., "seconds": ...} for an uploaded one.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self._newest: dict[tuple[str, str], object] = {}

    def warm_up(self) -> None:
        """Make a draft for nobody, so that the first visitor does not wait until all libraries are loaded."""
        recipe = Recipe(WARM_UP_PROMPT, Noise(0), self.studio.default_duration)
        card(self.studio, self.studio.make(recipe, "warm-up"))

    @with_messages()
    def draft(self, prompt, negative_prompt, omega, nu, gamma, duration, seed, request: gr.Request) -> Iterator[Any]:
        typed = (seed or "").strip()
        if typed:
            typed = integer("The seed", int(typed) if typed.isdecimal() else typed, 0, MAX_SEED - NUM_DRAFTS)
        settings = call_settings(negative_prompt, omega, nu, gamma)
        recipes = edits.draft_recipes(prompt, duration, None if typed == "" else typed, **settings)
        yield from self._grid(recipes, request.session_hash, "Draft", keys=True)

    @with_messages()
    def vary(self, current, amount, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current).change(**call_settings(negative_prompt, omega, nu, gamma))
        recipes = edits.variation_recipes(recipe, amount, edits.random_seed())
        yield from self._grid(recipes, request.session_hash, "Variation", keys=False)

    def _grid(self, recipes: list[Recipe], owner: str, name: str, keys: bool) -> Iterator[Any]:
        """Yield the tiles of a grid as they are finished; newer requests supersede unfinished ones."""
        cards: list[dict[str, Any]] = []
        grid, run = (owner, name), object()
        self._newest[grid] = run

        def is_superseded() -> bool:
            return self._newest.get(grid) is not run

        def update(text: str, total: int) -> tuple[Any, Any]:
            bar = (len(cards), total) if text else None
            return message_html(text, progress=bar), {"cards": list(cards), "total": total, "keys": keys}

        try:
            yield update(QUEUED, len(recipes))
            for take in self.studio.make_each(recipes, owner):
                if is_superseded():
                    return
                cards.append(card(self.studio, take))
                done = len(cards) == len(recipes)
                yield update("" if done else f"{name} {len(cards) + 1} of {len(recipes)} …", len(recipes))
            note = self.studio.note(recipes[0].prompt)
            if note:
                yield message_html(note), gr.skip()
        except (Cancelled, *EXPECTED_ERRORS):
            if is_superseded():
                return
            yield update("", len(cards))  # removes the tiles of sounds that will not come
            raise
        finally:
            if not is_superseded():
                del self._newest[grid]

    @with_messages(num_others=7)
    def pick(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        settings = (recipe.omega, recipe.nu, recipe.gamma, recipe.negative_prompt, recipe.prompt)
        shown = card(self.studio, self.studio.make(recipe, request.session_hash))
        yield (message_html(), {"recipe": recipe.to_json()}, {"a": shown}, *settings)

    @with_messages(num_others=2)
    def upload(self, path: str | None) -> Iterator[Any]:
        if path is None:  # the file was removed from the field
            yield message_html(), gr.skip(), gr.skip()
            return
        upload = self.studio.add_upload(path)
        seconds = self.studio.upload(upload).shape[-1] / self.studio.pipe.sampling_rate
        text = "The uploaded sound is picked. Mark a part to replace, or continue it."
        current = {"digest": upload.digest, "seconds": seconds}
        yield message_html(text), current, {"a": upload_card(self.studio, upload)}

    @with_messages()
    def choose_second(self, event: gr.EventData) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        text = f"The picked sound will turn into: {recipe.prompt}, seed {recipe.noise.seed}."
        yield message_html(text), recipe.to_json()

    @with_messages()
    def keep(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        take = self.studio.make(Recipe.from_json(event.recipe), request.session_hash)
        yield message_html(), card(self.studio, take, with_files=True)

    @with_messages()
    def refine(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        refined = recipe.change(steps=steps, **call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, refined, request.session_hash)

    @with_messages()
    def morph(self, current, second, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        if second is None:
            raise ValueError("Choose the sound to end with first: press ⇢ on another draft.")
        first = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        morphed = edits.morphed(first, Recipe.from_json(second), steps)
        yield from self._compare(recipe, morphed, request.session_hash)

    @with_messages()
    def draw(
        self, current, curve, strength, steps, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        recipe = picked_recipe(current)
        plain = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, edits.drawn(plain, curve, strength, steps), request.session_hash)

    @with_messages()
    def curve_from_file(self, path: str | None) -> Iterator[Any]:
        if path is None:  # the file was removed from the field
            yield message_html(), gr.skip()
            return
        curve = self.studio.loudness(self.studio.upload(self.studio.add_upload(path)))
        yield message_html("The curve is that of the uploaded sound."), [max(db, LOWEST_DRAWN_DB) for db in curve]

    @with_messages()
    def fill(
        self, current, prompt, span, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = self._source(current, request.session_hash)
        spans = [tuple(span)] if span else []
        seed, settings = integer("The seed", seed, 0, MAX_SEED), call_settings(negative_prompt, omega, nu, gamma)
        recipe = edits.filled(source, seconds, prompt, spans, steps, seed, **settings)
        yield from self._compare(source, recipe, request.session_hash)

    @with_messages()
    def extend(
        self, current, prompt, more, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = self._source(current, request.session_hash)
        seed, settings = integer("The seed", seed, 0, MAX_SEED), call_settings(negative_prompt, omega, nu, gamma)
        recipe = edits.continued(source, seconds, prompt, more, steps, seed, **settings)
        yield from self._compare(source, recipe, request.session_hash)

    @with_messages()
    def loop(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        plain = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, edits.looped(plain, steps), request.session_hash)

    def cancel(self, request: gr.Request) -> None:
        """Stop everything that this browser tab has running or waiting."""
        self.studio.cancel(request.session_hash)

    def _source(self, current: dict[str, Any] | None, owner: str) -> tuple[Recipe | Upload, float]:
        """Return the picked sound and its length in seconds."""
        if current and "digest" in current:
            return Upload(current["digest"]), current["seconds"]
        recipe = picked_recipe(current)
        return recipe, self.studio.make(recipe, owner).seconds

    def _compare(self, first: Recipe | Upload, second: Recipe, owner: str) -> Iterator[Any]:
        """Yield progress, then the player's value with the picked sound as A and the new one as B."""
        yield message_html(QUEUED, progress=(0, second.steps)), gr.skip()
        take = None
        for news in steps_then_take(self.studio, second, owner):
            if isinstance(news, Take):
                take = news
            else:
                yield message_html(f"Step {news[0]} of {news[1]}", progress=news), gr.skip()
        value = {"b": card(self.studio, take), "drift": None}
        if isinstance(first, Upload):
            value["a"] = upload_card(self.studio, first)
        else:
            before = self.studio.make(first, owner)
            value["a"] = card(self.studio, before)
            value["drift"] = self.studio.drift(before, take)
            if second.curve:
                value["target"] = list(second.curve)
                value["before"] = self.studio.loudness(before.waveform)
                value["achieved"] = self.studio.loudness(take.waveform)
        yield message_html(), value


def call_settings(negative_prompt: str, omega: float, nu: float, gamma: float) -> dict[str, Any]:
    """Return the values of the controls under Advanced, which apply to every sound that is made."""
    return {"negative_prompt": negative_prompt, "omega": omega, "nu": nu, "gamma": gamma}


def picked_recipe(current: dict[str, Any] | None) -> Recipe:
    """Return the recipe of the picked sound.

    Raises:
        ValueError: Nothing is picked, or the picked sound is an upload.
    """
    if not current:
        raise ValueError("Pick a sound first.")
    if "recipe" not in current:
        raise ValueError("An uploaded sound has no noise to start from; pick a draft for this.")
    return Recipe.from_json(current["recipe"])
