"""A cache of the waveforms that were used most recently."""

import threading
from collections import OrderedDict

import torch

MAX_SAMPLES = 64 * 2**20  # 256 MB of float32


class WaveformCache:
    """Waveforms by name. The least recently used ones are dropped when all together exceed `MAX_SAMPLES`."""

    def __init__(self):
        self._waveforms: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> torch.Tensor | None:
        """Return the waveform of that name, or None if there is none."""
        with self._lock:
            if name in self._waveforms:
                self._waveforms.move_to_end(name)
            return self._waveforms.get(name)

    def put(self, name: str, waveform: torch.Tensor) -> None:
        """Keep a waveform. The newest one always stays, whatever its size."""
        with self._lock:
            self._waveforms[name] = waveform
            while len(self._waveforms) > 1 and sum(map(torch.Tensor.numel, self._waveforms.values())) > MAX_SAMPLES:
                self._waveforms.popitem(last=False)
