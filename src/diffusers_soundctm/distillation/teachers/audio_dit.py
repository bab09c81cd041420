"""Audio DiT: the transformer on latents of waveforms that the 44.1 kHz SoundCTM releases were distilled from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...models.transformer_ctm import CTMAudioDiTModel
from .base import TeacherFamily, class_name

_FOLDERS = ("transformer", "unet")


class AudioDiT(TeacherFamily):
    """Folders with an `AudioDiTModel` as `transformer` or `unet`, and a `CTMScheduler`."""

    parts: ClassVar = {
        "vae": "diffusers_soundctm.AutoencoderDAC",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
    }
    network = "transformer"
    network_class = "diffusers_soundctm.AudioDiTModel"
    student_class = CTMAudioDiTModel
    conditioning = "sentence_token"

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """See `TeacherFamily.matches`."""
        return any(class_name(configs.get(name, {})) == "AudioDiTModel" for name in _FOLDERS)

    @classmethod
    def network_folder(cls, folder: Path) -> Path:
        """See `TeacherFamily.network_folder`."""
        return next(folder / name for name in _FOLDERS if (folder / name).is_dir())
