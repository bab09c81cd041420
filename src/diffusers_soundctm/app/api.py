"""The HTTP API for `gradio_client` and curl, and the tools of the MCP server. Recipes travel as JSON.

The docstrings of the endpoints are shown to people and agents. Gradio reads one line for each argument.
"""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from . import edits
from .defaults import FINAL_STEPS, STEERED_STEPS
from .disk import DiskBudget
from .export import MAX_SOUNDS, archive, settings_from
from .handlers import EXPECTED_ERRORS
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload
from .sound_files import encode, file_name, read_settings
from .studio import Studio, Take
from .validators import integer, is_list, number
from .visitors import log_refusal, owner_of, store

RANDOM_SEED = -1
WITHOUT_QUEUE = ("code", "metadata")


def json_field(value: Any = None, *, label: str) -> gr.JSON:
    """Return gradio's field for JSON with a valid schema; with its own, agents could not call tools that take JSON."""
    field = gr.JSON(value, label=label)
    field.api_info = lambda: {"description": "any valid json"}
    return field


def add_endpoints(studio: Studio, disk: DiskBudget) -> None:
    """Add the endpoints to the `gr.Blocks` that is being built. The docstring of each one is its documentation."""
    endpoints = Endpoints(studio, disk)
    with gr.Column(visible=False):
        recipe, other = json_field(label="recipe"), json_field(label="second_recipe")
        warning, known = gr.Textbox(label="warning"), json_field(label="kinds")
        made, drift = json_field(label="recipe"), gr.Number(label="drift")
        sound, upload, file = gr.File(label="sound"), gr.File(label="file"), gr.File(label="sound")
        prompt, code = gr.Textbox(label="prompt"), gr.Code(label="code")
        options, recipes = json_field({}, label="settings"), json_field(label="recipes")
        loudness, metadata = json_field(label="loudness"), json_field(label="metadata")
        curve, spans = json_field(label="curve"), json_field(label="spans")
        # No ranges and no rounding here: recipes check the values, with messages that say what to do.
        seed = gr.Number(RANDOM_SEED, label="seed")
        draft_steps, final_steps = gr.Number(1, label="steps"), gr.Number(FINAL_STEPS, label="steps")
        steps = gr.Number(STEERED_STEPS, label="steps")
        duration = gr.Number(round(studio.default_duration, 3), label="duration")
        negative_prompt = gr.Textbox("", label="negative_prompt")
        omega, nu, gamma = gr.Number(3.5, label="omega"), gr.Number(1, label="nu"), gr.Number(0, label="gamma")
        amount, strength = gr.Number(0.3, label="amount"), gr.Number(Recipe.strength, label="strength")
        more, extension = gr.Number(2, label="more"), gr.Textbox(".wav", label="extension")
        table = {
            "draft": ([prompt, seed, draft_steps, duration, negative_prompt, omega, nu, gamma], [sound, made, warning]),
            "refine": ([recipe, final_steps], [sound, made, drift]),
            "vary": ([recipe, amount, seed], [sound, made]),
            "morph": ([recipe, other, final_steps], [sound, made]),
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
        """Make a sound effect or a short musical sound from a prompt, such as "rain on a tin roof".

        The same seed gives the same sound. Begin with one step, try several seeds, then pass the best recipe to refine.

        Args:
            prompt: One kind of sound in a few English words, at most 300 characters; known_kinds lists the kinds.
            seed: Seed of the noise, 0 or more; -1 draws a random one.
            steps: Sampling steps, 1 to 32; 1 for a draft, 4 for a good final.
            duration: Length in seconds, 0.5 to 30.
            negative_prompt: What to avoid; it needs nu other than 1.
            omega: How closely the sound follows the prompt, 0 to 20.
            nu: Weight against the negative prompt, -5 to 10; 1 ignores it.
            gamma: Randomness of the steps, 0 to 1; with 0, more steps refine the same sound.

        Returns:
            a WAV file, the recipe that other calls accept, and a warning that is empty if the model knows the prompt
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
        """Make the same sound again in more steps, with fewer artifacts.

        Args:
            recipe: The recipe that another call returned.
            steps: Sampling steps, 1 to 32; 4 are a good final.

        Returns:
            a WAV file, its recipe, and how much the sound changed: 0 equal, about 1 unrelated
        """
        first = Recipe.from_json(recipe)
        refined = first.change(steps=steps)
        path, made = self._make(refined, request)
        takes = (self.studio.make(one, owner_of(request)) for one in (first, refined))
        return path, made, self.studio.drift(*takes)

    def vary(self, recipe: Any, amount: float, seed: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make a sound that is similar to another one.

        Args:
            recipe: The recipe that another call returned.
            amount: Distance from the sound: 0 equal, 1 unrelated.
            seed: Direction of the change; -1 draws a random one.

        Returns:
            a WAV file and its recipe
        """
        (varied,) = edits.variation_recipes(Recipe.from_json(recipe), amount, _seed(seed), count=1)
        return self._make(varied, request)

    def morph(self, recipe: Any, second_recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make a sound that begins as one sound and ends as another.

        Args:
            recipe: The recipe of the sound that it begins as.
            second_recipe: The recipe of the sound that it ends as.
            steps: Sampling steps, 1 to 32; 4 are a good final.

        Returns:
            a WAV file and its recipe
        """
        morphed = edits.morphed(Recipe.from_json(recipe), Recipe.from_json(second_recipe), steps)
        return self._make(morphed, request)

    def draw(
        self, recipe: Any, curve: Any, strength: float, steps: int, request: gr.Request
    ) -> tuple[str, dict[str, Any], dict[str, float]]:
        """Make a sound again so that its loudness follows a curve.

        Args:
            recipe: The recipe that another call returned.
            curve: A list of 2 to 128 values in dB, -100 to 0, evenly spaced in time, such as [-50, -20, -50].
            strength: How closely the sound follows the curve, 0.05 to 4.
            steps: Sampling steps, 1 to 32; 8 are a good final.

        Returns:
            a WAV file, its recipe, and error_db (mean distance from the curve) and turned_down_db (to full scale)
        """
        drawn = edits.drawn(Recipe.from_json(recipe), curve, strength, steps)
        path, made = self._make(drawn, request)
        take = self.studio.make(drawn, owner_of(request))
        return path, made, {"error_db": self.studio.curve_error(take), "turned_down_db": take.turned_down_db}

    def upload(self, file: str, request: gr.Request) -> dict[str, Any]:
        """Upload a recording for inpaint and continue_sound.

        Args:
            file: WAV, FLAC, OGG or MP3 file, 0.5 to 30 s, at most 20 MB.

        Returns:
            the digest of the recording, which stands for it in other calls
        """
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
        """Replace parts of a sound by new ones.

        Args:
            recipe: The recipe that another call returned, or the digest that upload returned.
            prompt: Description of the new parts.
            spans: A list of pairs of start and end in seconds, such as [[1.0, 2.0]].
            steps: Sampling steps, 1 to 32; 8 are a good final.
            seed: Seed of the new part; -1 draws a random one.

        Returns:
            a WAV file, its recipe, and a warning that is empty if the model knows the prompt
        """
        source, seconds = self._source(recipe, request)
        return self._make_new(edits.filled(source, seconds, prompt, spans, steps, _seed(seed)), request)

    def continue_sound(
        self, recipe: Any, prompt: str, more: float, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any], str]:
        """Make a sound longer by a new part at its end.

        Args:
            recipe: The recipe that another call returned, or the digest that upload returned.
            prompt: Description of what follows.
            more: Seconds to add; the whole may last 30 s.
            steps: Sampling steps, 1 to 32; 8 are a good final.
            seed: Seed of the new part; -1 draws a random one.

        Returns:
            a WAV file, its recipe, and a warning that is empty if the model knows the prompt
        """
        source, seconds = self._source(recipe, request)
        more = number("more", more, 0.1, DURATION[1])
        return self._make_new(edits.continued(source, seconds, prompt, more, steps, _seed(seed)), request)

    def loop(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make a sound again so that its end runs seamlessly into its start.

        Args:
            recipe: The recipe that another call returned.
            steps: Sampling steps, 1 to 32; 8 are a good final.

        Returns:
            a WAV file without fades and its recipe
        """
        return self._make(edits.looped(Recipe.from_json(recipe), steps), request)

    def export(self, recipe: Any, extension: str, settings: Any, request: gr.Request) -> str:
        """Write a sound to a file for a game engine or an editor, with its recipe in the metadata.

        The settings are an object with any of "bits" (16 or 24), "sampling_rate" (16000, 44100 or 48000), "channels" (1
        or 2), "level" ("as made", "loudness" or "peak"), "loudness" (LUFS) and "pattern" (such as
        "{prompt}_{seed}_{n}"). WAV files of loops have loop points.

        Args:
            recipe: The recipe that another call returned.
            extension: .wav or .flac.
            settings: An object with the settings, such as {"bits": 24}.

        Returns:
            the file
        """
        settings = settings_from({"extension": extension, **_object(settings)})
        take = self.studio.make(Recipe.from_json(recipe), owner_of(request))
        content, _ = settings.write(self.studio, take)
        name = Path(settings.name(take, 1)).name
        return str(store(self.disk, content, f"{name}{extension}", owner_of(request)))

    def export_all(self, recipes: Any, settings: Any, request: gr.Request) -> str:
        """Write several sounds to a zip archive with manifest.json and manifest.csv.

        The settings are those of export, "extension" (".wav" or ".flac") and "folders" (true for a folder per kind).

        Args:
            recipes: A list of at most 200 recipes.
            settings: An object with the settings, such as {"folders": true}.

        Returns:
            the archive
        """
        settings, owner = settings_from(_object(settings)), owner_of(request)
        now = datetime.now().replace(microsecond=0)
        if not is_list(recipes) or len(recipes) > MAX_SOUNDS:
            raise ValueError(f"The recipes must be a list of at most {MAX_SOUNDS}.")
        takes = self.studio.make_each([Recipe.from_json(recipe) for recipe in recipes], owner)
        content = archive(self.studio, [(take, now) for take in takes], settings)
        return str(store(self.disk, content, "soundctm.zip", owner))

    def code(self, recipe: Any, request: gr.Request) -> str:
        """Write a Python script that makes a sound again with this library, sample for sample.

        Args:
            recipe: The recipe that another call returned.

        Returns:
            the script
        """
        return self.studio.code(Recipe.from_json(recipe))

    def metadata(self, file: str, request: gr.Request) -> dict[str, Any]:
        """Read how a sound file of this app or of its command line was made.

        No other model is loaded: with another one, the recipe makes another sound.

        Args:
            file: A file that this app or its command line wrote.

        Returns:
            its model, whether that model is in use here, and its recipe
        """
        self._count(file, request)
        named = read_settings(file)
        if named is None:
            raise ValueError("The file names no recipe; use one that this app or soundctm generate wrote.")
        model, recipe = named
        return {"model": model, "is_in_use": model == self.studio.model, "recipe": recipe.to_json()}

    def known_kinds(self, request: gr.Request) -> dict[str, list[str]]:
        """List the kinds of sounds that the model knows, each with prompts that make it.

        Returns:
            prompts by kind; empty for models that know any prompt
        """
        return self.studio.known_kinds


def _object(settings: Any) -> dict[str, Any]:
    if not isinstance(settings, dict | None):
        raise ValueError("The settings of the export must be an object, such as {}.")
    return settings or {}


def _seed(seed: Any) -> int:
    return edits.random_seed() if seed == RANDOM_SEED else integer("The seed", seed, 0, MAX_SEED)
