"""Released checkpoints as models of this package."""

from .unet import convert_soundctm_unet

__all__ = ["convert_soundctm_unet"]
