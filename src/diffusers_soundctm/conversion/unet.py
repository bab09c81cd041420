"""Convert the released 16 kHz UNets, student and teacher."""

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
    """Build the network of a released 16 kHz checkpoint. A checkpoint with an embedding of s is a student.

    Args:
        state_dict: tensors whose names have the prefix `ctm_unet.` (whole student), `unet.` (teacher) or none (EMA
            file). Others, such as `text_encoder.*`, are ignored. The model uses the tensors without copying them.
        config: the released UNet configuration, with diffusers' keys.

    Returns:
        The model in the checkpoint's dtype, in eval mode.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
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
