"""`soundctm.json`: what a runtime must know about an exported model besides its graphs."""

import dataclasses
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_json, write_json

NAME = "soundctm.json"
FORMAT = 1  # of the folder; a runtime refuses others
PRECISIONS = ("fp32", "fp16", "int8")
GRAPHS = ("text_encoder", "denoiser", "decoder", "vocoder")


@dataclass(frozen=True)
class OnnxSettings:
    """The content of `soundctm.json`.

    Attributes:
        files: Names of the graphs and of the tokenizer: `text_encoder`, `denoiser`, `decoder`, `tokenizer`, and
            `vocoder` unless the decoder gives waveforms.
        precision: How weights are stored: "fp32", "fp16" or "int8".
        sampling_rate: Of the waveforms, in Hz.
        num_channels: Channels of the waveforms.
        hop_length: Samples per mel frame, or per latent position without a vocoder.
        frames_per_position: Mel frames per latent position, 1 without a vocoder.
        time_multiple: The number of latent positions is a multiple of this.
        latent_channels: Channels of the latents.
        latent_width: Last dimension of the latents (B, C, time, width); None for latents (B, C, time).
        default_audio_length_in_s: Length of the training, in seconds.
        max_audio_length_in_s: Longest waveform, in seconds.
        sigma_min: Lowest noise level.
        sigma_max: Highest noise level.
        rho: Curvature of the Karras noise levels.
        guidance_scale: ω by default.
        guidance_scale_range: Smallest and largest ω of the training; empty if the model does not say.
        max_tokens: Most tokens of a prompt, special ones included.
        has_attention_mask: Whether the denoiser has the input `attention_mask`.
        mel: Settings of the log-mel between decoder and vocoder (`sampling_rate` and `fmin`, `fmax` in Hz, `n_fft` and
            `hop_length` in samples, `n_mels`); None without a vocoder.
        format: Version of the folder's layout.
    """

    files: Mapping[str, str]
    precision: str
    sampling_rate: int
    num_channels: int
    hop_length: int
    frames_per_position: int
    time_multiple: int
    latent_channels: int
    latent_width: int | None
    default_audio_length_in_s: float
    max_audio_length_in_s: float
    sigma_min: float
    sigma_max: float
    rho: float
    guidance_scale: float
    guidance_scale_range: tuple[float, ...]
    max_tokens: int
    has_attention_mask: bool
    mel: Mapping[str, Any] | None
    format: int = FORMAT

    @classmethod
    def load(cls, folder: Path) -> "OnnxSettings":
        """Read the settings of an exported folder.

        Raises:
            OSError: The folder is no exported model, is of another format, lacks a file, or its settings are damaged.
        """
        file = folder / NAME
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} has no {NAME}, so it is no model in ONNX format; pass a folder that `soundctm export` wrote."
            )
        again = "export the model again with this version of diffusers-soundctm: soundctm export MODEL -o FOLDER"
        content = read_json(file)
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise OSError(f"{file} has format {found!r}, and this version reads format {FORMAT}; {again}.")
        fields = {field.name for field in dataclasses.fields(cls)}
        missing = sorted(fields - content.keys())
        if missing:
            raise OSError(f"{file} lacks {', '.join(missing)}; {again}.")
        settings = cls(**{name: value for name, value in content.items() if name in fields})
        settings._check(file, again)
        for name in settings.files.values():
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing; {again}, or copy the whole folder.")
        return settings

    def save(self, folder: Path) -> None:
        """Write the settings into a folder."""
        write_json(folder / NAME, dataclasses.asdict(self))

    def _check(self, file: Path, remedy: str) -> None:
        optional = {"latent_width": (int, type(None)), "mel": (dict, type(None))}
        kinds = {int: numbers.Integral, float: numbers.Real, str: str, bool: bool}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            expected = optional.get(field.name) or kinds.get(field.type, (dict, list, tuple))
            if not isinstance(value, expected):
                raise OSError(f"{file} has {field.name} = {value!r}, which is of the wrong type; {remedy}.")
        names = {"tokenizer", "text_encoder", "denoiser", "decoder"}
        listed = [name for name in self.files.values() if isinstance(name, str) and Path(name).name == name]
        if not names <= self.files.keys() or len(listed) < len(self.files):
            raise OSError(f"{file} has files = {self.files!r}, which are not the files of a model; {remedy}.")

    @property
    def samples_per_position(self) -> int:
        """Samples per latent position."""
        return self.hop_length * self.frames_per_position

    def latent_shape(self, num_samples: int) -> tuple[int, ...]:
        """Shape of the latents of a waveform, without the batch dimension; the time is rounded up."""
        multiple = self.samples_per_position * self.time_multiple
        time = -(-num_samples // multiple) * self.time_multiple
        return (self.latent_channels, time, *(() if self.latent_width is None else (self.latent_width,)))
