"""Truthful captions from templates. The templates of the test split are never used in training."""

import numpy as np

from sources.rendering import Part

_GENERIC = {
    "train": (
        "{noun}",
        "{noun}",
        "{bare}",
        "the sound of {noun}",
        "hearing {noun}",
        "sound of {noun}",
        "{bare} sound",
        "{bare} sound effect",
        "{noun}, close by",
        "listen to {noun}",
        "nothing but {noun}",
        "how {noun} would sound",
    ),
    "test": ("a recording of {noun}", "an audio clip of {noun}", "you can hear {noun}", "an example of {noun}"),
}
# {bare} is the noun without its article; {play}, {hold} ... agree with the noun; {low}, {slow} and {soft} are empty or
# a word and a space.
_INSTRUMENT = {
    "note": {
        "train": (
            "{noun} {play} one long {low}note",
            "{noun} {hold} a single {low}note",
            "one long {low}note on {noun}",
            "a sustained {low}note played by {noun}",
            "a {soft}{low}note on {noun}",
            "{bare}, one long {low}note",
            "{noun} with one steady {low}note",
        ),
        "test": (
            "a drawn-out {low}note from {noun}",
            "{noun} sounding a lone {low}note",
            "a lasting {low}tone on {noun}",
        ),
    },
    "repeat": {
        "train": (
            "{noun} {play} the same {low}note {times}",
            "a {low}note played {times} on {noun}",
            "{noun} {repeat} a {low}note {times}",
            "a {soft}{low}note on {noun}, {times}",
            "{bare}, the same {low}note {times}",
        ),
        "test": ("one {low}note from {noun}, sounded {times}", "{noun} hitting a {low}note {times}"),
    },
    "rise": {
        "train": (
            "{noun} {play} rising notes",
            "a {slow}run of rising notes on {noun}",
            "{noun} {go} up a {slow}scale",
            "a {slow}scale going up on {noun}",
            "{soft}{slow}rising notes on {noun}",
            "{bare}, rising notes",
            "notes getting higher and higher on {noun}",
        ),
        "test": ("{noun} climbing {slowly}from note to note", "an ascending {slow}line from {noun}"),
    },
    "fall": {
        "train": (
            "{noun} {play} falling notes",
            "a {slow}run of falling notes on {noun}",
            "{noun} {go} down a {slow}scale",
            "a {slow}scale going down on {noun}",
            "{soft}{slow}falling notes on {noun}",
            "{bare}, falling notes",
            "notes getting lower and lower on {noun}",
        ),
        "test": ("{noun} descending {slowly}from note to note", "a descending {slow}line from {noun}"),
    },
    "melody": {
        "train": (
            "{noun} {play} a {slow}melody",
            "{noun} {play} a {low}{slow}tune",
            "a {slow}melody on {noun}",
            "a {soft}{slow}melody played by {noun}",
            "{noun} playing a {slow}tune",
            "{slow}music from {noun}",
            "{slow}{bare} melody",
            "{bare} solo",
            "someone practising a {slow}tune on {noun}",
        ),
        "test": (
            "{noun} performing a {slow}tune",
            "a {slow}song played solo by {noun}",
            "a {slow}musical phrase from {noun}",
        ),
    },
    "chord": {
        "train": (
            "{noun} {play} {chords}",
            "{chords} on {noun}",
            "{noun} playing {chords}",
            "{chords} played on {noun}",
            "{bare}, {chords}",
            "someone plays {chords} on {noun}",
        ),
        "test": ("{chords} coming from {noun}", "{noun} sounding {chords}"),
    },
    "beat": {
        "train": (
            "{noun} {beat} a {slow}rhythm",
            "{slow}beats on {noun}",
            "{noun} {play} a {slow}rhythm",
            "{soft}{slow}drumming on {noun}",
            "{slow}{bare} beats",
            "someone drums {slowly}on {noun}",
        ),
        "test": ("a {slow}pulse struck on {noun}", "{noun} being hit in a {slow}rhythm"),
    },
    "rhythm": {
        "train": (
            "{noun} {play} a {slow}beat",
            "a {slow}beat on {noun}",
            "a {slow}drum groove on {noun}",
            "{noun} playing a {slow}rhythm",
            "{soft}{slow}drumming on {noun}",
            "{slow}{bare} loop",
            "someone plays {slowly}on {noun}",
        ),
        "test": ("a drummer keeping a {slow}beat on {noun}", "a {slow}groove from {noun}"),
    },
}
_EFFECT = {
    "texture": {
        "train": (
            "{clause}",
            "{clause}",
            "{noun}, going on and on",
            "{clause} without a pause",
            "{bare}, continuous",
            "{clause} for several seconds",
        ),
        "test": ("{noun} all along", "{clause} the whole time", "a stretch of {noun}"),
    },
    "events": {
        "train": (
            "{clause} {times}",
            "{clause} {times}",
            "{noun}, {times}",
            "{clause}",
            "{noun} heard {times}",
            "{bare}, {times}",
            "{times}: {noun}",
        ),
        "test": ("{noun} occurring {times}", "{times}, {clause}"),
    },
}
_PITCHED = {
    "train": ("{noun}, {low}-pitched", "{clause} at a {low} pitch"),
    "test": ("{low}-pitched sound of {noun}",),
}
_TOGETHER = {
    "train": (
        "{clause_a} while {clause_b}",
        "{clause_b} while {clause_a}",
        "{noun_a} and {noun_b} at the same time",
        "{noun_a} together with {noun_b}",
        "{clause_a} and {clause_b}",
        "{noun_b} and {noun_a}",
    ),
    "test": (
        "{clause_a} as {clause_b}",
        "{noun_a} mixed with {noun_b}",
        "both {noun_a} and {noun_b}",
        "{clause_b}, and meanwhile {clause_a}",
    ),
}
_BACKGROUND = {
    "train": "{noun_a} with {noun_b} in the background",
    "test": "{noun_a} in front, {noun_b} quieter behind",
}
_SEQUENCE = {
    "train": (
        "{clause_a}, then {clause_b}",
        "{noun_a} followed by {noun_b}",
        "first {clause_a}, after that {clause_b}",
        "{noun_a}, then {noun_b}",
    ),
    "test": ("{clause_a} before {clause_b}", "{noun_a} and afterwards {noun_b}", "{noun_b} after {noun_a}"),
}
_VERBS = ("play", "hold", "repeat", "go", "beat")
_NUMBERS = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}
_MANY = {"train": ("again and again", "repeatedly", "over and over"), "test": ("many times", "time after time")}
BACKGROUND_DB = -5.0


def single_captions(part: Part, split: str, count: int, rng: np.random.Generator) -> list[str]:
    """Write `count` different captions of a clip with one sound. At least one only names it."""
    if part.sound.kind == "instrument":
        templates = _INSTRUMENT[part.style][split]
    else:
        templates = _EFFECT["texture" if part.style == "texture" or part.times == 1 else "events"][split]
        if part.style == "events" and part.times == 1:
            templates = (
                ("{clause} once", "{clause}", "{noun}, once", "{noun}, one time only")
                if split == "train"
                else ("{clause} just one time", "one instance of {noun}", "{noun}, occurring one time")
            )
        if part.register:
            templates = (*templates, *_PITCHED[split])
    captions = {_fill(str(rng.choice(_GENERIC[split])), part, split, rng)}
    while len(captions) < count:
        pool = templates if rng.random() < 0.85 else _GENERIC[split]
        captions.add(_fill(str(rng.choice(pool)), part, split, rng))
    return sorted(captions)


def mixture_captions(
    first: Part, second: Part, order: str, second_db: float, split: str, count: int, rng: np.random.Generator
) -> list[str]:
    """Write `count` different captions of two sounds, "together" or in "sequence"."""
    templates = (_TOGETHER if order == "together" else _SEQUENCE)[split]
    if order == "together" and second_db <= BACKGROUND_DB:
        templates = (*templates, _BACKGROUND[split])
    captions: set[str] = set()
    while len(captions) < count:
        words = {
            f"{kind}_{which}": describe(part, rng)
            for which, part in (("a", first), ("b", second))
            for kind, describe in (("noun", _noun), ("clause", _clause))
        }
        captions.add(str(rng.choice(templates)).format(**words))
    return sorted(captions)


def _noun(part: Part, rng: np.random.Generator) -> str:
    return str(rng.choice(part.sound.nouns))


def _clause(part: Part, rng: np.random.Generator) -> str:
    if part.sound.kind != "instrument":
        return str(rng.choice(part.sound.clauses))
    # Those templates of an instrument that are sentences begin with the noun and a verb.
    clauses = [t for t in _INSTRUMENT[part.style]["train"] if t.startswith(tuple(f"{{noun}} {{{v}}}" for v in _VERBS))]
    return _fill(str(rng.choice(clauses)), part, "train", rng)


def _fill(template: str, part: Part, split: str, rng: np.random.Generator) -> str:
    def maybe(word: str) -> str:
        return f"{word} " if word and rng.random() < 0.75 else ""

    words = {verb: verb if part.sound.plural else f"{verb}s" for verb in _VERBS}
    words["go"] = "go" if part.sound.plural else "goes"
    chords = "chords" if part.times > 3 else "a chord"
    if part.quality and rng.random() < 0.4:
        chords = f"{part.quality} chords" if part.times > 3 else f"a {part.quality} chord"
    words["chords"] = chords
    words["times"] = _NUMBERS.get(part.times) or str(rng.choice(_MANY[split]))
    low = part.register if part.sound.kind != "instrument" else maybe(part.register)
    slow = maybe(part.speed)
    noun = _noun(part, rng)
    return template.format(
        noun=noun,
        bare=noun.removeprefix("a ").removeprefix("an ").removeprefix("the "),
        clause=_clause(part, rng) if "{clause}" in template else "",
        low=low,
        slow=slow,
        slowly={"slow ": "slowly ", "fast ": "quickly "}.get(slow, ""),
        soft=maybe(part.dynamics),
        **words,
    )
