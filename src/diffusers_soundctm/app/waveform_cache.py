"""A cache of the waveforms that were used most recently."""

import threading
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

import torch

MAX_SAMPLES = 64 * 2**20  # 256 MB of float32


class HasWaveform(Protocol):
    """A sound with its samples."""

    @property
    def waveform(self) -> torch.Tensor: ...


T = TypeVar("T", bound=HasWaveform)


class WaveformCache(Generic[T]):
    """Sounds by name. The least recently used ones are dropped when all together exceed `MAX_SAMPLES`."""

    def __init__(self):
        self._sounds: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> T | None:
        """Return the sound of that name, or None if there is none."""
        with self._lock:
            if name in self._sounds:
                self._sounds.move_to_end(name)
            return self._sounds.get(name)

    def put(self, name: str, sound: T) -> None:
        """Keep a sound. The newest one always stays, whatever its size."""
        with self._lock:
            self._sounds[name] = sound
            while len(self._sounds) > 1 and sum(one.waveform.numel() for one in self._sounds.values()) > MAX_SAMPLES:
                self._sounds.popitem(last=False)
