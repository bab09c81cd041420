"""The HTTP API: what `gradio_client` and curl can ask for. Recipes go out and come in as JSON."""

import secrets
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import hash_bytes
from gradio.utils import get_upload_folder

from . import studio as work
from .recipe import DURATION, MAX_SEED, Noise, Recipe, Upload, integer, number
from .sound_files import encode, file_name
from .studio import Studio, Take


def add_endpoints(studio: Studio) -> None:
    """Add the endpoints to the app that is being built; each docstring below is an endpoint's documentation."""
    endpoints = Endpoints(studio)
    with gr.Column(visible=False):
        recipe, other = gr.JSON(label="recipe"), gr.JSON(label="second_recipe")
        made, drift = gr.JSON(label="recipe"), gr.Number(label="drift")
        sound = gr.File(label="sound")
        prompt = gr.Textbox(label="prompt")
        curve, spans = gr.JSON(label="curve"), gr.JSON(label="spans")
        # Ranges are checked where recipes are made, with a message that says what to do.
        values = {
            "negative_prompt": gr.Textbox("", label="negative_prompt"),
            "seed": gr.Number(-1, label="seed", precision=0),
            "steps": gr.Number(1, label="steps", precision=0),
            "final_steps": gr.Number(8, label="steps", precision=0),
            "duration": gr.Number(round(studio.default_duration, 3), label="duration"),
            "omega": gr.Number(3.5, label="omega"),
            "nu": gr.Number(1, label="nu"),
            "gamma": gr.Number(0, label="gamma"),
            "amount": gr.Number(0.3, label="amount"),
            "strength": gr.Number(Recipe.strength, label="strength"),
            "more": gr.Number(2, label="more"),
            "extension": gr.Textbox(".wav", label="extension"),
        }
        upload, code, file = gr.File(label="file"), gr.Code(label="code"), gr.File(label="sound")
        v = values
        generated = [v["negative_prompt"], v["omega"], v["nu"], v["gamma"]]
        table = {
            "draft": ([prompt, v["seed"], v["steps"], v["duration"], *generated], [sound, made]),
            "refine": ([recipe, v["final_steps"]], [sound, made, drift]),
            "vary": ([recipe, v["amount"], v["seed"]], [sound, made]),
            "morph": ([recipe, other, v["final_steps"]], [sound, made]),
            "draw": ([recipe, curve, v["strength"], v["final_steps"]], [sound, made]),
            "upload": ([upload], [made]),
            "inpaint": ([recipe, prompt, spans, v["final_steps"], v["seed"]], [sound, made]),
            "continue_sound": ([recipe, prompt, v["more"], v["final_steps"], v["seed"]], [sound, made]),
            "loop": ([recipe, v["final_steps"]], [sound, made]),
            "export": ([recipe, v["extension"]], [file]),
            "code": ([recipe], [code]),
        }
        for name, (inputs, outputs) in table.items():
            gr.Button(name).click(
                explained(getattr(endpoints, name)), inputs, outputs, api_name=name, concurrency_limit=None
            )


def explained(function: Callable) -> Callable:
    """`function` whose refusals reach the client with their message."""

    @wraps(function)
    def endpoint(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise gr.Error(str(error)) from error

    return endpoint


class Endpoints:
    """One method an endpoint."""

    def __init__(self, studio: Studio):
        self.studio = studio

    def _made(self, recipe: Recipe, request: gr.Request) -> tuple[str, dict[str, Any]]:
        take = self.studio.make(recipe, request.session_hash)
        return self._file(take), recipe.to_json()

    def _file(self, take: Take, extension: str = ".wav") -> str:
        content = encode(self.studio, take, extension)
        path = Path(get_upload_folder()) / hash_bytes(content) / f"{file_name(take)}{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # At once, unlike gradio's own `save_bytes_to_cache`: somebody may be downloading the same sound.
        temporary = path.with_name(f"{secrets.token_hex(8)}.part")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
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
        """Text to sound: a WAV file, and the recipe that the other endpoints take.

        seed −1 draws one; steps 1 to 32; duration in seconds, 0.5 to 30; omega, nu, gamma as in SoundCTMPipeline.
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
        return self._made(recipe, request)

    def refine(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any], float | None]:
        """The same sound in more steps; and its drift from what was given, 0 the same to about 1 unrelated."""
        first = Recipe.from_json(recipe)
        final = work.refined(first, steps=steps)
        path, made = self._made(final, request)
        takes = (self.studio.make(one, request.session_hash) for one in (first, final))
        return path, made, self.studio.drift(*takes)

    def vary(self, recipe: Any, amount: float, seed: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """A sound whose noise is `amount` away, 0 the same to 1 unrelated; seed −1 draws a direction."""
        (varied,) = work.variation_recipes(Recipe.from_json(recipe), amount, _seed(seed), count=1)
        return self._made(varied, request)

    def morph(self, recipe: Any, second_recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """A sound that begins as one recipe's and ends as another's."""
        morphed = work.morphed(Recipe.from_json(recipe), Recipe.from_json(second_recipe), steps)
        return self._made(morphed, request)

    def draw(
        self, recipe: Any, curve: Any, strength: float, steps: int, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """The sound made to follow a loudness curve: 2 to 128 decibels, −100 to 0, evenly spread over the sound."""
        return self._made(work.drawn(Recipe.from_json(recipe), curve, strength, steps), request)

    def upload(self, file: str) -> dict[str, Any]:
        """A sound file (WAV, FLAC, OGG, MP3; 0.5 to 30 s, at most 20 MB) as a source for inpaint and continue_sound."""
        return {"digest": self.studio.bring(file).digest}

    def _source(self, source: Any, request: gr.Request) -> tuple[Recipe | Upload, float]:
        if isinstance(source, dict) and set(source) == {"digest"}:
            upload = Upload(source["digest"])
            return upload, self.studio.upload(upload).shape[-1] / self.studio.pipe.sampling_rate
        recipe = Recipe.from_json(source)
        return recipe, self.studio.make(recipe, request.session_hash).seconds

    def inpaint(
        self, recipe: Any, prompt: str, spans: Any, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """Spans of a sound made anew: pairs of seconds, for instance [[1.0, 2.0]]; `recipe` may be an upload's."""
        source, seconds = self._source(recipe, request)
        return self._made(work.filled(source, seconds, prompt, spans, steps, _seed(seed)), request)

    def continue_sound(
        self, recipe: Any, prompt: str, more: float, steps: int, seed: int, request: gr.Request
    ) -> tuple[str, dict[str, Any]]:
        """A sound that goes on for `more` seconds; `recipe` may be an upload's."""
        source, seconds = self._source(recipe, request)
        more = number("more", more, 0.1, DURATION[1])
        return self._made(work.continued(source, seconds, prompt, more, steps, _seed(seed)), request)

    def loop(self, recipe: Any, steps: int, request: gr.Request) -> tuple[str, dict[str, Any]]:
        """The sound as one whose end runs into its start."""
        return self._made(work.looped(Recipe.from_json(recipe), steps), request)

    def export(self, recipe: Any, extension: str, request: gr.Request) -> str:
        """The recipe's sound as a file, .wav or .flac, with its settings in the metadata."""
        if extension not in (".wav", ".flac"):
            raise ValueError(f"extension is {extension!r}; choose .wav or .flac.")
        return self._file(self.studio.make(Recipe.from_json(recipe), request.session_hash), extension)

    def code(self, recipe: Any) -> str:
        """Python that makes the recipe's sound with the library, sample for sample."""
        return self.studio.code(Recipe.from_json(recipe))


def _seed(seed: Any) -> int:
    if seed == -1:
        return secrets.randbelow(10**6)
    return integer("The seed", seed, 0, MAX_SEED)
