"""Everything that determines a sound, as plain values. They travel through browsers and files and are checked here."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .sketches import Sketch
from .validators import integer, is_list, number, text

MAX_STEPS = 32
MAX_SEED = 2**53 - 1  # the largest integer that JavaScript represents exactly
MAX_VARIATIONS = 16
MAX_DEPTH = 8
MAX_SPANS = 8
MAX_ADAPTERS = 8
MIN_SPAN = 0.05  # seconds
CURVE_POINTS = (2, 128)
# Gradient steps toward a loudness curve at each noise level. With few levels, one gradient step overshoots and the
# next has no level left to correct it.
CURVE_INNER_STEPS = 2
DURATION = (0.5, 30.0)  # seconds
LOWEST_DB = -100.0
# field → name in messages, smallest value, largest value
RANGES = {
    "omega": ("The prompt strength (omega)", 0.0, 20.0),
    "nu": ("The negative strength (nu)", -5.0, 10.0),
    "gamma": ("The randomness (gamma)", 0.0, 1.0),
    "strength": ("The curve strength", 0.05, 4.0),
    "duration": ("The length (duration) in seconds", *DURATION),
}


@dataclass(frozen=True)
class Noise:
    """The starting noise of a sound.

    Args:
        seed: Seed of the noise, 0 to `MAX_SEED`.
        variations: Pairs of an amount (0 to 1) and a seed, applied in order by `control.vary`.
    """

    seed: int
    variations: tuple[tuple[float, int], ...] = ()

    def __post_init__(self):
        put = object.__setattr__
        put(self, "seed", integer("The seed", self.seed, 0, MAX_SEED))
        if not is_list(self.variations) or len(self.variations) > MAX_VARIATIONS:
            raise ValueError(f"A sound can be varied at most {MAX_VARIATIONS} times; start from another draft.")
        checked = []
        for variation in self.variations:
            if not is_list(variation) or len(variation) != 2:
                raise ValueError(f"A variation is {variation!r}; give an amount and a seed.")
            amount = number("The amount of a variation", variation[0], 0, 1)
            checked.append((amount, integer("The seed of a variation", variation[1], 0, MAX_SEED)))
        put(self, "variations", tuple(checked))


@dataclass(frozen=True)
class Morph:
    """The prompt and the noise that a sound reaches at its end."""

    prompt: str
    noise: Noise

    def __post_init__(self):
        object.__setattr__(self, "prompt", text("second prompt", self.prompt))


@dataclass(frozen=True)
class Upload:
    """An uploaded sound, named by a hash of its samples (16 hexadecimal digits)."""

    digest: str

    def __post_init__(self):
        digest = self.digest
        if not isinstance(digest, str) or len(digest) != 16 or set(digest) - set("0123456789abcdef"):
            raise ValueError("The uploaded sound is not known; upload it again.")


@dataclass(frozen=True)
class Recipe:
    """All values that determine a sound, given the model.

    At most one of `morph`, `curve`, `sketch`, `loop` and `source` is set.

    Args:
        prompt: Description of the sound, at most 300 characters.
        noise: Starting noise.
        duration: Length in seconds, 0.5 to 30.
        negative_prompt: Description of what to avoid. It requires `nu` other than 1.
        steps: Number of sampling steps, 1 to 32.
        omega: Guidance scale ω of the student, 0 to 20.
        nu: Weight ν of the prompt against the negative prompt, −5 to 10.
        gamma: Share γ of fresh noise per step, 0 to 1.
        morph: What the sound turns into.
        curve: Loudness in dB, −100 to 0, at 2 to 128 evenly spaced times.
        strength: Scale of `LossGuidance` for the curve. Large values distort when steps are few.
        loop: Whether the end runs seamlessly into the start.
        source: The sound to fill or to continue.
        spans: Parts of `source` to fill, as pairs of start and end in seconds.
        sketch: Curves that the sound follows.
        lora: The active adapters of the model, such as "my-creature:0.8".

    Raises:
        ValueError: A value has the wrong type or is out of range. The message is meant for the person at the screen.
    """

    prompt: str
    noise: Noise
    duration: float
    negative_prompt: str = ""
    steps: int = 1
    omega: float = 3.5
    nu: float = 1.0
    gamma: float = 0.0
    morph: Morph | None = None
    curve: tuple[float, ...] = ()
    strength: float = 0.2
    loop: bool = False
    source: "Recipe | Upload | None" = None
    spans: tuple[tuple[float, float], ...] = ()
    sketch: Sketch | None = None
    lora: tuple[str, ...] = ()

    def __post_init__(self):
        put = object.__setattr__
        put(self, "prompt", text("prompt", self.prompt))
        put(self, "negative_prompt", text("negative prompt", self.negative_prompt, may_be_empty=True))
        put(self, "steps", integer("The number of steps", self.steps, 1, MAX_STEPS))
        for field, (name, low, high) in RANGES.items():
            put(self, field, number(name, getattr(self, field), low, high))
        if self.negative_prompt and self.nu == 1:
            raise ValueError(
                "The negative prompt has no effect while its strength (nu) is 1; choose another strength, such as 1.5."
            )
        self._check_lora()
        self._check_curve()
        self._check_spans()
        if not isinstance(self.loop, bool):
            raise ValueError(f"The loop setting is {self.loop!r}; choose true or false.")
        chosen = [self.morph is not None, bool(self.curve), self.loop, self.source is not None, self.sketch is not None]
        if sum(chosen) > 1:
            raise ValueError(
                "A sound can have one of a second prompt, a curve, a sketch, a loop or a source; choose one."
            )
        if self.depth > MAX_DEPTH:
            raise _too_deep()

    def _check_lora(self) -> None:
        if not is_list(self.lora) or len(self.lora) > MAX_ADAPTERS:
            raise ValueError(f"The adapters must be a list of at most {MAX_ADAPTERS}; choose fewer.")
        object.__setattr__(self, "lora", tuple(text("adapter", name) for name in self.lora))

    def _check_curve(self) -> None:
        if not self.curve:
            object.__setattr__(self, "curve", ())
            return
        low, high = CURVE_POINTS
        if not is_list(self.curve) or not low <= len(self.curve) <= high:
            raise ValueError(f"The curve needs {low} to {high} values; draw it again.")
        values = (number("A value of the curve (dB)", value, LOWEST_DB, 0) for value in self.curve)
        object.__setattr__(self, "curve", tuple(round(value, 1) for value in values))

    def _check_spans(self) -> None:
        if self.spans and self.source is None:
            raise ValueError("Parts are marked, but there is no sound to fill; pick or upload a sound.")
        if not is_list(self.spans) or len(self.spans) > MAX_SPANS:
            raise ValueError(f"The marked parts must be a list of at most {MAX_SPANS}; mark them again.")
        spans = []
        for span in self.spans:
            if not is_list(span) or len(span) != 2:
                raise ValueError(f"A marked part is {span!r}; give its start and its end in seconds.")
            start, end = (number("The start or end of a marked part (s)", value, 0, DURATION[1]) for value in span)
            if end - start < MIN_SPAN:
                raise ValueError(f"A marked part is shorter than {MIN_SPAN} s; mark a longer one.")
            spans.append((round(start, 3), round(end, 3)))
        object.__setattr__(self, "spans", tuple(spans))

    @property
    def depth(self) -> int:
        """How many sounds this one is made from, itself included."""
        return 1 + (self.source.depth if isinstance(self.source, Recipe) else 0)

    @property
    def is_plain(self) -> bool:
        """Whether `soundctm generate` can make the sound: one seed and no control."""
        return not (self.noise.variations or self.morph or self.curve or self.sketch or self.loop or self.source)

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits, equal for equal recipes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def change(self, **changes: Any) -> "Recipe":
        """Return a copy with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return dictionaries, lists, numbers and strings. Values that equal the defaults are left out."""
        return _to_json(self)

    @classmethod
    def from_json(cls, values: Any) -> "Recipe":
        """Read what `to_json` returned. The values may come from anybody.

        Raises:
            ValueError: `values` is not a valid recipe.
        """
        return _recipe(values, 0)


def _too_deep() -> ValueError:
    return ValueError(
        f"This sound is already made from others, {MAX_DEPTH} levels deep; download it and upload it to go on."
    )


def _to_json(value: Any) -> Any:
    if isinstance(value, (Recipe, Noise, Morph, Upload, Sketch)):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _to_json(item) for field, item in pairs if item != field.default}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _known(kind: type, values: Any) -> dict[str, Any]:
    """Return `values` as a dictionary that has only fields of `kind`."""
    names = {field.name for field in fields(kind)}
    if not isinstance(values, Mapping) or set(values) - names:
        raise ValueError(f"The {kind.__name__.lower()} of a sound is not valid; use one that the app returned.")
    return dict(values)


def _noise(values: Any) -> Noise:
    values = _known(Noise, values)
    return Noise(values.get("seed"), values.get("variations", ()))


def _recipe(values: Any, depth: int) -> Recipe:
    if depth > MAX_DEPTH:
        raise _too_deep()
    values = _known(Recipe, values)
    values = {"prompt": None, "noise": {}, "duration": None} | values
    values["noise"] = _noise(values["noise"])
    if values.get("morph") is not None:
        morph = {"prompt": None, "noise": {}} | _known(Morph, values["morph"])
        values["morph"] = Morph(morph["prompt"], _noise(morph["noise"]))
    if values.get("sketch") is not None:
        values["sketch"] = Sketch(**_known(Sketch, values["sketch"]))
    source = values.get("source")
    if isinstance(source, Mapping) and "digest" in source:
        values["source"] = Upload(_known(Upload, source)["digest"])
    elif source is not None:
        values["source"] = _recipe(source, depth + 1)
    return Recipe(**values)
