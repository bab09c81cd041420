"""Convert released checkpoints into models of this package."""

from .dit import convert_soundctm_dit
from .first_stages import convert_audioldm_vae, convert_dac, convert_hifigan
from .releases import RELEASES, ReleasedModel, convert_release, load_release
from .text_encoders import convert_clap_text, convert_t5_encoder
from .unet import convert_soundctm_unet

__all__ = [
    "RELEASES",
    "ReleasedModel",
    "convert_audioldm_vae",
    "convert_clap_text",
    "convert_dac",
    "convert_hifigan",
    "convert_release",
    "convert_soundctm_dit",
    "convert_soundctm_unet",
    "convert_t5_encoder",
    "load_release",
]
