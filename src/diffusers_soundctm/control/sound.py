"""What objectives measure: latents, and the log-mel and waveform they decode to, each decoded when first asked for."""

from collections.abc import Callable
from functools import cached_property

import torch

from .. import audio


class Sound:
    """A batch of sounds, seen as latents, log-mels or waveforms; differentiable from each to the next.

    Attributes:
        latents: z_0 (B, C, time, width); None for a sound that was recorded.
        mel: log-mel (B, frames, n_mels), natural logarithm.
        waveform: (B, samples), full scale 1, float32.
        sampling_rate: samples a second.
        front_end: the `LogMel` that takes this model's waveforms to its mels.
    """

    def __init__(
        self,
        latents: torch.Tensor | None,
        decode_mel: Callable[[torch.Tensor], torch.Tensor],
        decode_waveform: Callable[[torch.Tensor], torch.Tensor],
        sampling_rate: int,
        front_end: audio.LogMel,
    ):
        self.latents = latents
        self.sampling_rate, self.front_end = sampling_rate, front_end
        self._decode_mel, self._decode_waveform = decode_mel, decode_waveform

    def of_waveform(self, waveform: torch.Tensor) -> "Sound":
        """Another sound (B, samples) at the rate, on the device and behind the mel front end of this one."""
        other = Sound(None, None, None, self.sampling_rate, self.front_end)
        other.waveform = waveform.to(self.front_end.window.device)
        other.mel = self.front_end(other.waveform)
        return other

    @cached_property
    def mel(self) -> torch.Tensor:
        return self._decode_mel(self.latents)

    @cached_property
    def waveform(self) -> torch.Tensor:
        return self._decode_waveform(self.mel)

    @property
    def batch_size(self) -> int:
        return len(self.mel if self.latents is None else self.latents)

    @property
    def frames_per_second(self) -> float:
        return self.sampling_rate / self.front_end.hop_length

    @cached_property
    def mel_frequencies(self) -> torch.Tensor:
        """Centre of gravity of each mel filter in Hz, (n_mels,)."""
        bank = self.front_end.filterbank
        hertz = torch.linspace(0, self.sampling_rate / 2, len(bank), device=bank.device)
        return hertz @ bank / bank.sum(dim=0).clamp(min=1e-12)
