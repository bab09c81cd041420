"""A vocoder that predicts a complex spectrogram from a log-mel and inverts it."""

import math
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from ..audio import LOG_FLOOR, mel_filterbank

# Of `match`. Four iterations come as close as seven do with 1. With 2, the result begins to ring.
RELAXATION = 1.5


class ConvNeXtBlock(nn.Module):
    """x + scale·MLP(norm(depthwise convolution over frames)), (B, frames, C) → (B, frames, C)."""

    def __init__(self, hidden_size: int, intermediate_size: int, layer_scale: float):
        super().__init__()
        self.depthwise = nn.Conv1d(hidden_size, hidden_size, 7, padding=3, groups=hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.expand = nn.Linear(hidden_size, intermediate_size)
        self.project = nn.Linear(intermediate_size, hidden_size)
        self.scale = nn.Parameter(torch.full((hidden_size,), layer_scale))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        mixed = self.depthwise(hidden.transpose(1, 2)).transpose(1, 2)
        return hidden + self.scale * self.project(nn.functional.gelu(self.expand(self.norm(mixed))))


class ISTFTVocoder(ModelMixin, ConfigMixin):
    """Vocoder similar to Vocos (arXiv 2306.00814): ConvNeXt blocks at the frame rate and an inverse STFT.

    A convolution over frames gives every frame of a steady mel the same phase, so its tones are multiples of the frame
    rate (100 Hz). Here, the phase of every bin k is that of a resonator that the network drives:

        r_t = a_t·exp(i·(2π·hop·k/n_fft + δ_t))·r_{t−1} + b_t,      spectrum_t = exp(m_t)·r_t/|r_t|

    The network predicts, per frame and bin, the retention a in (0, 1), the frequency offset δ in (−π, π) from the
    center of the bin, the complex drive b, and the log-magnitude m relative to the interpolated log-mel. a = 0 is
    Vocos.

    Frames with contradicting phases cancel where they overlap, which blurs rattles and rings. Therefore `match` refines
    the waveform to match the conditioning log-mel.

    Args:
        sampling_rate: In Hz.
        model_in_dim: Number of mel bands, under the name that `SpeechT5HifiGan` uses.
        n_fft: Length of the window and of the Fourier transform, in samples.
        hop_length: Samples per mel frame.
        hidden_size: Width of the ConvNeXt blocks.
        num_layers: Number of ConvNeXt blocks.
        intermediate_size: Inner width of the ConvNeXt blocks.
        mel_iterations: Iterations of `match`, 0 or more.
    """

    __module__ = "diffusers_soundctm"
    config: Any  # diffusers gives it no useful type

    @register_to_config
    def __init__(
        self,
        sampling_rate: int = 16000,
        model_in_dim: int = 64,
        n_fft: int = 1024,
        hop_length: int = 160,
        hidden_size: int = 256,
        num_layers: int = 6,
        intermediate_size: int = 768,
        mel_iterations: int = 4,
    ):
        super().__init__()
        bins = n_fft // 2 + 1
        self.embed = nn.Conv1d(model_in_dim, hidden_size, 7, padding=3)
        self.embed_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(hidden_size, intermediate_size, 1 / num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.head = nn.Linear(hidden_size, 5 * bins)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

        filters = mel_filterbank(sampling_rate, n_fft, model_in_dim)
        self.register_buffer("filters", filters, persistent=False)
        weights = filters + 1e-8
        self.register_buffer("interpolation", (weights / weights.sum(dim=1, keepdim=True)).T, persistent=False)
        # A filter has unit area over Hz, so a mel is the mean magnitude times the number of bins per Hz.
        self.log_bin_width = math.log(sampling_rate / n_fft)
        # Explicitly float32: `from_pretrained` changes the default dtype to that of the network.
        self.register_buffer("window", torch.hann_window(n_fft, dtype=torch.float32), persistent=False)
        # Phase advance in n_fft-ths of a turn. Integers are not rounded; an error would grow from frame to frame.
        self.register_buffer("advance", torch.arange(bins) * hop_length % n_fft, persistent=False)

    def predict(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict the resonators' parameters from a log-mel.

        Args:
            mel: (B, frames, mels), natural logarithm.

        Returns:
            (m, a, δ, b), each (B, frames, bins). b is complex.
        """
        mel = mel.float()
        # Log-mels lie in about [-11.5, 2].
        hidden = self.embed(((mel + 6) / 3).to(self.dtype).transpose(1, 2)).transpose(1, 2)
        hidden = self.embed_norm(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        log_magnitude, retention, offset, real, imaginary = self.head(self.norm(hidden)).float().chunk(5, dim=-1)
        log_magnitude = log_magnitude + mel @ self.interpolation.float() + self.log_bin_width
        return (
            log_magnitude.clamp(max=math.log(self.config.n_fft)),
            torch.sigmoid(retention),
            math.pi * torch.tanh(offset),
            torch.complex(real, imaginary),
        )

    def synthesize(
        self, log_magnitude: torch.Tensor, retention: torch.Tensor, offset: torch.Tensor, drive: torch.Tensor
    ) -> torch.Tensor:
        """Synthesize the waveform (B, frames·hop_length) from the parameters (m, a, δ, b) of `predict`."""
        turn = torch.polar(retention, self.advance.float() * (2 * math.pi / self.config.n_fft) + offset)
        state = drive[:, 0]
        states = [state]
        for t in range(1, drive.shape[1]):
            state = torch.addcmul(drive[:, t], turn[:, t], state)
            states.append(state)
        resonators = torch.stack(states, dim=2)
        norm = (resonators.real.square() + resonators.imag.square() + 1e-12).rsqrt()
        return self._invert((log_magnitude.exp().transpose(1, 2) * norm) * resonators)

    def _invert(self, spectrum: torch.Tensor) -> torch.Tensor:
        """Inverse STFT of (B, bins, frames), the waveform (B, frames·hop_length)."""
        # The centered inverse of n frames covers n·hop samples: the last half window contains the last hop.
        return torch.istft(
            spectrum,
            self.config.n_fft,
            self.config.hop_length,
            window=self.window.float(),
            center=True,
            length=spectrum.shape[-1] * self.config.hop_length,
        )

    def match(self, waveform: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """Refine a waveform to match a log-mel, keeping its phases. Repeats `mel_iterations` times:

            X ← X·exp(RELAXATION·interpolation(mel − logmel(x))),      x = ISTFT(X)

        Args:
            waveform: (B, frames·hop_length). Waveforms of at most half a window are returned unchanged, because they
                have no mel.
            mel: Conditioning log-mel, (B, frames, mels).

        Returns:
            (B, frames·hop_length).
        """
        config, window = self.config, self.window.float()
        if waveform.shape[-1] <= config.n_fft // 2:
            return waveform
        target = mel.float().clamp(math.log(LOG_FLOOR), math.log(config.n_fft))
        for _ in range(config.mel_iterations):
            spectrum = torch.stft(waveform, config.n_fft, config.hop_length, window=window, return_complex=True)
            spectrum = spectrum[..., : mel.shape[1]]
            own = (spectrum.abs().transpose(1, 2) @ self.filters.float()).clamp(min=LOG_FLOOR).log()
            gain = (RELAXATION * (target - own) @ self.interpolation.float()).exp()
            waveform = self._invert(spectrum * gain.transpose(1, 2))
        return waveform

    def forward(self, mel: torch.Tensor, return_dict: bool = True) -> torch.Tensor | tuple[torch.Tensor]:
        """Convert a log-mel to a waveform.

        Args:
            mel: (B, frames, mels) or (frames, mels), natural logarithm.
            return_dict: Whether to return the waveform itself, as `SpeechT5HifiGan` does, instead of a tuple.

        Returns:
            (B, frames·hop_length) or (frames·hop_length,), float32.

        Raises:
            ValueError: `mel` has another number of dimensions or mel bands, or no frames.
        """
        if mel.dim() not in (2, 3) or mel.shape[-1] != self.config.model_in_dim or mel.shape[-2] == 0:
            raise ValueError(
                f"`mel` has shape {tuple(mel.shape)}; pass (batch, frames, {self.config.model_in_dim}) or "
                f"(frames, {self.config.model_in_dim})."
            )
        batch = mel if mel.dim() == 3 else mel[None]
        waveforms = self.match(self.synthesize(*self.predict(batch)), batch)
        waveform = waveforms if mel.dim() == 3 else waveforms[0]
        return waveform if return_dict else (waveform,)
