"""The networks of the teacher families at their published sizes, with random weights, and the arguments of one call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AudioLDM2UNet2DConditionModel, UNet2DConditionModel

from diffusers_soundctm import AudioDiTModel
from diffusers_soundctm.conversion import RELEASES
from diffusers_soundctm.conversion.dit import dit_config
from diffusers_soundctm.models.ace_step_ctm import AceStepNetwork
from diffusers_soundctm.models.longcat_ctm import LongCatNetwork
from diffusers_soundctm.models.stable_audio_3_ctm import StableAudio3Network
from diffusers_soundctm.models.stable_audio_ctm import StableAudioNetwork
from diffusers_soundctm.precision import STABLE_AUDIO_3_FACTOR

TOKENS = 16  # of a prompt
AUDIOLDM_S = {
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [128, 256, 384, 640],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    "cross_attention_dim": [128, 256, 384, 640],
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 512,
    "class_embeddings_concat": True,
}
AUDIOLDM2 = {
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": (128, 256, 384, 640),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    "cross_attention_dim": [(None, 768, 1024)] * 4,
    "attention_head_dim": (4, 8, 12, 20),
}
# Of Tango and of the 16 kHz SoundCTM.
LARGE_UNET = dict(RELEASES["sony-unet"].config)


@dataclass(frozen=True)
class Network:
    """A family's network at its published size.

    Attributes:
        make: Build it with random weights.
        prediction_type: What it predicts.
        sigma_range: Lowest and highest noise level of its student.
        latents: Shape of the latents of 10 s, without the batch; the first dimension after the channels is time.
        condition: Argument of a call → its shape without the batch; None leaves the argument out.
        sigma_data: Standard deviation of its latents.
        rounding_factor: See `precision.rounding_factor`.
        betas: First and last β of a discrete teacher, None for one on continuous noise levels.
    """

    make: Callable[[], torch.nn.Module]
    prediction_type: str
    sigma_range: tuple[float, float]
    latents: tuple[int, ...]
    condition: Mapping[str, tuple[int, ...] | None]
    sigma_data: float = 1.0
    betas: tuple[float, float] | None = None
    rounding_factor: float = 1.0

    def inputs(self, batch_size: int, length: int | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
        """Standard normal latents (B, ...) of `length` positions, 10 s by default, and a random condition."""
        shape = (self.latents[0], length or self.latents[1], *self.latents[2:])
        condition = {
            name: None if size is None else torch.nn.functional.normalize(torch.randn(batch_size, *size), dim=-1)
            for name, size in self.condition.items()
        }
        return torch.randn(batch_size, *shape), condition


_MEL = (8, 256, 16)
_CLAP: Mapping[str, Any] = {"encoder_hidden_states": None, "class_labels": (512,)}
_T5 = {"encoder_hidden_states": (TOKENS, 1024)}

NETWORKS = {
    "AudioLDM-S, MusicLDM": Network(
        partial(UNet2DConditionModel, **AUDIOLDM_S), "epsilon", (0.0388, 83.82), _MEL, _CLAP, betas=(0.0015, 0.0195)
    ),
    "AudioLDM2": Network(
        partial(AudioLDM2UNet2DConditionModel, **AUDIOLDM2),
        "epsilon",
        (0.0388, 83.82),
        _MEL,
        {"encoder_hidden_states": (8, 768), "encoder_hidden_states_1": (TOKENS, 1024)},
        betas=(0.0015, 0.0195),
    ),
    "Tango": Network(
        partial(UNet2DConditionModel, **LARGE_UNET),
        "v_prediction",
        (0.0292, 14.61),
        _MEL,
        _T5,
        betas=(0.00085, 0.012),
    ),
    "SoundCTM 16 kHz": Network(
        partial(UNet2DConditionModel, **LARGE_UNET), "edm", (0.002, 80.0), _MEL, _T5, RELEASES["sony-unet"].sigma_data
    ),
    "SoundCTM 44.1 kHz": Network(
        partial(AudioDiTModel, **dit_config(RELEASES["sony-dit-v2"].config)),
        "edm",
        (0.002, 80.0),
        (64, 432),
        {"encoder_hidden_states": (1, 768)},
        RELEASES["sony-dit-v2"].sigma_data,
    ),
    "Stable Audio Open": Network(
        StableAudioNetwork,
        "v_prediction",
        (0.01, 500.0),
        (64, 216),
        {"encoder_hidden_states": (130, 768), "global_hidden_states": (1, 1536)},
    ),
    "Stable Audio 3 (medium)": Network(
        StableAudio3Network,
        "flow",
        (0.01, 492.7),
        (256, 108),
        {"encoder_hidden_states": (TOKENS + 1, 768), "global_hidden_states": (768,)},
        rounding_factor=STABLE_AUDIO_3_FACTOR,
    ),
    "LongCat-AudioDiT (1B)": Network(
        LongCatNetwork, "inverted_flow", (0.01, 492.7), (64, 117), {"encoder_hidden_states": (TOKENS, 768)}
    ),
    "ACE-Step 1.5": Network(
        AceStepNetwork, "flow", (0.01, 492.7), (64, 250), {"encoder_hidden_states": (6 * TOKENS, 2048)}
    ),
}
