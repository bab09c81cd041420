"""SoundCTM for diffusers: one step for a draft, 2 to 16 deterministic steps for the same sound, better."""

from .lazy import lazy_exports
from .version import __version__

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
_DIFFUSERS_BASES = dict.fromkeys(("ConfigMixin", "DiffusionPipeline", "ModelMixin", "SchedulerMixin"), "diffusers")

__all__ = ["__version__", *sorted(_PUBLIC)]
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC | _DIFFUSERS_BASES)
