"""AudioLDM2."""

from typing import Any, ClassVar

from ...models.unet_audioldm2_ctm import CTMAudioLDM2UNet2DConditionModel
from .base import Teacher, TeacherFamily
from .musicldm import MusicLDM


class AudioLDM2(TeacherFamily):
    """Two text streams: what a GPT-2 writes after CLAP's and T5's words, and T5."""

    pipelines = ("AudioLDM2Pipeline",)
    conditioning = "audioldm2"
    parts: ClassVar = {
        **MusicLDM.parts,
        "text_encoder_2": "transformers.T5EncoderModel",
        "tokenizer_2": "transformers.AutoTokenizer",
        "projection_model": "diffusers.AudioLDM2ProjectionModel",
        "language_model": "transformers.GPT2LMHeadModel",
    }
    network_class = "diffusers.AudioLDM2UNet2DConditionModel"
    student_class = CTMAudioLDM2UNet2DConditionModel

    @classmethod
    def student_config(cls, teacher: Teacher) -> dict[str, Any]:
        count = teacher.conditioning.num_generated_tokens
        return {**super().student_config(teacher), "num_generated_tokens": count}
