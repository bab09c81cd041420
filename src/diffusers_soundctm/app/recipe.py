"""What a sound is made from: plain values that travel through browsers and files, checked wherever they come from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

MAX_PROMPT = 300
MAX_STEPS = 32
MAX_SEED = 2**53 - 1  # what JavaScript counts exactly
MAX_VARIATIONS = 16
MAX_DEPTH = 3
CURVE_POINTS = (2, 128)
# Gradient steps a level towards a curve: where levels are few, what one of them overshoots, the other takes back.
CURVE_INNER_STEPS = 2
DURATION = (0.5, 30.0)
LOWEST_DB = -100.0
# name → smallest, largest
RANGES = {"omega": (0.0, 20.0), "nu": (-5.0, 10.0), "gamma": (0.0, 1.0), "strength": (0.05, 4.0), "duration": DURATION}


def number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a float between `low` and `high`; the `ValueError` names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; choose a number from {low:g} to {high:g}.")
    return float(value)


def integer(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an integer between `low` and `high`; floats without a fraction count, as JavaScript has no others."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; choose a whole number from {low} to {high}.")
    return value


def text(name: str, value: Any, may_be_empty: bool = False) -> str:
    """`value` as one line of at most `MAX_PROMPT` characters."""
    value = "" if value is None else value  # what an empty field of a page is
    if not isinstance(value, str):
        raise ValueError(f"The {name} is a {type(value).__name__}; write a few words.")
    value = " ".join("".join(c if c.isprintable() else " " for c in value).split())
    if not value and not may_be_empty:
        raise ValueError(f"The {name} is empty; describe a sound, for instance: rain on a tin roof.")
    if len(value) > MAX_PROMPT:
        raise ValueError(f"The {name} has {len(value)} characters; at most {MAX_PROMPT} are read.")
    return value


@dataclass(frozen=True)
class Noise:
    """Where a sound starts: a seed, then turns of (amount, seed) by `control.vary`."""

    seed: int
    variations: tuple[tuple[float, int], ...] = ()

    def __post_init__(self):
        put = object.__setattr__
        put(self, "seed", integer("The seed", self.seed, 0, MAX_SEED))
        if not isinstance(self.variations, Sequence) or len(self.variations) > MAX_VARIATIONS:
            raise ValueError(f"A sound can be varied {MAX_VARIATIONS} times at most; start from another draft.")
        turns = []
        for turn in self.variations:
            if not isinstance(turn, Sequence) or len(turn) != 2:
                raise ValueError(f"A variation is {turn!r}; it has an amount and a seed.")
            amount = number("The amount of a variation", turn[0], 0, 1)
            turns.append((amount, integer("The seed of a variation", turn[1], 0, MAX_SEED)))
        put(self, "variations", tuple(turns))


@dataclass(frozen=True)
class Morph:
    """Where a sound goes: another prompt and other noise, both reached at the end."""

    prompt: str
    noise: Noise

    def __post_init__(self):
        object.__setattr__(self, "prompt", text("second prompt", self.prompt))


@dataclass(frozen=True)
class Upload:
    """A sound that somebody brought: a hash of its samples, by which the studio knows it."""

    digest: str

    def __post_init__(self):
        digest = self.digest
        if not isinstance(digest, str) or len(digest) != 16 or set(digest) - set("0123456789abcdef"):
            raise ValueError("The uploaded sound is not known; upload it again.")


@dataclass(frozen=True)
class Recipe:
    """All that determines a sound, given the model. At most one of `morph`, `curve`, `loop` and `source` is set.

    Args:
        prompt, negative_prompt: at most 300 characters.
        noise: starting noise.
        steps, omega, nu, gamma, duration: as in a call of the pipeline; seconds.
        morph: what the sound turns into.
        curve: loudness in dB, -100 to 0, evenly spread over the sound.
        strength: how firmly the curve is followed, `LossGuidance`'s scale.
        loop: whether the end runs into the start.
        source: a sound to fill holes of and to continue.
        spans: the holes, pairs of seconds.

    Raises:
        ValueError: a value is of a wrong type or out of its range; the message is meant for the person at the screen.
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
    strength: float = 0.2  # as `LossGuidance`: more ends in distorted sounds where steps are few
    loop: bool = False
    source: "Recipe | Upload | None" = None
    spans: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        put = object.__setattr__
        put(self, "prompt", text("prompt", self.prompt))
        put(self, "negative_prompt", text("negative prompt", self.negative_prompt, may_be_empty=True))
        put(self, "steps", integer("The number of steps", self.steps, 1, MAX_STEPS))
        for name, (low, high) in RANGES.items():
            put(self, name, number(f"The {name}", getattr(self, name), low, high))
        if self.negative_prompt and self.nu == 1:
            raise ValueError("The negative prompt has no effect at a mix ν of 1; choose another ν, such as 1.5.")
        self._check_curve()
        self._check_spans()
        if not isinstance(self.loop, bool):
            raise ValueError(f"The loop is {self.loop!r}; say true or false.")
        chosen = [self.morph is not None, bool(self.curve), self.loop, self.source is not None]
        if sum(chosen) > 1:
            raise ValueError("A sound can have one of: a second prompt, a curve, a loop, a source; choose one.")
        if self.depth > MAX_DEPTH:
            raise ValueError(f"Sounds made from sounds can be {MAX_DEPTH} deep; download this one and upload it.")

    def _check_curve(self) -> None:
        if not self.curve:
            object.__setattr__(self, "curve", ())
            return
        low, high = CURVE_POINTS
        if not isinstance(self.curve, Sequence) or isinstance(self.curve, str) or not low <= len(self.curve) <= high:
            raise ValueError(f"The curve needs {low} to {high} values; draw it again.")
        values = (number("A value of the curve (dB)", value, LOWEST_DB, 0) for value in self.curve)
        object.__setattr__(self, "curve", tuple(round(value, 1) for value in values))

    def _check_spans(self) -> None:
        if self.spans and self.source is None:
            raise ValueError("Marked spans need a sound that they are holes of.")
        if not isinstance(self.spans, Sequence) or isinstance(self.spans, str) or len(self.spans) > 8:
            raise ValueError("The spans are a list of at most eight; mark them again.")
        spans = []
        for span in self.spans:
            if not isinstance(span, Sequence) or len(span) != 2:
                raise ValueError(f"A span is {span!r}; it has a start and an end in seconds.")
            start, end = (number("An end of a span (s)", seconds, 0, DURATION[1]) for seconds in span)
            if end - start < 0.05:
                raise ValueError("A marked span is shorter than 0.05 s; mark more.")
            spans.append((round(start, 3), round(end, 3)))
        object.__setattr__(self, "spans", tuple(spans))

    @property
    def depth(self) -> int:
        """How many sounds this one is made from, itself included."""
        return 1 + (self.source.depth if isinstance(self.source, Recipe) else 0)

    @property
    def is_plain(self) -> bool:
        """Whether `soundctm generate` could have made it: one seed, and no control."""
        return not (self.noise.variations or self.morph or self.curve or self.loop or self.source)

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits that are equal for equal recipes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def change(self, **changes: Any) -> "Recipe":
        """A copy with other values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and strings; values that are the defaults are left out."""
        return _to_json(self)

    @classmethod
    def from_json(cls, values: Any) -> "Recipe":
        """Inverse of `to_json`, for values that anybody may have sent.

        Raises:
            ValueError: not a recipe.
        """
        return _recipe(values, 0)


def _to_json(value: Any) -> Any:
    if isinstance(value, (Recipe, Noise, Morph, Upload)):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: _to_json(item) for field, item in pairs if item != field.default}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _known(kind: type, values: Any) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(values, Mapping) or set(values) - names:
        raise ValueError(f"This is no {kind.__name__.lower()} of a sound; use one that the app has given.")
    return dict(values)


def _noise(values: Any) -> Noise:
    values = _known(Noise, values)
    return Noise(values.get("seed"), values.get("variations", ()))


def _recipe(values: Any, depth: int) -> Recipe:
    if depth > MAX_DEPTH:
        raise ValueError(f"Sounds made from sounds can be {MAX_DEPTH} deep; download this one and upload it.")
    values = _known(Recipe, values)
    values = {"prompt": None, "noise": {}, "duration": None} | values
    values["noise"] = _noise(values["noise"])
    if values.get("morph") is not None:
        morph = {"prompt": None, "noise": {}} | _known(Morph, values["morph"])
        values["morph"] = Morph(morph["prompt"], _noise(morph["noise"]))
    source = values.get("source")
    if isinstance(source, Mapping) and "digest" in source:
        values["source"] = Upload(_known(Upload, source)["digest"])
    elif source is not None:
        values["source"] = _recipe(source, depth + 1)
    return Recipe(**values)
