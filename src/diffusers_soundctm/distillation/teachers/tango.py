"""Tango: a UNet with cross-attention to FLAN-T5."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import TeacherFamily, class_name


class Tango(TeacherFamily):
    """Folders of a `TangoPipeline`, or of its components. The text encoder is a T5. It may be in another folder."""

    pipelines = ("TangoPipeline",)
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.T5EncoderModel"}
    text_encoder_types = ("t5",)

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """See `TeacherFamily.matches`."""
        plain = "model_index" not in configs and {"unet", "scheduler"} <= configs.keys()
        own = plain and class_name(configs["scheduler"]) != "CTMScheduler"
        return super().matches(configs) or (own and "text_encoder" not in configs)
