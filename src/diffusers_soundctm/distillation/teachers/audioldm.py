"""AudioLDM."""

from typing import ClassVar

from .base import TeacherFamily


class AudioLDM(TeacherFamily):
    """FiLM by CLAP's text embedding."""

    pipelines = ("AudioLDMPipeline",)
    conditioning = "class_label"
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.ClapTextModelWithProjection"}
