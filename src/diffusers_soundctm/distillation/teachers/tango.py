"""Tango."""

from typing import ClassVar

from .base import TeacherFamily


class Tango(TeacherFamily):
    """Cross-attention to FLAN-T5; a pipeline, or a plain folder of its components."""

    pipelines = ("TangoPipeline",)
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.T5EncoderModel"}
