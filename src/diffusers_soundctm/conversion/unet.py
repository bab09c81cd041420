"""The authors' released 16 kHz UNets, student and teacher, as diffusers models."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from ..models.unet_2d_condition_ctm import CTMUNet2DConditionModel
from .build import build

_STUDENT_ONLY = "s_time_embedding."


def convert_soundctm_unet(
    state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> CTMUNet2DConditionModel | UNet2DConditionModel:
    """Build the network a released 16 kHz checkpoint holds; one with an embedding of s is a student, else a teacher.

    Args:
        state_dict: names `ctm_unet.*` (whole student), `unet.*` (teacher) or bare (the EMA file). Tensors outside the
            network, such as `text_encoder.*`, are ignored. The model takes the tensors over without copying them.
        config: the released UNet configuration, with diffusers' keys.

    Returns:
        The model in the checkpoint's dtype, in eval mode.

    Raises:
        ValueError: lists every missing, unexpected and mis-shaped tensor.
    """
    prefix = next((p for p in ("ctm_unet.", "unet.") if any(name.startswith(p) for name in state_dict)), "")
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(prefix) and not name.startswith("text_encoder.")
    }
    is_student = any(name.startswith(_STUDENT_ONLY) for name in tensors)
    tensors = {name.replace(_STUDENT_ONLY, "time_embedding.target_embedding."): t for name, t in tensors.items()}

    if not is_student:
        return build(UNet2DConditionModel, config, tensors)
    return build(CTMUNet2DConditionModel, {**config, "conditioning": "cross_attention"}, tensors)
