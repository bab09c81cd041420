"""The SoundCTM student of AudioLDM2 teachers, whose network reads two text streams."""

from diffusers import AudioLDM2UNet2DConditionModel

from .ctm_mixin import CTMUNetMixin


class CTMAudioLDM2UNet2DConditionModel(CTMUNetMixin, AudioLDM2UNet2DConditionModel):
    """diffusers' `AudioLDM2UNet2DConditionModel` that also knows the target noise level s and the guidance scale ω.

    See `CTMUNetMixin` for the arguments it adds and how it is called, and `from_teacher` for its usual start.
    """

    # model_index.json records this module; the package's top level is the name that stays.
    __module__ = "diffusers_soundctm"
