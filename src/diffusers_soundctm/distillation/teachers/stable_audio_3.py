"""Stable Audio 3: a flow-matching transformer on latents of stereo waveforms, conditioned on text and duration."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ...models.stable_audio_3_ctm import CTMStableAudio3DiTModel, StableAudio3Network
from ...schedulers.scheduling_ctm import CTMScheduler
from .stable_audio import StableAudio


class StableAudio3(StableAudio):
    """Folders of diffusers' `StableAudio3Pipeline`, of a base checkpoint.

    Inpainting inputs of the network are not used.
    """

    pipelines = ("StableAudio3Pipeline",)
    base_model = "stabilityai/stable-audio-3-medium-base"
    parts: ClassVar = {
        "vae": "diffusers.AutoencoderSAME",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
        "duration_embedder": "diffusers.StableAudio3DurationEmbedder",
    }
    network_class = f"{StableAudio3Network.__module__}.StableAudio3Network"
    student_class = CTMStableAudio3DiTModel
    conditioning = "stable_audio_3"

    @classmethod
    def read_scheduler(cls, config: Mapping[str, Any]) -> CTMScheduler:
        """See `TeacherFamily.read_scheduler`.

        Raises:
            ValueError: The pipeline would tell the network another time than the share of noise in [0, 1].
        """
        factor = config.get("num_train_timesteps", 1000)
        if factor != 1:
            raise ValueError(
                f"The teacher's scheduler has `num_train_timesteps` {factor}, so its pipeline tells the network times "
                "up to that number; set it to 1, as Stable Audio 3 was trained."
            )
        return super().read_scheduler(config)
