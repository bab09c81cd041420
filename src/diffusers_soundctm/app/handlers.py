"""What happens when somebody uses a control of the page."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from . import edits
from .cards import card, upload_card
from .components import message_html
from .curves import LOWEST_DRAWN_DB, curve_report
from .disk import DiskBudget
from .edits import NUM_DRAFTS
from .export import MAX_SOUNDS, ExportSettings, archive
from .fair_queue import Owner
from .progress import steps_then_take
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload
from .rendering import Cancelled
from .sound_files import read_settings
from .studio import Studio, Take
from .validators import integer, is_list
from .visitors import log_refusal, owner_of, store

WARM_UP_PROMPT = "rain on a tin roof"
# Errors with a message for the person at the screen. All others are faults of the app and reach its log.
EXPECTED_ERRORS = (OSError, RuntimeError, TypeError, ValueError)
SAME_SOUND = 0.05  # largest drift of a file, whose edges are faded, from the sound that it holds
QUEUED = "Waiting in the queue …"


def with_messages(num_others: int = 1) -> Callable:
    """Decorate a generator of updates whose first output is a message, so that errors appear there.

    The generator's last argument is the request.

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
                log_refusal(function.__name__, args[-1], error)
                yield (message_html(str(error), is_error=True), *unchanged)

        return handler

    return decorate


class Handlers:
    """The handlers of the page's controls.

    `current` is the picked sound: {"recipe": ...} for a sound of the app, {"digest": ..., "seconds": ...} for an
    uploaded one.

    Args:
        studio: Makes the sounds.
        disk: Counts the uploaded files.
    """

    def __init__(self, studio: Studio, disk: DiskBudget):
        self.studio, self.disk = studio, disk
        self._newest: dict[tuple[Owner, str], object] = {}

    def warm_up(self) -> None:
        """Make a draft for nobody, so that the first visitor does not wait until all libraries are loaded."""
        recipe = Recipe(WARM_UP_PROMPT, Noise(0), self.studio.default_duration)
        card(self.studio, self.studio.make(recipe))

    @with_messages(num_others=3)
    def draft(
        self, prompt, negative_prompt, omega, nu, gamma, duration, seed, adapter, request: gr.Request
    ) -> Iterator[Any]:
        typed = (seed or "").strip()
        if typed:
            typed = integer("The seed", int(typed) if typed.isdecimal() else typed, 0, MAX_SEED - NUM_DRAFTS)
        settings = call_settings(negative_prompt, omega, nu, gamma)
        settings["lora"] = (adapter,) if adapter else ()
        recipes = edits.draft_recipes(prompt, duration, None if typed == "" else typed, **settings)
        saved, warning = [recipe.to_json() for recipe in recipes], self._warning(recipes[0].prompt, recipes[0].lora)
        for update in self._grid(recipes, owner_of(request), "Draft", keys=True):
            yield (*update, warning, saved)

    @with_messages(num_others=2)
    def restore(self, saved, request: gr.Request) -> Iterator[Any]:
        """Show the drafts of this browser again after a reload."""
        recipes = [Recipe.from_json(recipe) for recipe in saved[:NUM_DRAFTS]] if is_list(saved) else []
        if not recipes:
            yield message_html(), gr.skip(), gr.skip()
            return
        warning = self._warning(recipes[0].prompt, recipes[0].lora)
        for update in self._grid(recipes, owner_of(request), "Draft", keys=True):
            yield (*update, warning)

    def _warning(self, prompt: str, lora: tuple[str, ...] = ()) -> str:
        """Return the message about a prompt that the model does not know. With adapters, it knows more."""
        return message_html("" if lora else self.studio.warning(prompt))

    def known_prompt(self, event: gr.EventData) -> str:
        """Return the prompt that somebody chose from the list of known kinds."""
        return event.prompt

    @with_messages()
    def vary(self, current, amount, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current).change(**call_settings(negative_prompt, omega, nu, gamma))
        recipes = edits.variation_recipes(recipe, amount, edits.random_seed())
        yield from self._grid(recipes, owner_of(request), "Variation", keys=False)

    def _grid(self, recipes: list[Recipe], owner: Owner, name: str, keys: bool) -> Iterator[Any]:
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
        except (Cancelled, *EXPECTED_ERRORS):
            if is_superseded():
                return
            yield update("", len(cards))  # removes the tiles of sounds that will not come
            raise
        finally:
            if not is_superseded():
                del self._newest[grid]

    @with_messages(num_others=9)
    def pick(self, current, fill_prompt, extend_prompt, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        settings = (recipe.omega, recipe.nu, recipe.gamma, recipe.negative_prompt)
        before = (current or {}).get("recipe", {}).get("prompt", "")
        # The prompts of fill and continue follow the picked sound until somebody writes their own.
        prompts = [recipe.prompt if one in (None, "", before) else gr.skip() for one in (fill_prompt, extend_prompt)]
        take = self.studio.make(recipe, owner_of(request))
        current = {"recipe": recipe.to_json()}
        yield (
            message_html(),
            current,
            {"a": card(self.studio, take)},
            *settings,
            *prompts,
            self._extend_to(take.seconds),
        )

    @with_messages(num_others=3)
    def upload(self, path: str | None, request: gr.Request) -> Iterator[Any]:
        if path is None:  # the file was removed from the field
            yield message_html(), gr.skip(), gr.skip(), gr.skip()
            return
        upload = self._read(path, request)
        recipe, text = self._recognize(path, upload, owner_of(request))
        if recipe is not None:
            take = self.studio.make(recipe, owner_of(request))
            current = {"recipe": recipe.to_json()}
            yield message_html(text), current, {"a": card(self.studio, take)}, self._extend_to(take.seconds)
            return
        seconds = self.studio.upload(upload).shape[-1] / self.studio.pipe.sampling_rate
        current = {"digest": upload.digest, "seconds": seconds}
        yield message_html(text), current, {"a": upload_card(self.studio, upload)}, self._extend_to(seconds)

    def _recognize(self, path: str, upload: Upload, owner: Owner) -> tuple[Recipe | None, str]:
        """Return the recipe of an uploaded file if the model in use makes that sound from it, and what to say."""
        text = "The uploaded sound is picked. Mark a part to replace, or continue it."
        named = read_settings(path)
        if named is None:
            return None, text
        model, recipe = named
        if model != self.studio.model:
            return None, f"{text} It was made with the model {model!r}, which is not loaded here."
        uploaded = Take(recipe, self.studio.upload(upload), self.studio.pipe.sampling_rate)
        made = self.studio.make(recipe, owner)
        drift = self.studio.drift(made, uploaded)
        if drift is None or drift > SAME_SOUND or abs(made.seconds - uploaded.seconds) > 0.01:
            return None, f"{text} It was changed since it was made."
        return recipe, f"The uploaded sound was made here: {recipe.prompt}. It is picked and goes on from its recipe."

    def _extend_to(self, seconds: float) -> Any:
        """Return the update of the slider for the length that a sound is extended to."""
        longest = min(DURATION[1], self.studio.pipe.max_audio_length_in_s)
        return gr.update(minimum=round(seconds, 1), maximum=longest, value=min(round(seconds + 2, 1), longest))

    @with_messages()
    def choose_second(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        recipe = Recipe.from_json(event.recipe)
        text = f"The picked sound will turn into: {recipe.prompt}, seed {recipe.noise.seed}."
        yield message_html(text), recipe.to_json()

    @with_messages()
    def keep(self, event: gr.EventData, request: gr.Request) -> Iterator[Any]:
        take = self.studio.make(Recipe.from_json(event.recipe), owner_of(request))
        yield message_html(), card(self.studio, take, with_files=True)

    @with_messages()
    def export(
        self,
        extension,
        bits,
        sampling_rate,
        channels,
        level,
        loudness,
        pattern,
        folders,
        event: gr.EventData,
        request: gr.Request,
    ) -> Iterator[Any]:
        settings = ExportSettings(extension, bits, sampling_rate, channels, level, loudness, pattern, folders)
        owner, kept = owner_of(request), event.sounds[:MAX_SOUNDS]
        takes, missing = [], []
        for i, sound in enumerate(kept):
            yield message_html(f"Sound {i + 1} of {len(kept)} …", progress=(i, len(kept))), gr.skip()
            try:
                takes.append((self.studio.make(Recipe.from_json(sound["recipe"]), owner), _date(sound["kept"])))
            except ValueError as error:  # such as an upload that is no longer there
                missing.append(str(error))
        path = store(self.disk, archive(self.studio, takes, settings), "soundctm.zip", owner)
        text = f"{len(missing)} of {len(kept)} sounds are missing: {missing[0]}" if missing else ""
        yield message_html(text, is_error=bool(missing)), {"download": f"gradio_api/file={path}"}

    @with_messages()
    def refine(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        refined = recipe.change(steps=steps, **call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, refined, owner_of(request))

    @with_messages()
    def morph(self, current, second, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        if second is None:
            raise ValueError("Choose the sound to end with first: press ⇢ on another draft.")
        first = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        morphed = edits.morphed(first, Recipe.from_json(second), steps)
        yield from self._compare(recipe, morphed, owner_of(request))

    @with_messages()
    def draw(
        self, current, curve, strength, steps, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        recipe = picked_recipe(current)
        plain = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, edits.drawn(plain, curve, strength, steps), owner_of(request))

    @with_messages()
    def curve_from_file(self, path: str | None, request: gr.Request) -> Iterator[Any]:
        if path is None:  # the file was removed from the field
            yield message_html(), gr.skip()
            return
        curve = self.studio.loudness(self.studio.upload(self._read(path, request)))
        yield message_html("The curve is that of the uploaded sound."), [max(db, LOWEST_DRAWN_DB) for db in curve]

    @with_messages()
    def fill(
        self, current, prompt, span, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = self._source(current, owner_of(request))
        spans = [tuple(span)] if span else []
        seed, settings = integer("The seed", seed, 0, MAX_SEED), call_settings(negative_prompt, omega, nu, gamma)
        recipe = edits.filled(source, seconds, prompt, spans, steps, seed, **settings)
        yield from self._compare(source, recipe, owner_of(request))

    @with_messages()
    def extend(
        self, current, prompt, to, steps, seed, negative_prompt, omega, nu, gamma, request: gr.Request
    ) -> Iterator[Any]:
        source, seconds = self._source(current, owner_of(request))
        seed, settings = integer("The seed", seed, 0, MAX_SEED), call_settings(negative_prompt, omega, nu, gamma)
        recipe = edits.extended(source, seconds, prompt, to, steps, seed, **settings)
        yield from self._compare(source, recipe, owner_of(request))

    @with_messages()
    def loop(self, current, steps, negative_prompt, omega, nu, gamma, request: gr.Request) -> Iterator[Any]:
        recipe = picked_recipe(current)
        plain = recipe.change(**call_settings(negative_prompt, omega, nu, gamma))
        yield from self._compare(recipe, edits.looped(plain, steps), owner_of(request))

    def cancel(self, request: gr.Request) -> None:
        """Stop everything that this browser tab has running or waiting."""
        self.studio.cancel(request.session_hash)

    def _read(self, path: str, request: gr.Request) -> Upload:
        """Read an uploaded file, and count its bytes."""
        self.disk.add(Path(path), owner_of(request).client)
        return self.studio.add_upload(path)

    def _source(self, current: dict[str, Any] | None, owner: Owner) -> tuple[Recipe | Upload, float]:
        """Return the picked sound and its length in seconds."""
        if current and "digest" in current:
            return Upload(current["digest"]), current["seconds"]
        recipe = picked_recipe(current)
        return recipe, self.studio.make(recipe, owner).seconds

    def _compare(self, first: Recipe | Upload, second: Recipe, owner: Owner) -> Iterator[Any]:
        """Yield progress, then the player's value with the picked sound as A and the new one as B."""
        yield message_html(QUEUED, progress=(0, second.steps)), gr.skip()
        take = None
        for news in steps_then_take(self.studio, second, owner):
            if isinstance(news, Take):
                take = news
            else:
                yield message_html(f"Step {news[0]} of {news[1]}", progress=news), gr.skip()
        value, text = {"b": card(self.studio, take), "drift": None}, ""
        if second.source is not None:  # the new part has a prompt of its own
            text = self.studio.warning(second.prompt)
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
                text = curve_report(self.studio.curve_error(take), take.turned_down_db)
        yield message_html(text), value


def _date(text: Any) -> datetime:
    """Return the time at which a sound was kept, in the browser's time zone."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S")
    except (TypeError, ValueError) as error:
        raise ValueError(f"The date of a kept sound is {text!r}; reload the page.") from error


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
