"""The HTTP API for `gradio_client` and curl. Recipes travel as JSON."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from . import edits
from .curves import curve_error
from .disk import DiskBudget
from .export import MAX_SOUNDS, archive, settings_from
from .handlers import EXPECTED_ERRORS
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload
from .sound_files import encode, file_name, read_settings
from .studio import Studio, Take
from .validators import integer, is_list, number
from .visitors import log_refusal, owner_of, store

RANDOM_SEED = -1
WITHOUT_QUEUE = ("code", "metadata", "known_kinds")


def add_endpoints(studio: Studio, disk: DiskBudget) -> None:
    """Add the endpoints to the `gr.Blocks` that is being built. The docstring of each one is its documentation."""
    endpoints = Endpoints(studio, disk)
    with gr.Column(visible=False):
        recipe, other = gr.JSON(label="recipe"), gr.JSON(label="second_recipe")
        warning, known = gr.Textbox(label="warning"), gr.JSON(label="kinds")
        made, drift = gr.JSON(label="recipe"), gr.Number(label="drift")
        sound, upload, file = gr.File(label="sound"), gr.File(label="file"), gr.File(label="sound")
        prompt, code = gr.Textbox(label="prompt"), gr.Code(label="code")
        options, recipes = gr.JSON({}, label="settings"), gr.JSON(label="recipes")
        loudness, metadata = gr.JSON(label="loudness"), gr.JSON(label="metadata")
        curve, spans = gr.JSON(label="curve"), gr.JSON(label="spans")
        # No ranges and no rounding here: recipes check the values, with messages that say what to do.
        seed = gr.Number(RANDOM_SEED, label="seed")
        draft_steps, steps = gr.Number(1, label="steps"), gr.Number(8, label="steps")
        duration = gr.Number(round(studio.default_duration, 3), label="duration")
        negative_prompt = gr.Textbox("", label="negative_prompt")
        omega, nu, gamma = gr.Number(3.5, label="omega"), gr.Number(1, label="nu"), gr.Number(0, label="gamma")
        amount, strength = gr.Number(0.3, label="amount"), gr.Number(Recipe.strength, label="strength")
        more, extension = gr.Number(2, label="more"), gr.Textbox(".wav", label="extension")
        table = {
            "draft": ([prompt, seed, draft_steps, duration, negative_prompt, omega, nu, gamma], [sound, made, warning]),
            "refine": ([recipe, steps], [sound, made, drift]),
            "vary": ([recipe, amount, seed], [sound, made]),
            "morph": ([recipe, other, steps], [sound, made]),
            "draw": ([recipe, curve, strength, steps], [sound, made, loudness]),
            "upload": ([upload], [made]),
            "inpaint": ([recipe, prompt, spans, steps, seed], [sound, made, warning]),
            "continue_sound": ([recipe, prompt, more, steps, seed], [sound, made, warning]),
            "loop": ([recipe, steps], [sound, made]),
            "export": ([recipe, extension, options], [file]),
            "export_all": ([recipes, options], [file]),
            "code": ([recipe], [code]),
            "metadata": ([upload], [metadata]),
            "known_kinds": ([], [known]),
        }
        for name, (inputs, outputs) in table.items():
            endpoint = with_error_messages(getattr(endpoints, name))
            # The studio has its own queue. What makes no sound does not wait at all.
            queue = name not in WITHOUT_QUEUE
            gr.Button(name).click(endpoint, inputs, outputs, api_name=name, concurrency_limit=None, queue=queue)


def with_error_messages(function: Callable) -> Callable:
    """Decorate an endpoint so that clients receive the messages of its expected errors, and the log one line.

    The endpoint's last argument is the request.
    """

    @wraps(function)
    def endpoint(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EXPECTED_ERRORS as error:
            log_refusal(f"/{function.__name__}", args[-1], error)
            raise gr.Error(str(error), print_exception=False) from error

    return endpoint


class Endpoints:
    """The endpoints, one method per endpoint. Their docstrings are shown to users of the API."""

    def __init__(self, studio: Studio, disk: DiskBudget):
        self.studio, self.disk = studio, disk

    def _make(self, recipe: Recipe, request: gr.Request) -> tuple[str, dict[str, Any]]:
        take = self.studio.make(recipe, owner_of(request))
        return self._write(take, request), recipe.to_json()

    def _make_new(self, recipe: Recipe, request: gr.Request) -> tuple[str, dict[str, Any], str]:
        """Make a sound whose prompt is new, and warn about a prompt that the model does not know."""
        return *self._make(recipe, request), self.studio.warning(recipe.prompt)

    def _write(self, take: Take, request: gr.Request) -> str:
        content = encode(self.studio, take, ".wav")
        return str(store(self.disk, content, f"{file_name(take)}.wav", owner_of(request)))

    def draft(
        self,
        prompt: str,
        seed: int,
        steps: int,
        duration: float,
        negative_prompt: str,
        omega: float,
        nu: float,
        gamma: float,
        request: gr.Request,
    ) -> tuple[str, dict[str, Any], str]:
        """Make a sound from a prompt. Returns a WAV file and the recipe that the other endpoints accept.

        Also returns a warning with the nearest kinds if the model does not know the prompt, otherwise "".

        seed: −1 for a random one. steps: 1 to 32. duration: 0.5 to 30 seconds. omega: prompt strength, 0 to 20.
        nu: negative strength, −5 to 10; 1 is off. gamma: randomness, 0 to 1.
        """
        recipe = Recipe(
            prompt,
            Noise(_seed(seed)),
            duration,
            negative_prompt=negative_prompt,
            steps=steps,
            omega=omega,
            nu=nu,
            gamma=gamma,
        )
        return self._make_new(recipe, request)

    def refine(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any], float | None]:
        """Make the same sound in more steps. Also returns how much it changed: 0 equal, about 1 unrelated."""
        first = Recipe.from_json(recipe)
        refined = first.change(steps=steps)
        path, made = self._make(refined, request)
        takes = (self.studio.make(one, owner_of(request)) for one in (first, refined))
        return path, made, self.studio.drift(*takes)

    def vary(self, recipe: Any, amount: float, seed: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make a variation of a sound. amount: 0 equal to 1 unrelated. seed: −1 for a random direction."""
        (varied,) = edits.variation_recipes(Recipe.from_json(recipe), amount, _seed(seed), count=1)
        return self._make(varied, request)

    def morph(self, recipe: Any, second_recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make a sound that begins as the first recipe's and ends as the second recipe's."""
        morphed = edits.morphed(Recipe.from_json(recipe), Recipe.from_json(second_recipe), steps)
        return self._make(morphed, request)

    def draw(
        self, recipe: Any, curve: Any, strength: float, steps: int, request: gr.Request
    ) -> tuple[str, dict[str, Any], dict[str, float]]:
        """Make the sound follow a loudness curve. curve: 2 to 128 values in dB, −100 to 0, evenly spaced in time.

        Also returns the mean distance from the curve (error_db), and by how many dB the sound was turned down because
        its peaks exceeded full scale (turned_down_db).
        """
        drawn = edits.drawn(Recipe.from_json(recipe), curve, strength, steps)
        path, made = self._make(drawn, request)
        take = self.studio.make(drawn, owner_of(request))
        error_db = round(curve_error(drawn.curve, self.studio.loudness(take.waveform)), 1)
        return path, made, {"error_db": error_db, "turned_down_db": take.turned_down_db}

    def upload(self, file: str, request: gr.Request) -> dict[str, Any]:
        """Upload a sound file for inpaint and continue_sound: WAV, FLAC, OGG or MP3, 0.5 to 30 s, at most 20 MB."""
        self._count(file, request)
        return {"digest": self.studio.add_upload(file).digest}

    def _count(self, file: Any, request: gr.Request) -> None:
        if not isinstance(file, str):
            raise ValueError("There is no file; choose a WAV, FLAC, OGG or MP3 file.")
        self.disk.add(Path(file), owner_of(request).client)

    def _source(self, source: Any, request: gr.Request) -> tuple[Recipe | Upload, float]:
        """Return a recipe or an upload, and its length in seconds."""
        if isinstance(source, dict) and set(source) == {"digest"}:
            upload = Upload(source["digest"])
            return upload, self.studio.upload(upload).shape[-1] / self.studio.pipe.sampling_rate
        recipe = Recipe.from_json(source)
        return recipe, self.studio.make(recipe, owner_of(request)).seconds

    def inpaint(
        self, recipe: Any, prompt: str, spans: Any, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any], str]:
        """Replace parts of a sound. spans: start and end in seconds, such as [[1.0, 2.0]]. recipe: or an upload."""
        source, seconds = self._source(recipe, request)
        return self._make_new(edits.filled(source, seconds, prompt, spans, steps, _seed(seed)), request)

    def continue_sound(
        self, recipe: Any, prompt: str, more: float, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any], str]:
        """Make a sound longer. more: seconds to add. recipe: or an upload."""
        source, seconds = self._source(recipe, request)
        more = number("more", more, 0.1, DURATION[1])
        return self._make_new(edits.continued(source, seconds, prompt, more, steps, _seed(seed)), request)

    def loop(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make the sound loop: its end runs seamlessly into its start."""
        return self._make(edits.looped(Recipe.from_json(recipe), steps), request)

    def export(self, recipe: Any, extension: str, settings: Any, request: gr.Request) -> str:
        """Return the sound as a file with its recipe in the metadata. extension: .wav or .flac.

        settings: {"bits": 16 or 24, "sampling_rate": 16000, 44100 or 48000, "channels": 1 or 2, "level": "as made",
        "loudness" or "peak", "loudness": LUFS, "pattern": "{prompt}_{seed}_{n}"}, each optional. The WAV file of a loop
        has loop points.
        """
        settings = settings_from({"extension": extension, **_object(settings)})
        take = self.studio.make(Recipe.from_json(recipe), owner_of(request))
        content, _ = settings.write(self.studio, take)
        name = Path(settings.name(take, 1)).name
        return str(store(self.disk, content, f"{name}{extension}", owner_of(request)))

    def export_all(self, recipes: Any, settings: Any, request: gr.Request) -> str:
        """Return a zip archive of several sounds, with manifest.json and manifest.csv.

        recipes: at most 200. settings: those of export, and {"extension": ".wav" or ".flac", "folders": true for a
        folder per kind of sound}, each optional.
        """
        settings, owner = settings_from(_object(settings)), owner_of(request)
        now = datetime.now().replace(microsecond=0)
        if not is_list(recipes) or len(recipes) > MAX_SOUNDS:
            raise ValueError(f"The recipes must be a list of at most {MAX_SOUNDS}.")
        takes = self.studio.make_each([Recipe.from_json(recipe) for recipe in recipes], owner)
        content = archive(self.studio, [(take, now) for take in takes], settings)
        return str(store(self.disk, content, "soundctm.zip", owner))

    def code(self, recipe: Any, request: gr.Request) -> str:
        """Return a Python script that makes the sound again with the library, sample for sample."""
        return self.studio.code(Recipe.from_json(recipe))

    def metadata(self, file: str, request: gr.Request) -> dict[str, Any]:
        """Return the recipe and the model that a sound file names, and whether the app runs that model.

        No other model is loaded: with another one, the recipe makes another sound.
        """
        self._count(file, request)
        named = read_settings(file)
        if named is None:
            raise ValueError("The file names no recipe; use one that this app or soundctm generate wrote.")
        model, recipe = named
        return {"model": model, "is_in_use": model == self.studio.model, "recipe": recipe.to_json()}

    def known_kinds(self, request: gr.Request) -> dict[str, list[str]]:
        """Return the kinds of sounds that the model knows, each with prompts. Empty for models that know any prompt."""
        return self.studio.known_kinds


def _object(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict | None):
        raise ValueError("The settings of the export must be an object, such as {}.")
    return settings or {}


def _seed(seed: Any) -> int:
    return edits.random_seed() if seed == RANDOM_SEED else integer("The seed", seed, 0, MAX_SEED)
