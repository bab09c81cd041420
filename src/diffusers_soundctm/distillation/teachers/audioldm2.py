"""AudioLDM2: a UNet with cross-attention to embeddings that GPT-2 generates from the CLAP and T5 states, and to T5."""

from typing import Any, ClassVar

from ...models.unet_audioldm2_ctm import CTMAudioLDM2UNet2DConditionModel
from .base import Teacher, TeacherFamily
from .musicldm import MusicLDM


class AudioLDM2(TeacherFamily):
    """Folders of diffusers' `AudioLDM2Pipeline`."""

    pipelines = ("AudioLDM2Pipeline",)
    parts: ClassVar = {
        **MusicLDM.parts,
        "text_encoder_2": "transformers.T5EncoderModel",
        "tokenizer_2": "transformers.AutoTokenizer",
        "projection_model": "diffusers.AudioLDM2ProjectionModel",
        "language_model": "transformers.GPT2LMHeadModel",
    }
    network_class = "diffusers.AudioLDM2UNet2DConditionModel"
    stock_network = "AudioLDM2UNet2DConditionModel"
    student_class = CTMAudioLDM2UNet2DConditionModel
    conditioning = "audioldm2"

    @classmethod
    def student_config(cls, teacher: Teacher) -> dict[str, Any]:
        """See `TeacherFamily.student_config`."""
        count = teacher.conditioning.num_generated_tokens
        return {**super().student_config(teacher), "num_generated_tokens": count}
