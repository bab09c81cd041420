"""UNets with a `CTMScheduler`: what `train_teacher.py` writes, and the teacher of the 16 kHz SoundCTM release."""

from collections.abc import Mapping
from typing import Any

from .base import TeacherFamily, class_name


class EDM(TeacherFamily):
    """Folders of a `UNet2DConditionModel` and a `CTMScheduler`; the other components may be given by name."""

    optional = ("vocoder",)

    @classmethod
    def matches(cls, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """See `TeacherFamily.matches`."""
        return (
            "model_index" not in configs
            and class_name(configs.get("unet", {})) == "UNet2DConditionModel"
            and class_name(configs.get("scheduler", {})) == "CTMScheduler"
        )
