"""`ISTFTVocoder` in real arithmetic, without a loop over frames, so that it exports to ONNX.

ONNX has no complex numbers, and runtimes compute its Fourier transform slowly or not at all. Here, the transform is
two matrix products, and the resonators' recursion is a scan over blocks. The numbers are those of `ISTFTVocoder` up to
rounding.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..audio import LOG_FLOOR
from ..models.vocoder import RELAXATION, ISTFTVocoder

LONGEST_BLOCK = 16  # frames that the scan takes one after the other, in all blocks at once

Complex = tuple[torch.Tensor, torch.Tensor]  # real and imaginary part


class RealSTFT(nn.Module):
    """STFT and its inverse as products with fixed matrices, like `torch.stft` and `torch.istft` with center=True.

    The transform has N = P·Q points. With n = Q·n1 + n2 and k = k1 + P·k2,

        X[k] = Σ_n2 exp(−2πi·n2·k2/Q) · exp(−2πi·n2·k1/N) · Σ_n1 exp(−2πi·n1·k1/P) · w[n]·x[n]

    Both sums are matrix products. No axis is moved, which runtimes do slowly. For real x, the k1 up to P/2 are enough.
    They hold some bins k beyond N/2, which are conjugates of bins N − k. `bins` and `signs` tell which bin of
    `torch.stft` each of them is, and the sign of its imaginary part; those that are `repeated` are there twice.

    Args:
        window: w, (N,).
        hop_length: Samples per frame, at most N/2.
    """

    def __init__(self, window: torch.Tensor, hop_length: int):
        super().__init__()
        points = len(window)
        rows = max(d for d in range(1, math.isqrt(points) + 1) if points % d == 0)  # P
        columns = points // rows  # Q
        kept = rows // 2 + 1
        self.points, self.hop_length, self.rows, self.columns = points, hop_length, rows, columns
        self.overlap = math.ceil(points / hop_length)  # hops per frame

        k1, n1, n2 = torch.arange(kept), torch.arange(rows), torch.arange(columns)
        cos, sin = _turns(k1, n1, rows)
        inner = torch.cat([cos, -sin])  # (2·kept, P)
        twiddle_cos, twiddle_sin = _turns(k1, n2, points)  # (kept, Q)
        cos, sin = _turns(n2, n2, columns)
        outer = torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])  # [re | im] → [re | im]
        # The inverse is the adjoint. A k1 that stands for −k1 as well counts twice.
        alone = (k1 == 0) | (2 * k1 == rows)
        counts = torch.where(alone, 1.0, 2.0).double().repeat(2) / points
        for name, matrix in {
            "window": window.reshape(rows, columns),
            "inner": inner,
            "inner_inverse": (inner * counts[:, None]).T,
            "twiddle_cos": twiddle_cos,
            "twiddle_sin": twiddle_sin,
            "outer": outer,
            "outer_inverse": outer.T,
        }.items():
            self.register_buffer(name, matrix.float().contiguous(), persistent=False)
        k = (k1[:, None] + rows * torch.arange(columns)).flatten()
        self.bins = torch.minimum(k, points - k)
        self.signs = torch.where(k > points - k, -1.0, 1.0)
        self.repeated = alone.repeat_interleave(columns) & (self.signs < 0)

    def transform(self, waveform: torch.Tensor, num_frames: int) -> Complex:
        """Transform (B, num_frames·hop_length) to real and imaginary part, (B·num_frames, len(bins)) each."""
        padded = F.pad(waveform[:, None], (self.points // 2, self.points // 2), mode="reflect")[:, 0]
        hops = padded[:, : (num_frames + self.overlap - 1) * self.hop_length].unflatten(1, (-1, self.hop_length))
        frames = torch.cat([hops[:, i : i + num_frames] for i in range(self.overlap)], dim=-1)[..., : self.points]
        frames = frames.flatten(0, 1).unflatten(1, (self.rows, self.columns)) * self.window
        real, imaginary = (self.inner @ frames).chunk(2, dim=1)
        partial = [
            real * self.twiddle_cos + imaginary * self.twiddle_sin,
            imaginary * self.twiddle_cos - real * self.twiddle_sin,
        ]
        real, imaginary = (torch.cat(partial, dim=-1) @ self.outer).chunk(2, dim=-1)
        return real.flatten(1), imaginary.flatten(1)

    def invert(self, spectrum: Complex, num_frames: int, envelope: torch.Tensor) -> torch.Tensor:
        """Invert (B·num_frames, len(bins)) to (B, num_frames·hop_length), given the `envelope` of as many frames."""
        parts = [part.unflatten(1, (self.rows // 2 + 1, self.columns)) for part in spectrum]
        real, imaginary = (torch.cat(parts, dim=-1) @ self.outer_inverse).chunk(2, dim=-1)
        partial = [
            real * self.twiddle_cos - imaginary * self.twiddle_sin,
            imaginary * self.twiddle_cos + real * self.twiddle_sin,
        ]
        frames = ((self.inner_inverse @ torch.cat(partial, dim=1)) * self.window).flatten(1)
        return self._overlap_add(frames.unflatten(0, (-1, num_frames)), num_frames) / envelope

    def envelope(self, num_frames: int) -> torch.Tensor:
        """Sum of the squared windows of `num_frames` frames, (1, num_frames·hop_length)."""
        return self._overlap_add(self.window.square().flatten().expand(1, num_frames, self.points), num_frames)

    def _overlap_add(self, frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        hops = F.pad(frames, (0, self.overlap * self.hop_length - self.points)).split(self.hop_length, dim=-1)
        shifted = [F.pad(hop, (0, 0, i, self.overlap - 1 - i)) for i, hop in enumerate(hops)]
        start = self.points // 2
        return sum(shifted[1:], shifted[0]).flatten(1)[:, start : start + num_frames * self.hop_length]


class RealVocoder(nn.Module):
    """An `ISTFTVocoder` in real arithmetic.

    Args:
        vocoder: Its weights are shared.
        max_frames: Most frames of a mel. Resonators forget what is further back than that.
        frame_multiple: The number of frames is a multiple of this.
    """

    def __init__(self, vocoder: ISTFTVocoder, max_frames: int, frame_multiple: int = 1):
        super().__init__()
        config = vocoder.config
        self.stft = RealSTFT(vocoder.window.float(), config.hop_length)
        self.mel_iterations = config.mel_iterations
        self.block = math.gcd(frame_multiple, LONGEST_BLOCK)
        self.doublings = math.ceil(math.log2(max(max_frames / self.block, 1)))
        self.embed, self.embed_norm = vocoder.embed, vocoder.embed_norm
        self.blocks, self.norm = vocoder.blocks, vocoder.norm
        # The head predicts the bins in the order of `stft`. Conjugates have the opposite offset and imaginary part.
        bins, signs = self.stft.bins, self.stft.signs
        weight, bias = vocoder.head.weight.unflatten(0, (5, -1)), vocoder.head.bias.unflatten(0, (5, -1))
        one = torch.ones_like(signs)
        sign = torch.stack([one, one, signs, one, signs])  # of m, a, δ and b
        self.head = nn.Linear(weight.shape[-1], sign.numel())
        self.head.weight = nn.Parameter((weight[:, bins] * sign[..., None]).flatten(0, 1).detach())
        self.head.bias = nn.Parameter((bias[:, bins] * sign).flatten().detach())
        turns = vocoder.advance[bins].double() * signs * (2 * math.pi / config.n_fft)
        filters = vocoder.filters.float()[bins].masked_fill(self.stft.repeated[:, None], 0.0)
        for name, value in {
            "advance": turns.float(),
            "filters": filters,
            "interpolation": vocoder.interpolation.float()[:, bins],
        }.items():
            self.register_buffer(name, value.contiguous(), persistent=False)
        self.log_bin_width = vocoder.log_bin_width
        self.loudest = math.log(config.n_fft)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Convert log-mels (B, frames, mels) to waveforms (B, frames·hop_length)."""
        hidden = self.embed(((mel + 6) / 3).transpose(1, 2)).transpose(1, 2)
        hidden = self.embed_norm(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        log_magnitude, retention, offset, real, imaginary = self.head(self.norm(hidden)).chunk(5, dim=-1)
        log_magnitude = log_magnitude + mel @ self.interpolation + self.log_bin_width
        retention, angle = torch.sigmoid(retention), math.pi * torch.tanh(offset) + self.advance
        real, imaginary = resonate(
            (retention * angle.cos(), retention * angle.sin()), (real, imaginary), self.block, self.doublings
        )
        scale = log_magnitude.clamp(max=self.loudest).exp() / (real.square() + imaginary.square() + 1e-12).sqrt()
        num_frames = mel.shape[1]
        envelope = self.stft.envelope(num_frames)
        spectrum = (real * scale).flatten(0, 1), (imaginary * scale).flatten(0, 1)
        return self._match(self.stft.invert(spectrum, num_frames, envelope), mel, envelope)

    def _match(self, waveform: torch.Tensor, mel: torch.Tensor, envelope: torch.Tensor) -> torch.Tensor:
        """Refine (B, samples) to match a log-mel, as `ISTFTVocoder.match` does."""
        num_frames, target = mel.shape[1], mel.flatten(0, 1).clamp(math.log(LOG_FLOOR), self.loudest)
        for _ in range(self.mel_iterations):
            real, imaginary = self.stft.transform(waveform, num_frames)
            own = ((real.square() + imaginary.square()).sqrt() @ self.filters).clamp(min=LOG_FLOOR).log()
            gain = (RELAXATION * (target - own) @ self.interpolation).exp()
            waveform = self.stft.invert((real * gain, imaginary * gain), num_frames, envelope)
        return waveform


def resonate(turn: Complex, drive: Complex, block: int, doublings: int) -> Complex:
    """Run r_t = turn_t·r_{t−1} + drive_t, r_{−1} = 0, over frames, as a scan.

    The recursion runs inside of blocks of frames, in all blocks at once. Blocks are then joined by doubling: after k
    rounds, each knows what the 2^k − 1 blocks before it contribute.

    Args:
        turn: Complex factors, (B, frames, bins).
        drive: Complex inputs, (B, frames, bins).
        block: Frames per block; the number of frames is a multiple of it.
        doublings: Rounds, at least log2 of the number of blocks.

    Returns:
        r, (B, frames, bins).
    """
    turns, drives = (
        list(zip(*(part.unflatten(1, (-1, block)).unbind(2) for part in value), strict=True)) for value in (turn, drive)
    )
    factors, states = [turns[0]], [drives[0]]
    for factor, value in zip(turns[1:], drives[1:], strict=True):
        factors.append(_multiply(factor, factors[-1]))
        states.append(_add(value, _multiply(factor, states[-1])))
    factor, state = factors[-1], states[-1]
    for k in range(doublings):
        state = _add(state, _multiply(factor, _delay(state, 2**k)))
        factor = _multiply(factor, _delay(factor, 2**k))
    before = _delay(state, 1)
    joined = [_add(state, _multiply(factor, before)) for factor, state in zip(factors, states, strict=True)]
    real, imaginary = (torch.stack(part, dim=2).flatten(1, 2) for part in zip(*joined, strict=True))
    return real, imaginary


def _turns(rows: torch.Tensor, columns: torch.Tensor, points: int) -> Complex:
    """Cosine and sine of 2π·row·column/points, float64 (rows, columns)."""
    angle = (torch.outer(rows, columns) % points).double() * (2 * math.pi / points)
    return angle.cos(), angle.sin()


def _multiply(a: Complex, b: Complex) -> Complex:
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _add(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _delay(value: Complex, blocks: int) -> Complex:
    """Shift (B, blocks, bins) to later blocks; zeros come first."""
    real, imaginary = (F.pad(part, (0, 0, blocks, 0))[:, : part.shape[1]] for part in value)
    return real, imaginary
