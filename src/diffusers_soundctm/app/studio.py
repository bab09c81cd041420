"""Make sounds with one pipeline for many people: each sound once, in fair turns, with cancelling."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ..control import IntensityObjective, Sound, drift
from ..pipelines.known_sounds import unknown_message
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from .code_export import python_code
from .curves import curve_error
from .fair_queue import FairQueue, Owner
from .recipe import DURATION, LOWEST_DB, Recipe, Upload
from .rendering import Cancelled, Sources, render
from .uploads import read_upload
from .waveform_cache import WaveformCache


@dataclass(frozen=True, eq=False)
class Take:
    """A finished sound: its recipe and its waveform (channels, samples), float32.

    `turned_down_db` says by how many dB the waveform was scaled down because its peak exceeded full scale.
    """

    recipe: Recipe
    waveform: torch.Tensor
    sampling_rate: int
    turned_down_db: float = 0.0

    @property
    def id(self) -> str:
        """The recipe's id."""
        return self.recipe.id

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.waveform.shape[-1] / self.sampling_rate


@dataclass(frozen=True, eq=False)
class Recording:
    """An uploaded sound: its waveform (channels, samples), float32."""

    waveform: torch.Tensor


NOBODY = Owner()


class Studio:
    """Makes takes with one pipeline for many owners (browser tabs and API clients).

    Args:
        pipe: Any `SoundCTMPipeline`.
        model: The model's name in files and code: "embedded", a folder or a Hub id.
        on_gpu: Decorator for the function that runs the model, such as `spaces.GPU` on ZeroGPU. That function runs in
            another process, so it reports no steps, and a sound that it has started cannot be cancelled.
        lora: The adapters that are loaded in the pipeline, see `lora.load_adapters`. A recipe names those that it uses.
    """

    def __init__(
        self,
        pipe: SoundCTMPipeline,
        model: str = "embedded",
        on_gpu: Callable[[Callable], Callable] | None = None,
        lora: Sequence[str] = (),
    ):
        self.pipe, self.model, self.lora = pipe, model, tuple(lora)
        # Threads may share the pipeline. One sound is made at a time all the same: sounds made together would need
        # the memory of all of them and each would finish later, and the queue keeps one person from delaying others.
        self._queue = FairQueue()
        self._takes: WaveformCache[Take] = WaveformCache()
        self._uploads: WaveformCache[Recording] = WaveformCache()
        self._jobs: dict[str, set[threading.Event]] = {}  # by session
        self._jobs_lock = threading.Lock()
        self._render = render
        find_unknown = self._find_unknown
        if on_gpu is not None:
            find_unknown = on_gpu(find_unknown)

            def render_elsewhere(recipe: Recipe, known: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
                return render(self.pipe, recipe, lambda source: known.get(_name(source)))

            remote = on_gpu(render_elsewhere)
            self._render = lambda pipe, recipe, sources, on_step: remote(recipe, _known(recipe, sources))
        self._unknown = lru_cache(maxsize=256)(find_unknown)

    @property
    def default_duration(self) -> float:
        """Length of a sound in seconds if none is chosen."""
        low, high = DURATION
        return min(max(self.pipe.default_audio_length_in_s, low), high)

    @property
    def known_kinds(self) -> dict[str, list[str]]:
        """The kinds of sounds that the model knows, each with prompts; {} if its folder does not say."""
        return {} if self.pipe.known_sounds is None else self.pipe.known_sounds.kinds

    def warning(self, prompt: str) -> str:
        """Return a sentence about a prompt that is far from every kind that the model knows, or ""."""
        nearest = self._unknown(prompt) if self.known_kinds else None
        return unknown_message(prompt, nearest) if nearest else ""

    def _find_unknown(self, prompt: str) -> list[str] | None:
        """Return the kinds that are nearest to an unknown prompt, or None for a known one."""
        return self.pipe.unknown_sounds(prompt).get(prompt)

    def make(self, recipe: Recipe, owner: Owner = NOBODY, on_step: Callable[[int, int], None] | None = None) -> Take:
        """Make the sound of a recipe, or take it from the cache.

        Args:
            recipe: What to make.
            owner: Who asks; it determines the turn in the queue and who can cancel.
            on_step: Called after each sampling step with the numbers of finished and of all steps.

        Raises:
            Busy: Too many requests are waiting.
            Cancelled: `cancel` was called for the owner's session.
            ValueError: The model cannot make the sound; the message says why.
        """
        return next(self.make_each([recipe], owner, on_step))

    def make_each(
        self, recipes: list[Recipe], owner: Owner = NOBODY, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[Take]:
        """Yield the takes of several recipes as they are finished; other owners get turns in between.

        The arguments and errors are those of `make`.
        """
        with self._job(owner.session) as cancelled:

            def go_on(done: int, total: int) -> bool:
                if on_step is not None:
                    on_step(done, total)
                return not cancelled.is_set()

            for recipe in recipes:
                take = self._takes.get(recipe.id)
                if take is None:
                    with self._queue.turn(owner, cancelled.is_set) as has_turn:
                        # Somebody else may have made the same sound while this request waited.
                        take = self._takes.get(recipe.id)
                        if has_turn and take is None:
                            waveform, level = self._render(self.pipe, recipe, self._source, go_on)
                            take = Take(recipe, waveform, self.pipe.sampling_rate, round(level, 1))
                            self._takes.put(recipe.id, take)
                if cancelled.is_set() or take is None:
                    raise Cancelled
                yield take

    def cancel(self, session: str) -> None:
        """Stop everything that a session has running or waiting. A running sound stops at its next sampling step."""
        with self._jobs_lock:
            for cancelled in self._jobs.get(session, ()):
                cancelled.set()
        self._queue.wake()

    @contextmanager
    def _job(self, session: str) -> Iterator[threading.Event]:
        cancelled = threading.Event()
        with self._jobs_lock:
            self._jobs.setdefault(session, set()).add(cancelled)
        try:
            yield cancelled
        finally:
            with self._jobs_lock:
                self._jobs[session].discard(cancelled)
                if not self._jobs[session]:
                    del self._jobs[session]

    def code(self, recipe: Recipe, filename: str = "sound.wav") -> str:
        """Return a Python script that makes the recipe's sound again, sample for sample."""
        return python_code(recipe, self.model, filename, self.pipe.dtype, self.pipe.device)

    def add_upload(self, path: str | Path) -> Upload:
        """Read an audio file and keep its samples, with the channels and the sampling rate of the model.

        Raises:
            ValueError: As `read_upload`.
        """
        waveform = read_upload(path, self.pipe.sampling_rate, self.pipe.num_channels)
        upload = Upload(hashlib.sha256(waveform.numpy().tobytes()).hexdigest()[:16])
        self._uploads.put(upload.digest, Recording(waveform))
        return upload

    def upload(self, upload: Upload) -> torch.Tensor:
        """Return the waveform (channels, samples) of an uploaded sound.

        Raises:
            ValueError: The upload is unknown, or newer ones took its memory.
        """
        recording = self._uploads.get(upload.digest)
        if recording is None:
            raise ValueError("The uploaded sound is no longer available; upload it again.")
        return recording.waveform

    def _source(self, source: Recipe | Upload) -> torch.Tensor | None:
        if isinstance(source, Upload):
            return self.upload(source)
        take = self._takes.get(source.id)
        return None if take is None else take.waveform

    def drift(self, first: Take, second: Take) -> float | None:
        """Return how much `second` differs from `first`: 0 equal, about 1 unrelated, None if one is silent."""
        try:
            return drift(first.waveform.mean(dim=0), second.waveform.mean(dim=0), self.pipe.sampling_rate).item()
        except ValueError:
            return None

    def loudness(self, waveform: torch.Tensor, points: int = 64) -> list[float]:
        """Return the short-time loudness in dB of a waveform (channels, samples) at `points` evenly spaced times."""
        sound = Sound.of_latents(self.pipe, torch.zeros(1, 1, 1, 1)).of_waveform(waveform[None])
        curve = IntensityObjective([-20.0, -20.0], domain="waveform").measure(sound).cpu()
        curve = torch.nn.functional.interpolate(curve[:, None], points, mode="linear", align_corners=True)
        return [round(value, 1) for value in curve[0, 0].clamp(LOWEST_DB, 0).tolist()]

    def curve_error(self, take: Take) -> float:
        """Return the mean distance in dB of a drawn sound's loudness from its curve."""
        return round(curve_error(take.recipe.curve, self.loudness(take.waveform)), 1)


def _name(source: Recipe | Upload) -> str:
    return source.digest if isinstance(source, Upload) else source.id


def _known(recipe: Recipe, sources: Sources) -> dict[str, torch.Tensor]:
    """Return the waveforms, by name, that exist already of the sounds that `recipe` is made from."""
    if recipe.source is None:
        return {}
    waveform = sources(recipe.source)
    if waveform is not None:
        return {_name(recipe.source): waveform}
    return _known(recipe.source, sources)
