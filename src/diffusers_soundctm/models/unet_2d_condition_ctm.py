"""The SoundCTM student of `UNet2DConditionModel` teachers: AudioLDM, MusicLDM, Tango and the 16 kHz SoundCTM."""

from diffusers import UNet2DConditionModel

from .ctm_mixin import CTMUNetMixin


class CTMUNet2DConditionModel(CTMUNetMixin, UNet2DConditionModel):
    """diffusers' `UNet2DConditionModel` that also knows the noise level s it jumps to and the guidance scale ω.

    See `CTMUNetMixin` for the arguments it adds and how it is called, and `from_teacher` for its usual start.
    """

    # model_index.json records this module; the package's top level is the name that stays.
    __module__ = "diffusers_soundctm"
