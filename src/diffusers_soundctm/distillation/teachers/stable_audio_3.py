"""Stable Audio 3: a flow-matching transformer on latents of stereo waveforms, conditioned on text and duration."""

from typing import ClassVar

from ...models.stable_audio_3_ctm import CTMStableAudio3DiTModel, StableAudio3Network
from .stable_audio import StableAudio


class StableAudio3(StableAudio):
    """Folders of diffusers' `StableAudio3Pipeline`, of a base checkpoint.

    Inpainting inputs of the network are not used.
    """

    pipelines = ("StableAudio3Pipeline",)
    base_model = "stabilityai/stable-audio-3-medium-base"
    parts: ClassVar = {
        "vae": "diffusers.AutoencoderSAME",
        "text_encoder": "diffusers_soundctm.data.encoders.AutoTextEncoder",
        "tokenizer": "transformers.AutoTokenizer",
        "duration_embedder": "diffusers.StableAudio3DurationEmbedder",
    }
    network_class = f"{StableAudio3Network.__module__}.StableAudio3Network"
    stock_network = "StableAudio3DiTModel"
    student_class = CTMStableAudio3DiTModel
    text_encoder_source = "google/t5gemma-b-b-ul2"
    conditioning = "stable_audio_3"
    flow_time_factor = 1
