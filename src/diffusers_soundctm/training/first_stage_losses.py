"""Training of autoencoder and vocoder: segments of clips, spectral losses, a discriminator."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..audio import TRAINING_PEAK, LogMel


def cut_segments(
    waveforms: np.ndarray, clips: torch.Tensor, starts: torch.Tensor, num_frames: int, n_fft: int, hop_length: int
) -> torch.Tensor:
    """Cut segments of clips with the context of their mel frames, so that frames equal those of the whole clip's mel.

    Args:
        waveforms: int16 (N, samples), full scale 32767.
        clips: Indices of the clips, (B,).
        starts: First frame of each segment, (B,).
        num_frames: Frames per segment.
        n_fft: Window of the mel front end in samples.
        hop_length: Samples per frame.

    Returns:
        float32 (B, (num_frames − 1)·hop_length + n_fft), normalized by the peak of the whole clip, with reflection
        beyond the clip's ends. `LogMel(..., center=False)` gives the mel. The segment itself starts at sample n_fft/2.
    """
    length = (num_frames - 1) * hop_length + n_fft
    segments = np.empty((len(clips), length), np.float32)
    for row, (clip, start) in enumerate(zip(clips.tolist(), starts.tolist(), strict=True)):
        waveform = waveforms[clip]
        scale = TRAINING_PEAK / max(np.abs(waveform.astype(np.int32)).max(), 1)
        padded = np.pad(waveform, n_fft // 2, mode="reflect")
        segments[row] = padded[start * hop_length : start * hop_length + length] * np.float32(scale)
    return torch.from_numpy(segments)


def draw_starts(
    waveforms: np.ndarray,
    clips: torch.Tensor,
    num_frames: int,
    hop_length: int,
    generator: torch.Generator,
    candidates: int = 1,
) -> torch.Tensor:
    """Draw random segments: for each clip the loudest of `candidates` uniform draws.

    Args:
        waveforms: int16 (N, samples).
        clips: Indices of the clips, (B,).
        num_frames: Frames per segment.
        hop_length: Samples per frame.
        generator: Source of randomness.
        candidates: Draws per clip.

    Returns:
        The first frame of each segment, (B,).

    Raises:
        ValueError: A clip is shorter than a segment.
    """
    total = waveforms.shape[1] // hop_length
    if num_frames > total:
        raise ValueError(f"`num_frames` is {num_frames}, but a clip has {total} frames; give at most {total}.")
    drawn = torch.randint(total - num_frames + 1, (len(clips), candidates), generator=generator)
    if candidates == 1:
        return drawn[:, 0]
    # Every eighth sample suffices to compare loudness.
    energy = [
        [
            np.square(waveforms[clip, s * hop_length : (s + num_frames) * hop_length : 8].astype(np.float32)).sum()
            for s in row
        ]
        for clip, row in zip(clips.tolist(), drawn.tolist(), strict=True)
    ]
    return drawn.gather(1, torch.tensor(np.array(energy)).argmax(dim=1, keepdim=True))[:, 0]


def kl_divergence(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, e^logvar) ‖ N(0, 1)) in nats, averaged over all elements of the latents."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


class MelLoss(nn.Module):
    """Mean |difference| of two log-mels that are clamped at a floor.

    Levels below −8 are inaudible next to a normalized clip's peak. Without the clamp, the exact depth of near-silence,
    down to ln 1e-5 = −11.5, would outweigh the audible part.

    Args:
        mel: The mel front end.
        floor: Smallest log-mel (natural logarithm).
    """

    def __init__(self, mel: LogMel, floor: float = -9.0):
        super().__init__()
        self.mel, self.floor = mel, floor

    def forward(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Compare waveforms (B, samples); returns a scalar."""
        return (self.mel(generated).clamp(min=self.floor) - self.mel(real).clamp(min=self.floor)).abs().mean()


class MultiResolutionSTFTLoss(nn.Module):
    """Mean over resolutions of spectral convergence ‖|X| − |Y|‖ / max(‖|X|‖, c) plus mean |ln|X| − ln|Y||.

    The denominator is clamped at c = `floor`·√(number of bins), because it vanishes in silent segments. Magnitudes are
    clamped at `floor` before the logarithm.

    Args:
        n_ffts: Windows in samples; hops are a quarter of them.
        floor: Smallest magnitude.
    """

    def __init__(self, n_ffts: Sequence[int] = (256, 512, 1024, 2048), floor: float = 1e-2):
        super().__init__()
        self.n_ffts, self.floor = tuple(n_ffts), floor
        for n_fft in self.n_ffts:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)

    def magnitude(self, waveform: torch.Tensor, n_fft: int) -> torch.Tensor:
        window = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(waveform.float(), n_fft, n_fft // 4, window=window, return_complex=True)
        # The modulus of a complex number has no gradient at 0.
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-10).sqrt()

    def forward(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Compare waveforms (B, samples); returns a scalar."""
        total = 0.0
        for n_fft in self.n_ffts:
            fake, true = self.magnitude(generated, n_fft), self.magnitude(real, n_fft)
            norm = true.square().sum(dim=(1, 2)).sqrt().clamp(min=self.floor * (true[0].numel() ** 0.5))
            convergence = (fake - true).square().sum(dim=(1, 2)).sqrt() / norm
            log_distance = (fake.clamp(min=self.floor).log() - true.clamp(min=self.floor).log()).abs().mean()
            total = total + convergence.mean() + log_distance
        return total / len(self.n_ffts)


class SpectrogramDiscriminator(nn.Module):
    """A small discriminator of complex spectrograms at several resolutions, with four 2-D convolutions for each.

    Args:
        n_ffts: Windows in samples; hops are a quarter of them.
        channels: Width of the convolutions.
    """

    def __init__(self, n_ffts: Sequence[int] = (512, 1024, 2048), channels: int = 16):
        super().__init__()
        self.n_ffts = tuple(n_ffts)
        norm = nn.utils.parametrizations.weight_norm
        self.stacks = nn.ModuleList()
        for n_fft in self.n_ffts:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            layers = [norm(nn.Conv2d(2, channels, (7, 5), (2, 2), (3, 2)))]
            layers += [norm(nn.Conv2d(channels, channels, (5, 3), (2, 1), (2, 1))) for _ in range(2)]
            layers += [norm(nn.Conv2d(channels, 1, (3, 3), 1, 1))]
            self.stacks.append(nn.ModuleList(layers))

    def forward(self, waveform: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Discriminate waveforms (B, samples).

        Returns:
            The logits, one map per resolution, and the feature maps of the layers below.
        """
        logits, features = [], []
        for n_fft, layers in zip(self.n_ffts, self.stacks, strict=True):
            window = getattr(self, f"window_{n_fft}")
            spectrum = torch.stft(waveform.float(), n_fft, n_fft // 4, window=window, return_complex=True)
            power = (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-6)
            # X·|X|^(−0.7) keeps the phase and compresses levels, so that quiet harmonics count beside loud ones.
            hidden = torch.view_as_real(spectrum).permute(0, 3, 1, 2) * power[:, None] ** -0.35
            for layer in layers[:-1]:
                hidden = nn.functional.leaky_relu(layer(hidden), 0.1)
                features.append(hidden)
            logits.append(layers[-1](hidden))
        return logits, features


def discriminator_loss(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the discriminator: mean over resolutions of E[max(0, 1 − D(x))] + E[max(0, 1 + D(x̂))]."""
    terms = [(1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Hinge loss of the generator: mean over resolutions of E[max(0, 1 − D(x̂))]."""
    return torch.stack([(1 - f).relu().mean() for f in fake]).mean()


def feature_matching_loss(real: Sequence[torch.Tensor], fake: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean |difference| of the discriminator's feature maps, relative to the mean magnitude of the real ones."""
    terms = [(r - f).abs().mean() / r.abs().mean().clamp(min=1e-4) for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def frequency_loss(offset: torch.Tensor, padded: torch.Tensor, window: torch.Tensor, hop_length: int) -> torch.Tensor:
    """Compare a vocoder's frequency offsets δ with the waveform's phase advance between frames, beyond the bins' own.

        Σ w·(1 − cos(δ_t − arg(X_t·conj(X_{t−1})·exp(−2πi·hop·k/n_fft)))) / Σ w,   w = (|X_t|·|X_{t−1}|)^(1/4)

    Args:
        offset: δ in radians, (B, frames, bins).
        padded: Waveform with its context, from `cut_segments`.
        window: Analysis window of length n_fft.
        hop_length: Samples per frame.
    """
    n_fft = len(window)
    spectrum = torch.stft(padded, n_fft, hop_length, window=window, center=False, return_complex=True)
    advance = torch.remainder(torch.arange(n_fft // 2 + 1, device=padded.device) * hop_length / n_fft, 1.0)
    turn = (
        spectrum[..., 1:]
        * spectrum[..., :-1].conj()
        * torch.polar(torch.ones_like(advance), -2 * torch.pi * advance)[:, None]
    )
    weight = turn.abs().sqrt().sqrt()
    error = 1 - torch.cos(offset[:, 1:].transpose(1, 2) - turn.angle())
    return (weight * error).sum() / weight.sum().clamp(min=1e-3)
