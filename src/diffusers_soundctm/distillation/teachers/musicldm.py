"""MusicLDM."""

from typing import ClassVar

from .base import TeacherFamily


class MusicLDM(TeacherFamily):
    """AudioLDM with the whole CLAP model."""

    pipelines = ("MusicLDMPipeline",)
    conditioning = "class_label"
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.ClapModel"}
