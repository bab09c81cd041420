"""What a call of the pipeline returns."""

from dataclasses import dataclass

from diffusers.pipelines.pipeline_utils import AudioPipelineOutput


@dataclass
class SoundCTMPipelineOutput(AudioPipelineOutput):
    """Audio, and by how much it was turned down.

    Args:
        audios: Waveforms (batch, channels, samples) within ±1, or latents z_0.
        turned_down_db: By how many dB each waveform was scaled down because its peak exceeded full scale, 0 for most.
            Add it to a loudness that a curve asked for. None with latents.
    """

    turned_down_db: list[float] | None = None
