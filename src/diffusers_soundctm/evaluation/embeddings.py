"""Audio embeddings, which distances and probes compare. Any object with the method `embed` can serve as one."""

import importlib
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class AudioEmbedding(Protocol):
    """A map from waveforms to vectors whose distances are meaningful."""

    def embed(self, waveforms: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed waveforms.

        Args:
            waveforms: float32 (N, samples), full scale 1.
            sampling_rate: in Hz.

        Returns:
            float32 (N, dimensions).
        """
        ...


def load_embedding(name: str = "aisfx") -> AudioEmbedding:
    """Return an embedding by name.

    Args:
        name: "aisfx", the default, or "package.module:factory"; the factory is called without arguments.

    Raises:
        ValueError: `name` is neither, cannot be imported, or gives an object without the method `embed`.
    """
    if name == "aisfx":
        return AisfxEmbedding()
    module, separator, factory = name.partition(":")
    if not separator:
        raise ValueError(f"`embedding` is {name!r}; pass 'aisfx' or 'package.module:factory'.")
    try:
        embedding = getattr(importlib.import_module(module), factory)()
    except Exception as error:  # of whatever the factory does
        raise ValueError(
            f"`embedding` {name!r} cannot be loaded ({error}); pass 'aisfx' or 'package.module:factory'."
        ) from error
    if not callable(getattr(embedding, "embed", None)):
        raise ValueError(f"`embedding` {name!r} returns a {type(embedding).__name__}, which has no method `embed`.")
    return embedding


class AisfxEmbedding:
    """aiSFX (Ma and Lerch, ISMIR 2022), a CNN trained on nine sound-effect libraries, with 512 dimensions.

    The log-mel follows the authors' Essentia code, with frames as the first axis. The package's librosa code passes mel
    bands first, so the network would slide along frequency. Clips are peak-normalized as in the authors' code. The
    authors embed half overlapping blocks of 2 s. Here the network runs once over the whole clip, and the maximum over
    time is taken in half overlapping windows of 2 s and then averaged, which computes the overlap only once.

    Args:
        device: device of the network.
        batch_size: clips per call of the network.

    Raises:
        ImportError: the package aisfx or librosa is not installed; the message says how to install it.
    """

    sampling_rate = 44100
    n_fft, hop_length, n_mels = 2048, 1024, 96
    window = 12  # pooled frames of 8 · 1024 samples: 2.2 s

    def __init__(self, device: str = "cpu", batch_size: int = 8):
        try:
            import librosa
            from aisfx.inference import get_path_modelWeights
            from aisfx.models.cnn2d import EmbeddingNet
            from aisfx.preprocessing import spectrogram_normalize
        except ImportError as error:
            raise ImportError(
                "The default embedding needs the packages aisfx and librosa: `pip install librosa` and `pip install "
                "--no-deps aisfx` (the versions that aisfx pins are old and not needed). Or pass another embedding."
            ) from error
        import torch

        # Besides tensors, the checkpoint holds a table of numpy integers, by their name in numpy 1. It is not used.
        restore_integer = np.int64(0).__reduce__()[0]
        allowed = [(restore_integer, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Int64DType]
        with torch.serialization.safe_globals(allowed):
            weights, _ = torch.load(get_path_modelWeights(), map_location=device, weights_only=True)
        prefix = "embedding_net."
        self.network = EmbeddingNet("max", 3, 1, 64)
        self.network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        self.network.eval().to(device, memory_format=torch.channels_last)
        self.mel_filters = torch.from_numpy(
            librosa.filters.mel(sr=self.sampling_rate, n_fft=self.n_fft, n_mels=self.n_mels, htk=True, norm=1.0)
        ).to(device)
        self.normalize = spectrogram_normalize
        self.device = device
        self.batch_size = batch_size

    def embed(self, waveforms: np.ndarray, sampling_rate: int) -> np.ndarray:
        """Embed waveforms, see `AudioEmbedding.embed`.

        Raises:
            ValueError: the waveforms have another shape, or are shorter than 0.2 s.
        """
        import soxr
        import torch

        from ..audio import as_samples

        if waveforms.ndim != 2:
            raise ValueError(f"`waveforms` has shape {waveforms.shape}; pass (N, samples).")
        if waveforms.shape[1] < 0.2 * sampling_rate:
            raise ValueError(
                f"`waveforms` are {waveforms.shape[1]} samples at {sampling_rate} Hz; pass at least 0.2 s."
            )
        embeddings = []
        for start in range(0, len(waveforms), self.batch_size):
            batch = as_samples(waveforms[start : start + self.batch_size], "waveforms").numpy()
            batch = soxr.resample(batch.T, sampling_rate, self.sampling_rate).T
            batch = batch / np.maximum(np.abs(batch).max(axis=1, keepdims=True), 1e-5)
            with torch.inference_mode():
                embeddings.append(self._features(torch.from_numpy(batch).to(self.device)).float().cpu().numpy())
        return np.concatenate(embeddings) if embeddings else np.empty((0, 512), np.float32)

    def _features(self, waveforms: "torch.Tensor") -> "torch.Tensor":
        import torch
        import torch.nn.functional as F

        window = torch.hann_window(self.n_fft, device=waveforms.device)
        spectrum = torch.stft(waveforms, self.n_fft, self.hop_length, window=window, return_complex=True).abs() ** 2
        mel = (self.mel_filters @ spectrum).transpose(1, 2)  # (N, frames, bands)
        x = self.normalize(torch.log10(1 + 1e4 * mel))[:, None]
        for block, pool in zip(("conv_block1", "conv_block2", "conv_block3", "conv_block4"), (2, 2, 2, 1), strict=True):
            x = getattr(self.network, block)(x, pool_size=(pool, pool), pool_type="max")
        x = x.mean(dim=3)  # (N, 512, time)
        size = min(self.window, x.shape[2])
        return F.max_pool1d(x, size, max(size // 2, 1), ceil_mode=True).mean(dim=2)
