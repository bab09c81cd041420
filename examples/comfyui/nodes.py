"""Load a model, draft sounds, and refine, draw, fill and loop them.

SOUNDCTM is a loaded model. SOUNDCTM_SOUNDS are recipes: they hold prompt and noise, so that a later node makes the same
sound again in more steps. AUDIO is ComfyUI's own: {"waveform": (B, C, T) float32, "sample_rate": Hz}.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import comfy.model_management
import comfy.utils
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import edits
from diffusers_soundctm.app.defaults import FINAL_STEPS, STEERED_STEPS
from diffusers_soundctm.app.recipe import CURVE_POINTS, DURATION, MAX_STEPS, Noise, Recipe
from diffusers_soundctm.app.rendering import Observer
from diffusers_soundctm.app.studio import Studio
from diffusers_soundctm.control import inpaint

CATEGORY = "audio/SoundCTM"
MODEL, SOUNDS, AUDIO = ("SOUNDCTM",), ("SOUNDCTM_SOUNDS",), ("AUDIO",)
PROMPT = ("STRING", {"default": "rain on a tin roof", "tooltip": "One kind of sound, in English."})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**53 - 1, "control_after_generate": True})
NUMBER = ("INT", {"default": 1, "min": 1, "max": 8, "tooltip": "Which of the drafts."})
MAX_DRAFTS = 8


def steps(default: int) -> tuple[str, dict[str, Any]]:
    """Return the input for a number of steps."""
    return ("INT", {"default": default, "min": 1, "max": MAX_STEPS, "tooltip": "1 for a draft, 4 for a good final."})


def watch(total: int) -> Callable[[int, int], bool]:
    """Return a callback for each step that moves ComfyUI's progress bar and stops when ComfyUI is interrupted."""
    bar, done = comfy.utils.ProgressBar(total), 0

    def on_step(_done: int, _total: int) -> bool:
        nonlocal done
        comfy.model_management.throw_exception_if_processing_interrupted()
        done += 1
        bar.update_absolute(done, total)
        return True

    return on_step


def make(model: Studio, recipes: Sequence[Recipe]) -> tuple[dict[str, Any], list[Recipe]]:
    """Make sounds of one length and return them as AUDIO, and their recipes."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    on_step = watch(sum(recipe.steps for recipe in recipes))
    takes = list(model.make_each(list(recipes), on_step=on_step))
    audio = {"waveform": torch.stack([take.waveform for take in takes]), "sample_rate": model.pipe.sampling_rate}
    return audio, list(recipes)


def chosen(sounds: Sequence[Recipe], number: int) -> Recipe:
    """Return one of the sounds, counted from 1."""
    if not 1 <= number <= len(sounds):
        raise ValueError(f"`number` is {number}; choose a sound from 1 to {len(sounds)}.")
    return sounds[number - 1]


class Load:
    """Load a model: "embedded", a folder, or a Hub id."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = MODEL, ("model",), "load", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        dtypes = ["float32", "bfloat16", "float16"]
        return {"required": {"model": ("STRING", {"default": "embedded"}), "dtype": (dtypes, {"default": "float32"})}}

    def load(self, model: str, dtype: str) -> tuple[Studio]:
        load = SoundCTMPipeline.from_embedded if model == "embedded" else SoundCTMPipeline.from_pretrained
        pipe = load(*[] if model == "embedded" else [model], dtype=getattr(torch, dtype))
        pipe.set_progress_bar_config(disable=True)
        return (Studio(pipe.to(comfy.model_management.get_torch_device()), model),)


class Draft:
    """Make one-step drafts with successive seeds. Listen, then send them to a node that works on one."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = AUDIO + SOUNDS, ("audio", "sounds"), "draft", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        low, high = DURATION
        seconds = {"default": 5.12, "min": low, "max": high, "step": 0.01}
        return {
            "required": {
                "model": MODEL,
                "prompt": PROMPT,
                "seed": SEED,
                "drafts": ("INT", {"default": 4, "min": 1, "max": MAX_DRAFTS}),
                "seconds": ("FLOAT", seconds),
            }
        }

    def draft(
        self, model: Studio, prompt: str, seed: int, drafts: int, seconds: float
    ) -> tuple[dict[str, Any], list[Recipe]]:
        return make(model, [Recipe(prompt, Noise(seed + i), seconds) for i in range(drafts)])


class _OnOneSound:
    """Base of the nodes that make one of the sounds again in another form."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = AUDIO + SOUNDS, ("audio", "sounds"), "work", CATEGORY
    DEFAULT_STEPS = FINAL_STEPS
    OWN: ClassVar[dict[str, Any]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        shared = {"model": MODEL, "sounds": SOUNDS, "number": NUMBER, "steps": steps(cls.DEFAULT_STEPS)}
        return {"required": shared | cls.OWN}

    def work(
        self, model: Studio, sounds: Sequence[Recipe], number: int, steps: int, **own: Any
    ) -> tuple[dict[str, Any], list[Recipe]]:
        return make(model, [self.change(chosen(sounds, number), steps, **own)])

    def change(self, recipe: Recipe, steps: int) -> Recipe:
        raise NotImplementedError


class Refine(_OnOneSound):
    """Make the same sound in more steps."""

    def change(self, recipe: Recipe, steps: int) -> Recipe:
        return recipe.change(steps=steps)


class DrawLoudness(_OnOneSound):
    """Make the sound follow a loudness curve: values in dB, evenly spaced over the sound."""

    DEFAULT_STEPS = STEERED_STEPS
    OWN: ClassVar[dict[str, Any]] = {
        "curve": ("STRING", {"default": "-50 -20 -50", "tooltip": "2 to 128 values in dB, -100 to 0."}),
        "strength": ("FLOAT", {"default": Recipe.strength, "min": 0.05, "max": 4.0, "step": 0.05}),
    }

    def change(self, recipe: Recipe, steps: int, curve: str, strength: float) -> Recipe:
        try:
            values = [float(value) for value in curve.replace(",", " ").split()]
        except ValueError as error:
            raise ValueError(f"`curve` is {curve!r}; write {CURVE_POINTS[0]} or more numbers in dB.") from error
        return edits.drawn(recipe, values, strength, steps)


class Loop(_OnOneSound):
    """Make the end of the sound run seamlessly into its start."""

    DEFAULT_STEPS = STEERED_STEPS

    def change(self, recipe: Recipe, steps: int) -> Recipe:
        return edits.looped(recipe, steps)


class Inpaint:
    """Replace a part of any audio. The rest stays as it is."""

    RETURN_TYPES, RETURN_NAMES, FUNCTION, CATEGORY = AUDIO, ("audio",), "inpaint", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seconds = {"min": 0.0, "max": DURATION[1], "step": 0.01}
        return {
            "required": {
                "model": MODEL,
                "audio": AUDIO,
                "prompt": PROMPT,
                "start": ("FLOAT", {"default": 1.0, **seconds}),
                "end": ("FLOAT", {"default": 2.0, **seconds}),
                "steps": steps(STEERED_STEPS),
                "seed": SEED,
            }
        }

    def inpaint(
        self, model: Studio, audio: dict[str, Any], prompt: str, start: float, end: float, steps: int, seed: int
    ) -> tuple[dict[str, Any]]:
        batch, on_step = audio["waveform"], watch(steps * len(audio["waveform"]))
        filled = [
            inpaint(
                model.pipe,
                prompt,
                one[None],
                audio["sample_rate"],
                spans=[(start, end)],
                num_inference_steps=steps,
                generator=torch.Generator().manual_seed(seed + i),
                callback_on_step_end=Observer(on_step),
            )
            for i, one in enumerate(batch)
        ]
        return ({"waveform": torch.cat(filled).float().cpu(), "sample_rate": model.pipe.sampling_rate},)


NODE_CLASS_MAPPINGS = {
    "SoundCTMLoad": Load,
    "SoundCTMDraft": Draft,
    "SoundCTMRefine": Refine,
    "SoundCTMDrawLoudness": DrawLoudness,
    "SoundCTMInpaint": Inpaint,
    "SoundCTMLoop": Loop,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SoundCTMLoad": "SoundCTM: load model",
    "SoundCTMDraft": "SoundCTM: draft",
    "SoundCTMRefine": "SoundCTM: refine",
    "SoundCTMDrawLoudness": "SoundCTM: draw loudness",
    "SoundCTMInpaint": "SoundCTM: replace a part",
    "SoundCTMLoop": "SoundCTM: loop",
}
