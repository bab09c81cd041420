"""The SoundCTM student of AudioLDM2 teachers, whose network reads two text streams."""

from typing import Any

from diffusers import AudioLDM2UNet2DConditionModel
from diffusers.loaders import PeftAdapterMixin

from .ctm_mixin import CTMUNetMixin


class CTMAudioLDM2UNet2DConditionModel(CTMUNetMixin, AudioLDM2UNet2DConditionModel, PeftAdapterMixin):
    """diffusers' `AudioLDM2UNet2DConditionModel` that also knows the target noise level s and the guidance scale ω.

    See `CTMUNetMixin` for the arguments it adds and how it is called, and `from_teacher` for its usual start.

    Args:
        num_generated_tokens: how many tokens of the first text stream the language model writes.
        conditioning: how prompts condition the network.
        kwargs: the arguments of `CTMUNetMixin` and of the diffusers class.
    """

    # model_index.json records this module; the package's top level is the name that stays.
    __module__ = "diffusers_soundctm"

    def __init__(self, num_generated_tokens: int = 8, conditioning: str = "audioldm2", **kwargs: Any):
        super().__init__(conditioning=conditioning, **kwargs)
        self.register_to_config(num_generated_tokens=num_generated_tokens)
