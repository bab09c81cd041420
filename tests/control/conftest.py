"""Tiny pipelines of all families that control supports, including those with autoencoders of waveforms."""

import pytest

from diffusers_soundctm import SoundCTMPipeline
from tiny_teachers import make_teacher


@pytest.fixture(params=["embedded", "tango", "audioldm", "dit", "stable_audio", "stable_audio_3"])
def family_pipe(request, tiny_pipeline, tmp_path) -> SoundCTMPipeline:
    """A tiny pipeline of each family. Stable Audio's are stereo, at 44.1 kHz, and generate 29 and 78 ms."""
    if not request.param.startswith("stable_audio"):
        return tiny_pipeline(request.param)
    make_teacher(request.param, tmp_path / "teacher", tiny_pipeline)
    pipe = SoundCTMPipeline.from_teacher(tmp_path / "teacher")
    pipe.set_progress_bar_config(disable=True)
    return pipe
