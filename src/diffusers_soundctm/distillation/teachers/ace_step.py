"""ACE-Step 1.5: a flow-matching transformer on latents of stereo music, conditioned on text and duration."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ...files import read_json
from ...models.ace_step_ctm import AceStepNetwork, CTMAceStepTransformer1DModel
from .base import Teacher, TeacherFamily


class AceStep(TeacherFamily):
    """Folders of diffusers' `AceStepPipeline`, of a base or SFT checkpoint. Its task is text to music, without lyrics.

    The original guides by adaptive projection with momentum, which is not affine in ω. Here guidance is plain.
    """

    pipelines = ("AceStepPipeline",)
    base_model = "ACE-Step/acestep-v15-xl-base-diffusers"
    parts: ClassVar = {
        "vae": "diffusers.AutoencoderOobleck",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
        "condition_encoder": "diffusers.pipelines.ace_step.AceStepConditionEncoder",
    }
    text_encoder_source = "Qwen/Qwen3-Embedding-0.6B"
    network = "transformer"
    network_class = f"{AceStepNetwork.__module__}.AceStepNetwork"
    stock_network = "AceStepTransformer1DModel"
    student_class = CTMAceStepTransformer1DModel
    conditioning = "ace_step"
    flow_time_factor = 1

    @classmethod
    def distilled_by(cls, folder: Path, scheduler_config: Mapping[str, Any]) -> str | None:
        """See `TeacherFamily.distilled_by`."""
        file = cls.network_folder(folder) / "config.json"
        config = read_json(file) if file.is_file() else {}
        if config.get("is_turbo") or config.get("model_version") == "turbo":
            return "its transformer is a turbo model"
        return super().distilled_by(folder, scheduler_config)

    @classmethod
    def load(
        cls, folder: Path, given: Mapping[str, str | os.PathLike | None], allow_distilled: bool = False
    ) -> Teacher:
        """See `TeacherFamily.load`."""
        teacher = super().load(folder, given, allow_distilled)
        teacher.network.silence_latent.copy_(teacher.components["condition_encoder"].silence_latent)
        return teacher
