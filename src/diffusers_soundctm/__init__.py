"""SoundCTM for diffusers: one step for a draft, 2 to 16 deterministic steps for the same sound, better."""

from typing import TYPE_CHECKING

from .auto_classes import register
from .lazy import lazy_exports
from .version import __version__

_PUBLIC = {
    "AudioDiTModel": ".models.transformer_ctm",
    "AutoencoderDAC": ".models.autoencoder_dac",
    "CTMAceStepTransformer1DModel": ".models.ace_step_ctm",
    "CTMAudioDiTModel": ".models.transformer_ctm",
    "CTMAudioLDM2UNet2DConditionModel": ".models.unet_audioldm2_ctm",
    "CTMLongCatAudioDiTTransformer": ".models.longcat_ctm",
    "CTMScheduler": ".schedulers.scheduling_ctm",
    "CTMStableAudio3DiTModel": ".models.stable_audio_3_ctm",
    "CTMStableAudioDiTModel": ".models.stable_audio_ctm",
    "CTMTimestepEmbedding": ".models.embeddings",
    "CTMUNet2DConditionModel": ".models.unet_2d_condition_ctm",
    "ISTFTVocoder": ".models.vocoder",
    "OnnxSoundCTMPipeline": ".onnx.pipeline",
    "SoundCTMPipeline": ".pipelines.pipeline_soundctm",
}

# diffusers looks a component's base class up in the module that `model_index.json` records, which is this one.
_DIFFUSERS_BASES = dict.fromkeys(("ConfigMixin", "DiffusionPipeline", "ModelMixin", "SchedulerMixin"), "diffusers")

if TYPE_CHECKING:  # the same names, for type checkers
    from .models.ace_step_ctm import CTMAceStepTransformer1DModel as CTMAceStepTransformer1DModel
    from .models.autoencoder_dac import AutoencoderDAC as AutoencoderDAC
    from .models.embeddings import CTMTimestepEmbedding as CTMTimestepEmbedding
    from .models.longcat_ctm import CTMLongCatAudioDiTTransformer as CTMLongCatAudioDiTTransformer
    from .models.stable_audio_3_ctm import CTMStableAudio3DiTModel as CTMStableAudio3DiTModel
    from .models.stable_audio_ctm import CTMStableAudioDiTModel as CTMStableAudioDiTModel
    from .models.transformer_ctm import AudioDiTModel as AudioDiTModel
    from .models.transformer_ctm import CTMAudioDiTModel as CTMAudioDiTModel
    from .models.unet_2d_condition_ctm import CTMUNet2DConditionModel as CTMUNet2DConditionModel
    from .models.unet_audioldm2_ctm import CTMAudioLDM2UNet2DConditionModel as CTMAudioLDM2UNet2DConditionModel
    from .models.vocoder import ISTFTVocoder as ISTFTVocoder
    from .onnx.pipeline import OnnxSoundCTMPipeline as OnnxSoundCTMPipeline
    from .pipelines.pipeline_soundctm import SoundCTMPipeline as SoundCTMPipeline
    from .schedulers.scheduling_ctm import CTMScheduler as CTMScheduler
else:
    __all__ = ["__version__", *sorted(_PUBLIC)]
    __getattr__, __dir__ = lazy_exports(__name__, _PUBLIC | _DIFFUSERS_BASES)
    register(
        [name for name, module in _PUBLIC.items() if module.startswith(".models.") and name != "CTMTimestepEmbedding"]
    )
