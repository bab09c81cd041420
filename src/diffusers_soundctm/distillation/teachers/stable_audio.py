"""Stable Audio: a transformer on latents of stereo waveforms, conditioned on text and duration."""

from typing import Any, ClassVar

from ...models.stable_audio_ctm import CTMStableAudioDiTModel, StableAudioNetwork
from .base import Teacher, TeacherFamily


class StableAudio(TeacherFamily):
    """Folders of diffusers' `StableAudioPipeline`."""

    pipelines = ("StableAudioPipeline",)
    parts: ClassVar = {
        "vae": "diffusers.AutoencoderOobleck",
        "text_encoder": "transformers.T5EncoderModel",
        "tokenizer": "transformers.AutoTokenizer",
        "projection_model": "diffusers.StableAudioProjectionModel",
    }
    network = "transformer"
    network_class = f"{StableAudioNetwork.__module__}.StableAudioNetwork"
    stock_network = "StableAudioDiTModel"
    student_class = CTMStableAudioDiTModel
    conditioning = "stable_audio"

    @classmethod
    def student_config(cls, teacher: Teacher) -> dict[str, Any]:
        """See `TeacherFamily.student_config`."""
        return {**super().student_config(teacher), "num_text_tokens": teacher.conditioning.num_text_tokens}
