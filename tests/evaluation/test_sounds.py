"""Which files count as sounds, and which samples can be embedded."""

import numpy as np
import pytest
import torch

from diffusers_soundctm.audio import write_audio
from diffusers_soundctm.evaluation.sounds import audio_files, embed_sounds


def test_hidden_files_are_no_sounds(tmp_path):
    for name in ("dog/a.wav", "dog/._a.wav", "__MACOSX/dog/b.wav", ".trash/c.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(tmp_path / name, torch.zeros(100), 16000)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert audio_files(tmp_path) == [tmp_path / "dog" / "a.wav"]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.complex64])
def test_only_int16_is_embedded(dtype):
    with pytest.raises(TypeError, match=rf"`waveforms` has the dtype {np.dtype(dtype)}; pass int16"):
        embed_sounds(None, np.zeros((2, 100), dtype), 16000)
