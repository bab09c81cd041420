"""AudioLDM: a UNet conditioned on CLAP's text embedding by FiLM."""

from typing import ClassVar

from .base import TeacherFamily


class AudioLDM(TeacherFamily):
    """Folders of diffusers' `AudioLDMPipeline`."""

    pipelines = ("AudioLDMPipeline",)
    parts: ClassVar = {**TeacherFamily.parts, "text_encoder": "transformers.ClapTextModelWithProjection"}
    text_encoder_types = ("clap_text_model",)
    conditioning = "class_label"
