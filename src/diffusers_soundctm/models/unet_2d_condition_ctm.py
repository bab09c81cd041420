"""The SoundCTM student of `UNet2DConditionModel` teachers: AudioLDM, MusicLDM, Tango and the 16 kHz SoundCTM."""

from diffusers import UNet2DConditionModel

from .ctm_mixin import CTMUNetMixin


class CTMUNet2DConditionModel(CTMUNetMixin, UNet2DConditionModel):
    """diffusers' `UNet2DConditionModel`, conditioned on the target noise level s and the guidance scale ω.

    `CTMUNetMixin` documents its arguments and its call. `from_teacher` initializes it from a teacher.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
