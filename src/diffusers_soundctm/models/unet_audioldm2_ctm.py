"""The SoundCTM student of AudioLDM2 teachers, whose network attends to two sequences of text embeddings."""

from typing import Any

from diffusers import AudioLDM2UNet2DConditionModel

from .ctm_mixin import CTMUNetMixin


class CTMAudioLDM2UNet2DConditionModel(CTMUNetMixin, AudioLDM2UNet2DConditionModel):
    """diffusers' `AudioLDM2UNet2DConditionModel`, conditioned on the target noise level s and the guidance scale ω.

    `CTMUNetMixin` documents its arguments and its call. `from_teacher` initializes it from a teacher.

    Args:
        num_generated_tokens: Number of embeddings in the first sequence, which GPT-2 generates.
        conditioning: How prompts condition the network, a key of `pipelines.conditioning.CONDITIONINGS`.
        kwargs: Arguments of `CTMUNetMixin` and of the diffusers class.
    """

    # model_index.json records this module name, so it must be the package's, which does not change.
    __module__ = "diffusers_soundctm"
    _no_split_modules = ["BasicTransformerBlock", "ResnetBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]  # noqa: RUF012
    _repeated_blocks = ["BasicTransformerBlock"]  # noqa: RUF012 (these two are diffusers' own names and types)

    def __init__(self, num_generated_tokens: int = 8, conditioning: str = "audioldm2", **kwargs: Any):
        super().__init__(conditioning=conditioning, **kwargs)
        self.register_to_config(num_generated_tokens=num_generated_tokens)
