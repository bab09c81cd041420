"""The work behind the app: recipes become takes, once each, in turns, and can be cancelled."""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import audio
from ..control import IntensityObjective, Sound, drift
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .code_export import python_code
from .fair_queue import FairQueue
from .recipe import CURVE_POINTS, DURATION, LOWEST_DB, Morph, Noise, Recipe, Upload
from .rendering import Cancelled, render

NUM_DRAFTS = 8
NUM_VARIATIONS = 4
MAX_UPLOAD_BYTES = 20 * 2**20
MAX_UPLOAD_SAMPLES = 30 * 2 * 192_000  # of all channels, before resampling: a compressed file may hold many more
MAX_KEPT_SAMPLES = 64 * 2**20  # in the cache, 256 MB of float32


@dataclass(frozen=True, eq=False)
class Take:
    """A sound and where it came from; `waveform` is float32 (channels, samples)."""

    recipe: Recipe
    waveform: torch.Tensor
    sampling_rate: int

    @property
    def id(self) -> str:
        return self.recipe.id

    @property
    def seconds(self) -> float:
        return self.waveform.shape[-1] / self.sampling_rate


class _Kept:
    """The most recently used waveforms by name, `MAX_KEPT_SAMPLES` of them in all."""

    def __init__(self):
        self._waveforms: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> torch.Tensor | None:
        with self._lock:
            if name in self._waveforms:
                self._waveforms.move_to_end(name)
            return self._waveforms.get(name)

    def put(self, name: str, waveform: torch.Tensor) -> None:
        with self._lock:
            self._waveforms[name] = waveform
            while (
                len(self._waveforms) > 1 and sum(map(torch.Tensor.numel, self._waveforms.values())) > MAX_KEPT_SAMPLES
            ):
                self._waveforms.popitem(last=False)


class Studio:
    """Makes takes with one pipeline for many owners (people, browser tabs, API clients).

    Args:
        pipe: any `SoundCTMPipeline`.
        model: what its users call it, "embedded", a folder or a Hub id; written into files and code.
        on_gpu: decorator of the function that runs the model (`spaces.GPU` on ZeroGPU, where that function runs in a
            process of its own: then progress and cancelling within a sound do not reach it).
    """

    def __init__(
        self, pipe: SoundCTMPipeline, model: str = "embedded", on_gpu: Callable[[Callable], Callable] | None = None
    ):
        self.pipe, self.model = pipe, model
        self._turns = FairQueue()
        self._takes, self._uploads = _Kept(), _Kept()
        self._jobs: dict[str, set[threading.Event]] = {}
        self._jobs_lock = threading.Lock()
        self._render = render
        if on_gpu is not None:

            def render_elsewhere(recipe: Recipe, known: dict[str, torch.Tensor]) -> torch.Tensor:
                return render(self.pipe, recipe, lambda source: known.get(_name(source)))

            remote = on_gpu(render_elsewhere)
            self._render = lambda pipe, recipe, sources, on_step: remote(recipe, _known(recipe, sources))

    @property
    def default_duration(self) -> float:
        """Seconds of sound when nothing else is asked for."""
        low, high = DURATION
        return min(max(self.pipe.default_audio_length_in_s, low), high)

    def make(self, recipe: Recipe, owner: str = "", on_step: Callable[[int, int], None] | None = None) -> Take:
        """The take of a recipe, from the cache if it was made before; waits for its turn.

        Raises:
            Cancelled: `cancel(owner)` was called meanwhile.
            ValueError: the model cannot do this; the message says why.
        """
        return next(self.make_each([recipe], owner, on_step))

    def make_each(
        self, recipes: list[Recipe], owner: str = "", on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[Take]:
        """Takes one after the other, each as soon as it is there; others get their turns in between."""
        with self._job(owner) as cancelled:

            def go_on(done: int, of: int) -> bool:
                if on_step is not None:
                    on_step(done, of)
                return not cancelled.is_set()

            for recipe in recipes:
                waveform = self._takes.get(recipe.id)
                if waveform is None:
                    with self._turns.turn(owner, cancelled.is_set) as has_turn:
                        # Somebody may have asked for the same and got it while this one waited.
                        waveform = self._takes.get(recipe.id)
                        if has_turn and waveform is None:
                            waveform = self._render(self.pipe, recipe, self._source, go_on)
                            self._takes.put(recipe.id, waveform)
                if cancelled.is_set():
                    raise Cancelled("Cancelled.")
                yield Take(recipe, waveform, self.pipe.sampling_rate)

    def cancel(self, owner: str) -> None:
        """Stop what `owner` has running or waiting, at the next step of the sampler."""
        with self._jobs_lock:
            for cancelled in self._jobs.get(owner, ()):
                cancelled.set()
        self._turns.wake()

    @contextmanager
    def _job(self, owner: str) -> Iterator[threading.Event]:
        cancelled = threading.Event()
        with self._jobs_lock:
            self._jobs.setdefault(owner, set()).add(cancelled)
        try:
            yield cancelled
        finally:
            with self._jobs_lock:
                self._jobs[owner].discard(cancelled)
                if not self._jobs[owner]:
                    del self._jobs[owner]

    def code(self, recipe: Recipe, filename: str = "sound.wav") -> str:
        """Python that makes the recipe's sound with the library, sample for sample."""
        return python_code(recipe, self.model, filename, self.pipe.dtype, self.pipe.device)

    # What is brought

    def bring(self, path: str | Path) -> Upload:
        """Read an audio file and keep its samples, with the channels and at the rate of the model.

        Raises:
            ValueError: too large, too long or short, no audio, or silent.
        """
        import soundfile

        if not isinstance(path, (str, Path)):
            raise ValueError("There is no file; give a WAV, FLAC, OGG or MP3 file.")
        size = Path(path).stat().st_size
        if size > MAX_UPLOAD_BYTES:
            raise ValueError(f"The file has {size / 2**20:.0f} MB; at most {MAX_UPLOAD_BYTES // 2**20} MB are read.")
        low, high = DURATION
        try:
            with soundfile.SoundFile(path) as file:
                seconds, samples = file.frames / file.samplerate, file.frames * file.channels
        except (OSError, TypeError, soundfile.SoundFileError) as error:  # headerless files (.raw) are a TypeError
            raise ValueError("This is no sound file that can be read; give a WAV, FLAC, OGG or MP3 file.") from error
        if not low <= seconds <= high:
            raise ValueError(f"The sound has {seconds:.2f} s; give one of {low:g} to {high:g} s.")
        if samples > MAX_UPLOAD_SAMPLES:
            raise ValueError("The sound has too many channels or samples a second; give a stereo one at 48 kHz.")
        waveform = audio.match_channels(audio.read_audio(path, self.pipe.sampling_rate)[0], self.pipe.num_channels)
        if not waveform.isfinite().all() or not waveform.abs().max() > 1e-4:
            raise ValueError("The sound is silent, or its samples are no numbers; give another one.")
        upload = Upload(hashlib.sha256(waveform.numpy().tobytes()).hexdigest()[:16])
        self._uploads.put(upload.digest, waveform)
        return upload

    def upload(self, upload: Upload) -> torch.Tensor:
        """Samples (channels, samples) of a sound that was brought."""
        waveform = self._uploads.get(upload.digest)
        if waveform is None:
            raise ValueError("The uploaded sound is no longer here; upload it again.")
        return waveform

    def _source(self, source: Recipe | Upload) -> torch.Tensor | None:
        return self.upload(source) if isinstance(source, Upload) else self._takes.get(source.id)

    # Measurements

    def drift(self, first: Take, second: Take) -> float | None:
        """How far `second` is from `first`, 0 the same to about 1 unrelated; None where one is silent."""
        try:
            return drift(first.waveform.mean(dim=0), second.waveform.mean(dim=0), self.pipe.sampling_rate).item()
        except ValueError:
            return None

    def loudness(self, waveform: torch.Tensor, points: int = 64) -> list[float]:
        """Short-time loudness in dB of (channels, samples), at `points` evenly spread times."""
        sound = Sound.of_latents(self.pipe, torch.zeros(1, 1, 1, 1)).of_waveform(waveform[None])
        curve = IntensityObjective([-20.0, -20.0], domain="waveform").measure(sound).cpu()
        curve = torch.nn.functional.interpolate(curve[:, None], points, mode="linear", align_corners=True)
        return [round(value, 1) for value in curve[0, 0].clamp(LOWEST_DB, 0).tolist()]


def _name(source: Recipe | Upload) -> str:
    return source.digest if isinstance(source, Upload) else source.id


def _known(recipe: Recipe, sources: Callable[[Recipe | Upload], torch.Tensor | None]) -> dict[str, torch.Tensor]:
    """The sounds that a recipe is made from and that are there already, by name."""
    if recipe.source is None:
        return {}
    waveform = sources(recipe.source)
    if waveform is not None:
        return {_name(recipe.source): waveform}
    return _known(recipe.source, sources)


# Recipes from recipes


def draft_recipes(prompt: str, duration: float, seed: int | None = None, **settings: Any) -> list[Recipe]:
    """`NUM_DRAFTS` one-step sounds of successive seeds, the first of them drawn at random unless it is given."""
    seed = secrets.randbelow(10**6) if seed is None else seed
    first = Recipe(prompt, Noise(seed), duration, **settings)
    return [first.change(noise=Noise(first.noise.seed + i)) for i in range(NUM_DRAFTS)]


def refined(recipe: Recipe, **settings: Any) -> Recipe:
    """The same sound from the same noise with other settings, `steps` above all."""
    return recipe.change(**settings)


def variation_recipes(recipe: Recipe, amount: float, seed: int = 0, count: int = NUM_VARIATIONS) -> list[Recipe]:
    """Sounds whose noise is `amount` (0 the same, 1 unrelated) away; with the same seeds, along the same paths."""
    turns = recipe.noise.variations
    return [recipe.change(noise=Noise(recipe.noise.seed, (*turns, (amount, seed + i)))) for i in range(count)]


def morphed(first: Recipe, second: Recipe, steps: int) -> Recipe:
    """A sound that begins as `first` and ends as `second`, with the settings of `first`."""
    return _from_noise(first).change(morph=Morph(second.prompt, _from_noise(second).noise), steps=steps)


def drawn(recipe: Recipe, curve: list[float], strength: float, steps: int) -> Recipe:
    """The sound that follows a loudness curve (dB)."""
    if not isinstance(curve, Sequence) or isinstance(curve, str) or not curve:
        raise ValueError("The curve is empty; draw a line over the spectrogram.")
    if len(curve) > CURVE_POINTS[1]:
        raise ValueError(f"The curve has {len(curve)} values; give at most {CURVE_POINTS[1]}.")
    return _from_noise(recipe).change(curve=tuple(curve), strength=strength, steps=steps)


def looped(recipe: Recipe, steps: int) -> Recipe:
    """The sound as one that may be played round and round."""
    return _from_noise(recipe).change(loop=True, steps=steps)


def _from_noise(recipe: Recipe) -> Recipe:
    """The sound of the same noise that nothing controls yet."""
    if recipe.source is not None:
        raise ValueError("A filled or continued sound does not come from noise alone; pick a draft for this.")
    return recipe.change(morph=None, curve=(), loop=False)


def filled(
    source: Recipe | Upload,
    seconds: float,
    prompt: str,
    spans: list[tuple[float, float]],
    steps: int,
    seed: int = 0,
    **settings: Any,
) -> Recipe:
    """A sound of `seconds` with its marked spans made anew."""
    if not isinstance(spans, Sequence) or isinstance(spans, str) or not spans:
        raise ValueError("Nothing is marked; drag over the part of the spectrogram that should be made anew.")
    return Recipe(prompt, Noise(seed), seconds, source=source, spans=tuple(spans), steps=steps, **settings)


def continued(
    source: Recipe | Upload, seconds: float, prompt: str, more: float, steps: int, seed: int = 0, **settings: Any
) -> Recipe:
    """A sound of `seconds` that goes on for `more` seconds."""
    if not more > 0 or seconds + more > DURATION[1]:
        raise ValueError(
            f"{seconds:.2f} s and {more:g} s more are out of range; a sound has at most {DURATION[1]:g} s in all."
        )
    return Recipe(prompt, Noise(seed), seconds + more, source=source, steps=steps, **settings)
