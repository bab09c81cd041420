"""MusicLDM: AudioLDM with the whole CLAP model as text encoder."""

from typing import ClassVar

from .base import TeacherFamily


class MusicLDM(TeacherFamily):
    """Folders of diffusers' `MusicLDMPipeline`."""

    pipelines = ("MusicLDMPipeline",)
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.ClapModel"}
    text_encoder_types = ("clap",)
    conditioning = "class_label"
