"""SoundCTM for diffusers: one step for a draft, 2 to 16 deterministic steps for the same sound, better."""

import importlib
from typing import Any

from .version import __version__

# Public name -> the module that defines it. Loaded on first use, so that `soundctm --help` need not import torch.
_PUBLIC = {
    "AudioDiTModel": ".models.transformer_ctm",
    "AutoencoderDAC": ".models.autoencoder_dac",
    "CTMAudioDiTModel": ".models.transformer_ctm",
    "CTMAudioLDM2UNet2DConditionModel": ".models.unet_audioldm2_ctm",
    "CTMScheduler": ".schedulers.scheduling_ctm",
    "CTMStableAudioDiTModel": ".models.stable_audio_ctm",
    "CTMTimestepEmbedding": ".models.embeddings",
    "CTMUNet2DConditionModel": ".models.unet_2d_condition_ctm",
    "ISTFTVocoder": ".models.vocoder",
    "SoundCTMPipeline": ".pipelines.pipeline_soundctm",
}

# diffusers looks a component's base class up in the module that `model_index.json` records, which is this one.
_DIFFUSERS_BASES = ("ConfigMixin", "DiffusionPipeline", "ModelMixin", "SchedulerMixin")

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    elif name in _DIFFUSERS_BASES:
        value = getattr(importlib.import_module("diffusers"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
