"""A checkpoint gives its tensors, whatever it wraps them in, and gets no code run."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusers_soundctm.conversion.checkpoints import read_checkpoint

TENSORS = {"a.weight": torch.randn(3, 4), "a.bias": torch.arange(3)}


class Malicious:
    """Unpickled as a call: makes a folder, where a real one would do worse."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3, "metadata": {"kwargs": {"rates": [2, 4]}}},
        {"state_dict": {f"module.{name}": tensor for name, tensor in TENSORS.items()}, "best": np.float64(0.5)},
        TENSORS | {"steps": 7},
    ],
)
@pytest.mark.parametrize("extension", ["bin", "pt", "pth", "ckpt"])
def test_tensors_of_every_wrapping(tmp_path, content, extension):
    torch.save(content, tmp_path / f"x.{extension}")
    read = read_checkpoint(tmp_path / f"x.{extension}")
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


def test_safetensors_and_the_format_before_zip(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    torch.save(TENSORS, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    for name in ("x.safetensors", "x.pt"):
        assert torch.equal(read_checkpoint(tmp_path / name)["a.weight"], TENSORS["a.weight"])


def test_tensors_stay_on_disk(tmp_path):
    torch.save({"a": torch.ones(4, 1 << 20)}, tmp_path / "x.pt")
    read = read_checkpoint(tmp_path / "x.pt")
    maps = Path("/proc/self/maps")
    if maps.is_file():
        assert str(tmp_path / "x.pt") in maps.read_text()
    assert read["a"].sum() == 4 << 20


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path, zipped):
    victim = tmp_path / "made by the checkpoint"
    torch.save(TENSORS | {"x": Malicious(victim)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"x\.pt is refused.*mkdir.*safetensors"):
        read_checkpoint(tmp_path / "x.pt")
    assert not victim.exists()


def test_files_that_are_no_checkpoints(tmp_path):
    torch.save(TENSORS, tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-300])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "page.pt").write_text("<html>Sign in</html>")
    (tmp_path / "page.safetensors").write_text("<html>Sign in</html>")
    for name in ("half.pt", "empty.pt", "page.pt", "page.safetensors"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a checkpoint"):
            read_checkpoint(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    torch.save(TENSORS["a.weight"], tmp_path / "bare.pt")
    for name in ("none.pt", "bare.pt"):
        with pytest.raises(ValueError, match="no named tensors"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(ValueError, match="is not a file"):
        read_checkpoint(tmp_path / "missing.pt")
    (tmp_path / "x.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in '\.npz'"):
        read_checkpoint(tmp_path / "x.npz")
