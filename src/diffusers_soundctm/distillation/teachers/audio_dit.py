"""Audio DiT: the transformer on latents of waveforms that the 44.1 kHz SoundCTM releases were distilled from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from ...models.transformer_ctm import CTMAudioDiTModel
from .base import Teacher, TeacherFamily, class_name

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
    branch_init = "reference"

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """See `TeacherFamily.matches`."""
        return any(class_name(configs.get(name, {})) == "AudioDiTModel" for name in _FOLDERS)

    @classmethod
    def network_folder(cls, folder: Path) -> Path:
        """See `TeacherFamily.network_folder`."""
        return next(folder / name for name in _FOLDERS if (folder / name).is_dir())

    @classmethod
    def new_student(cls, teacher: Teacher, branch_init: str) -> torch.nn.Module:
        """See `TeacherFamily.new_student`. The student has no parameters of its own to initialize.

        Raises:
            ValueError: `branch_init` is not "reference".
        """
        if branch_init != "reference":
            raise ValueError(
                f"`branch_init` is {branch_init!r}, but the student of an AudioDiTModel shares its layers between t "
                "and s; choose 'reference'."
            )
        return cls.student_class.from_teacher(teacher.network)
