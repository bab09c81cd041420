"""LongCat-AudioDiT: a flow-matching transformer on latents of mono waveforms, conditioned on text."""

from pathlib import Path
from typing import Any, ClassVar

from ...models.longcat_ctm import CTMLongCatAudioDiTTransformer, LongCatNetwork
from .base import TeacherFamily

# The scheduler that the pipeline makes for itself: diffusers saves none.
_SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "invert_sigmas": True}


class LongCat(TeacherFamily):
    """Folders of diffusers' `LongCatAudioDiTPipeline`. The latent condition of the network is not used."""

    pipelines = ("LongCatAudioDiTPipeline",)
    parts: ClassVar = {
        "vae": "diffusers.LongCatAudioDiTVae",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
    }
    text_encoder_source = "google/umt5-base"
    network = "transformer"
    network_class = f"{LongCatNetwork.__module__}.LongCatNetwork"
    stock_network = "LongCatAudioDiTTransformer"
    student_class = CTMLongCatAudioDiTTransformer
    conditioning = "longcat"

    @classmethod
    def scheduler_config(cls, folder: Path) -> dict[str, Any]:
        """See `TeacherFamily.scheduler_config`."""
        return super().scheduler_config(folder) if (folder / "scheduler").is_dir() else _SCHEDULER
