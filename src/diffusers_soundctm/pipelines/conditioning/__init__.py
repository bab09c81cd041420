"""From a prompt to the network's arguments, one module per kind of conditioning; used by the pipeline and by training.

To add a kind, subclass `PromptConditioning` in a module of its own and add it to `CONDITIONINGS`.
"""

from typing import Any

from diffusers import ModelMixin
from diffusers.configuration_utils import FrozenDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .ace_step import AceStepConditioning
from .audioldm2 import AudioLDM2Conditioning
from .base import PromptConditioning
from .class_label import ClassLabelConditioning
from .cross_attention import CrossAttentionConditioning
from .longcat import LongCatConditioning
from .sentence_token import SentenceTokenConditioning
from .stable_audio import StableAudioConditioning
from .stable_audio_3 import StableAudio3Conditioning

__all__ = [
    "CONDITIONINGS",
    "PromptConditioning",
    "conditioning_for",
    "infer_conditioning",
    "is_transformer",
    "latent_channels",
]

# The value of `conditioning` in a student's config → how it is conditioned.
CONDITIONINGS: dict[str, type[PromptConditioning]] = {
    "ace_step": AceStepConditioning,
    "audioldm2": AudioLDM2Conditioning,
    "class_label": ClassLabelConditioning,
    "cross_attention": CrossAttentionConditioning,
    "longcat": LongCatConditioning,
    "sentence_token": SentenceTokenConditioning,
    "stable_audio": StableAudioConditioning,
    "stable_audio_3": StableAudio3Conditioning,
}


def conditioning_for(
    network: ModelMixin,
    text_encoder: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    **components: Any,
) -> PromptConditioning:
    """Return the conditioning that a network requires.

    Args:
        network: a teacher or a student, compiled or not. The kind is `conditioning` of its config, else
            `infer_conditioning` of it.
        text_encoder, tokenizer: without them, only `network_kwargs` of the result can be used.
        components: `text_encoder_2`, `tokenizer_2`, `projection_model`, `language_model`, `duration_embedder` and
            `condition_encoder` of the families that have them.

    Raises:
        ValueError: the config names an unknown kind.
    """
    kind = network.config.get("conditioning") or infer_conditioning(network)
    if kind not in CONDITIONINGS:
        raise ValueError(
            f"The network's config has `conditioning` {kind!r}; this version knows {', '.join(sorted(CONDITIONINGS))}. "
            "Update diffusers-soundctm, or correct the config."
        )
    return CONDITIONINGS[kind](network.config, text_encoder, tokenizer, **components)


def infer_conditioning(network: ModelMixin) -> str:
    """Infer the kind of conditioning of a network whose config does not record it: a teacher, or an older student.

    AudioLDM2's and Stable Audio's networks are recognized by their classes, other transformers attend to one sentence
    token. Of the UNets, AudioLDM and MusicLDM have `cross_attention_dim` equal to `block_out_channels`: their
    "cross-attention" attends to the block itself, and the prompt is the class label.
    """
    classes = {base.__name__ for base in type(getattr(network, "_orig_mod", network)).__mro__}
    if "AudioLDM2UNet2DConditionModel" in classes:
        return "audioldm2"
    if "StableAudioNetwork" in classes:
        return "stable_audio"
    if "StableAudio3Network" in classes:
        return "stable_audio_3"
    if "LongCatNetwork" in classes:
        return "longcat"
    if "AceStepNetwork" in classes:
        return "ace_step"
    if is_transformer(network.config):
        return "sentence_token"
    widths = network.config.cross_attention_dim
    attends_to_itself = isinstance(widths, (list, tuple)) and list(widths) == list(network.config.block_out_channels)
    return "class_label" if attends_to_itself else "cross_attention"


def is_transformer(config: FrozenDict) -> bool:
    """Whether a config is a transformer's, over latents (B, C, time), not a UNet's, over (B, C, time, width)."""
    return "block_out_channels" not in config


def latent_channels(config: FrozenDict) -> int:
    """Number of channels of the latents that a network with this config works on."""
    names = ("io_channels", "latent_dim", "audio_acoustic_hidden_dim", "in_channels")
    return next(config[name] for name in names if name in config)
