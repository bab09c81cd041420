"""Uploaded files: what is read, and what is refused."""

import numpy as np
import pytest
import soundfile

from diffusers_soundctm.app import uploads


def test_uploads_are_limited(studio, tmp_path, monkeypatch):
    def written(samples):
        path = tmp_path / "sound.wav"
        soundfile.write(path, samples, 8000)
        return path

    for name, content in (("page.html", b"<script>"), ("model.pkl", b"\x80\x04N."), ("empty.wav", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="not a readable sound file"):
            studio.add_upload(tmp_path / name)
    (tmp_path / "samples.raw").write_bytes(bytes(8000))
    with pytest.raises(ValueError, match="not a readable sound file"):
        studio.add_upload(tmp_path / "samples.raw")
    with pytest.raises(ValueError, match="no file"):
        studio.add_upload(None)
    for seconds in (0.2, 31):
        with pytest.raises(ValueError, match="choose one of"):
            studio.add_upload(written(np.ones(int(seconds * 8000)) * 0.1))
    with pytest.raises(ValueError, match="silent"):
        studio.add_upload(written(np.zeros(8000)))
    for peak, said in ((1e30, "times full scale"), (32767, "times full scale"), (np.inf, "not numbers")):
        soundfile.write(tmp_path / "float.wav", np.full(8000, float(peak)), 8000, subtype="FLOAT")
        with pytest.raises(ValueError, match=said):
            studio.add_upload(tmp_path / "float.wav")
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "MAX_UPLOAD_SAMPLES", 15000)
        with pytest.raises(ValueError, match="channels"):
            studio.add_upload(written(np.ones((8000, 2)) * 0.1))
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 1000)
    with pytest.raises(ValueError, match="MB"):
        studio.add_upload(written(np.ones(8000) * 0.1))
