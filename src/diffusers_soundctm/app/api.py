"""The HTTP API for `gradio_client` and curl. Recipes travel as JSON."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder

from .. import files
from . import edits
from .handlers import EXPECTED_ERRORS
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload
from .sound_files import encode, file_name
from .studio import Studio, Take
from .validators import integer, number

RANDOM_SEED = -1


def add_endpoints(studio: Studio) -> None:
    """Add the endpoints to the `gr.Blocks` that is being built. The docstring of each one is its documentation."""
    endpoints = Endpoints(studio)
    with gr.Column(visible=False):
        recipe, other = gr.JSON(label="recipe"), gr.JSON(label="second_recipe")
        made, drift = gr.JSON(label="recipe"), gr.Number(label="drift")
        sound, upload, file = gr.File(label="sound"), gr.File(label="file"), gr.File(label="sound")
        prompt, code = gr.Textbox(label="prompt"), gr.Code(label="code")
        curve, spans = gr.JSON(label="curve"), gr.JSON(label="spans")
        # No ranges here: recipes check them, with messages that say what to do.
        seed = gr.Number(RANDOM_SEED, label="seed", precision=0)
        draft_steps = gr.Number(1, label="steps", precision=0)
        steps = gr.Number(8, label="steps", precision=0)
        duration = gr.Number(round(studio.default_duration, 3), label="duration")
        negative_prompt = gr.Textbox("", label="negative_prompt")
        omega, nu, gamma = gr.Number(3.5, label="omega"), gr.Number(1, label="nu"), gr.Number(0, label="gamma")
        amount, strength = gr.Number(0.3, label="amount"), gr.Number(Recipe.strength, label="strength")
        more, extension = gr.Number(2, label="more"), gr.Textbox(".wav", label="extension")
        table = {
            "draft": ([prompt, seed, draft_steps, duration, negative_prompt, omega, nu, gamma], [sound, made]),
            "refine": ([recipe, steps], [sound, made, drift]),
            "vary": ([recipe, amount, seed], [sound, made]),
            "morph": ([recipe, other, steps], [sound, made]),
            "draw": ([recipe, curve, strength, steps], [sound, made]),
            "upload": ([upload], [made]),
            "inpaint": ([recipe, prompt, spans, steps, seed], [sound, made]),
            "continue_sound": ([recipe, prompt, more, steps, seed], [sound, made]),
            "loop": ([recipe, steps], [sound, made]),
            "export": ([recipe, extension], [file]),
            "code": ([recipe], [code]),
        }
        for name, (inputs, outputs) in table.items():
            endpoint = with_error_messages(getattr(endpoints, name))
            gr.Button(name).click(endpoint, inputs, outputs, api_name=name, concurrency_limit=None)


def with_error_messages(function: Callable) -> Callable:
    """Decorate an endpoint so that clients receive the messages of its expected errors."""

    @wraps(function)
    def endpoint(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EXPECTED_ERRORS as error:
            raise gr.Error(str(error)) from error

    return endpoint


class Endpoints:
    """The endpoints, one method per endpoint. Their docstrings are shown to users of the API."""

    def __init__(self, studio: Studio):
        self.studio = studio

    def _make(self, recipe: Recipe, request: gr.Request) -> tuple[str, dict[str, Any]]:
        take = self.studio.make(recipe, request.session_hash)
        return self._write(take), recipe.to_json()

    def _write(self, take: Take, extension: str = ".wav") -> str:
        content = encode(self.studio, take, extension)
        path = Path(get_upload_folder()) / hash_bytes(content) / f"{file_name(take)}{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Gradio's own `save_bytes_to_cache` writes in place, but somebody may be downloading the same file.
        with files.atomic(path) as temporary:
            temporary.write_bytes(content)
        return str(path.resolve())

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
    ) -> tuple[str, dict[str, Any]]:
        """Make a sound from a prompt. Returns a WAV file and the recipe that the other endpoints accept.

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
        return self._make(recipe, request)

    def refine(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any], float | None]:
        """Make the same sound in more steps. Also returns how much it changed: 0 equal, about 1 unrelated."""
        first = Recipe.from_json(recipe)
        refined = first.change(steps=steps)
        path, made = self._make(refined, request)
        takes = (self.studio.make(one, request.session_hash) for one in (first, refined))
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
    ) -> tuple[str, dict[str, Any]]:
        """Make the sound follow a loudness curve. curve: 2 to 128 values in dB, −100 to 0, evenly spaced in time."""
        return self._make(edits.drawn(Recipe.from_json(recipe), curve, strength, steps), request)

    def upload(self, file: str) -> dict[str, Any]:
        """Upload a sound file for inpaint and continue_sound: WAV, FLAC, OGG or MP3, 0.5 to 30 s, at most 20 MB."""
        return {"digest": self.studio.add_upload(file).digest}

    def _source(self, source: Any, request: gr.Request) -> tuple[Recipe | Upload, float]:
        """Return a recipe or an upload, and its length in seconds."""
        if isinstance(source, dict) and set(source) == {"digest"}:
            upload = Upload(source["digest"])
            return upload, self.studio.upload(upload).shape[-1] / self.studio.pipe.sampling_rate
        recipe = Recipe.from_json(source)
        return recipe, self.studio.make(recipe, request.session_hash).seconds

    def inpaint(
        self, recipe: Any, prompt: str, spans: Any, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """Replace parts of a sound. spans: start and end in seconds, such as [[1.0, 2.0]]. recipe: or an upload."""
        source, seconds = self._source(recipe, request)
        return self._make(edits.filled(source, seconds, prompt, spans, steps, _seed(seed)), request)

    def continue_sound(
        self, recipe: Any, prompt: str, more: float, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """Make a sound longer. more: seconds to add. recipe: or an upload."""
        source, seconds = self._source(recipe, request)
        more = number("more", more, 0.1, DURATION[1])
        return self._make(edits.continued(source, seconds, prompt, more, steps, _seed(seed)), request)

    def loop(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """Make the sound loop: its end runs seamlessly into its start."""
        return self._make(edits.looped(Recipe.from_json(recipe), steps), request)

    def export(self, recipe: Any, extension: str, request: gr.Request) -> str:
        """Return the sound as a file with its settings in the metadata. extension: .wav or .flac."""
        if extension not in (".wav", ".flac"):
            raise ValueError(f"extension is {extension!r}; choose .wav or .flac.")
        return self._write(self.studio.make(Recipe.from_json(recipe), request.session_hash), extension)

    def code(self, recipe: Any) -> str:
        """Return a Python script that makes the sound again with the library, sample for sample."""
        return self.studio.code(Recipe.from_json(recipe))


def _seed(seed: Any) -> int:
    return edits.random_seed() if seed == RANDOM_SEED else integer("The seed", seed, 0, MAX_SEED)
