"""Tango: a UNet with cross-attention to FLAN-T5."""

from collections.abc import Mapping
from typing import Any, ClassVar

from .base import TeacherFamily, class_name


class Tango(TeacherFamily):
    """Folders of a `TangoPipeline`, or plain folders of its components.

    The text encoder is a T5. It may be in another folder.
    """

    pipelines = ("TangoPipeline",)
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.T5EncoderModel"}

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """See `TeacherFamily.matches`."""
        plain = "model_index" not in configs and {"unet", "scheduler"} <= configs.keys()
        own = plain and class_name(configs["scheduler"]) != "CTMScheduler"
        encoder = configs.get("text_encoder", {}).get("model_type", "t5")
        return super().matches(configs) or (own and encoder == "t5")
