"""Released checkpoints as models of this package."""

from .dit import convert_soundctm_dit
from .unet import convert_soundctm_unet

__all__ = ["convert_soundctm_dit", "convert_soundctm_unet"]
