"""CLAP embeddings with a gradient, for `EmbeddingSimilarityObjective`. CLAP's own front end is not differentiable."""

from typing import Any

import torch
from transformers import ClapFeatureExtractor, ClapModel, PreTrainedTokenizerBase

from ..audio import as_samples


class ClapEmbedding:
    """Embeddings of waveforms, `clap(waveform, sampling_rate)`, and of texts, `clap.text(prompts)`, in one space.

    Only the first 10 s of a waveform count, the duration that CLAP was trained with.

    Args:
        model: A CLAP of transformers. Its weights are frozen.
        feature_extractor: Of the same model.
        tokenizer: Of the same model. None if no texts are embedded.

    Example:
        >>> clap = ClapEmbedding.from_pretrained("laion/clap-htsat-unfused")
        >>> guidance = LossGuidance(EmbeddingSimilarityObjective(clap, clap.text("a cheerful melody")))
    """

    def __init__(
        self, model: ClapModel, feature_extractor: ClapFeatureExtractor, tokenizer: PreTrainedTokenizerBase | None
    ):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.extractor = tokenizer, feature_extractor
        # Models with fusion were trained with other filters.
        self.is_fused = feature_extractor.truncation == "fusion"
        filters = feature_extractor.mel_filters if self.is_fused else feature_extractor.mel_filters_slaney
        self.filters = torch.from_numpy(filters).float()

    @classmethod
    def from_pretrained(cls, name: str) -> "ClapEmbedding":
        """Load from a folder or a Hub id. The weights must be safetensors."""
        from transformers import AutoTokenizer

        model = ClapModel.from_pretrained(name, use_safetensors=True)
        return cls(model, ClapFeatureExtractor.from_pretrained(name), AutoTokenizer.from_pretrained(name))

    @torch.no_grad()
    def text(self, prompts: str | list[str]) -> torch.Tensor:
        """Embed prompts as unit vectors (N, D)."""
        prompts = [prompts] if isinstance(prompts, str) else prompts
        tokens = self.tokenizer(prompts, padding=True, return_tensors="pt").to(self.model.device)
        output: Any = self.model.get_text_features(**tokens)
        return output.pooler_output

    def __call__(self, waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
        """Embed waveforms (B, samples) as unit vectors (B, D), differentiably."""
        features = self.features(waveform, sampling_rate)
        self.model.to(features.device)
        is_longer = torch.zeros(len(features), 1, dtype=torch.bool, device=features.device)
        output: Any = self.model.get_audio_features(input_features=features, is_longer=is_longer)
        return output.pooler_output

    def features(self, waveform: torch.Tensor, sampling_rate: int) -> torch.Tensor:
        """Log-mels in dB of waveforms (B, samples), equal to `ClapFeatureExtractor`'s, (B, 1 or 4, frames, mels)."""
        extractor = self.extractor
        waveform = resample_spectrum(as_samples(waveform), sampling_rate, extractor.sampling_rate)
        length = extractor.nb_max_samples
        waveform = waveform[:, :length]
        repeats = length // waveform.shape[1] if extractor.padding == "repeatpad" else 1
        waveform = torch.nn.functional.pad(waveform.repeat(1, repeats), (0, length - repeats * waveform.shape[1]))
        size = extractor.fft_window_size
        window = torch.hann_window(size, device=waveform.device)
        spectrum = torch.stft(waveform, size, extractor.hop_length, window=window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        mel = power.transpose(1, 2) @ self.filters.to(power.device)
        decibels = 10 * mel.clamp(min=1e-10).log10()
        return decibels[:, None].expand(-1, 4 if self.is_fused else 1, -1, -1)


def resample_spectrum(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resample (..., samples) by padding or cutting the spectrum, differentiably."""
    if from_rate == to_rate:
        return waveform
    samples = round(waveform.shape[-1] * to_rate / from_rate)
    return torch.fft.irfft(torch.fft.rfft(waveform), samples) * (samples / waveform.shape[-1])
