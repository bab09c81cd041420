"""A pipeline's folder is written whole, in every variant, and an interrupted conversion goes on where it was."""

import io
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.conversion import folders
from diffusers_soundctm.conversion.folders import save_components, write_safetensors

RECORD = {"from": "test", "files": {"x.pt": 3}}


def save_pipeline(pipe, folder, record, variants=("fp16",)):
    save_components({} if pipe is None else pipe.components, (2.0, 5.0), folder, record, variants)


def test_a_safetensors_file_of_many_types(tmp_path):
    tensors = {
        "one": torch.tensor(3.5),
        "odd": torch.arange(3, dtype=torch.uint8),
        "slice": torch.randn(4, 6)[:, 1:3],
        "steps": torch.tensor([1, 2]),
        "flags": torch.tensor([True, False]),
        "half": torch.randn(5).to(torch.bfloat16),
        "none": torch.zeros(0, 3),
    }
    write_safetensors(tmp_path / "x.safetensors", tensors, {name: tensor.dtype for name, tensor in tensors.items()})
    read = load_file(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_what_is_written_loads_in_every_variant(tmp_path, tiny_pipeline):
    pipe = tiny_pipeline("tango")
    save_pipeline(pipe, tmp_path / "out", RECORD, ("fp16", "bf16"))
    for variant, dtype in ((None, torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        loaded = SoundCTMPipeline.from_pretrained(tmp_path / "out", variant=variant, torch_dtype=dtype)
        assert loaded.config.guidance_scale_range == [2.0, 5.0]
        for name in ("unet", "vae", "vocoder", "text_encoder"):
            weights = getattr(loaded, name).state_dict()
            for key, tensor in getattr(pipe, name).state_dict().items():
                assert torch.equal(weights[key].float(), tensor.to(weights[key].dtype).float()), key
    files = sorted(path.name for path in (tmp_path / "out" / "text_encoder").iterdir())
    assert files == ["config.json", "model.bf16.safetensors", "model.fp16.safetensors", "model.safetensors"]


def test_goes_on_after_the_last_whole_component(tmp_path, tiny_pipeline, monkeypatch):
    pipe = tiny_pipeline("tango")
    write = folders.write_safetensors

    def fails_at_the_unet(path, tensors, *content):
        write(path, tensors, *content)
        if "conv_in.weight" in tensors:
            raise OSError("No space left on device")

    monkeypatch.setattr(folders, "write_safetensors", fails_at_the_unet)
    with pytest.raises(OSError, match="No space"):
        save_pipeline(pipe, tmp_path, RECORD)
    present = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert "vae" in present and not present & {"unet", "model_index.json"}
    with pytest.raises(OSError, match=r"no model_index\.json"):
        SoundCTMPipeline.from_pretrained(tmp_path)

    written = []
    monkeypatch.setattr(
        folders, "write_safetensors", lambda path, tensors, *a: (written.extend(tensors), write(path, tensors, *a))
    )
    with pytest.raises(ValueError, match="neither empty nor an interrupted conversion"):
        save_pipeline(pipe, tmp_path, RECORD | {"from": "another"})
    save_pipeline(pipe, tmp_path, RECORD)
    assert "decoder.conv_in.weight" not in written and "conv_in.weight" in written
    assert not list(tmp_path.glob(".*"))
    assert SoundCTMPipeline.from_pretrained(tmp_path).unet.config.sample_size == 32
    with pytest.raises(ValueError, match="holds a model already"):
        save_pipeline(pipe, tmp_path, RECORD)


def test_progress_counts_the_bytes_that_are_written(tmp_path, tiny_pipeline, monkeypatch):
    bars = []

    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**options | {"disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(folders, "tqdm", Bar)
    pipe = tiny_pipeline("tango")
    save_pipeline(pipe, tmp_path / "out", RECORD, ("fp16", "bf16"))
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert len(files) == 12
    written = sum(tensor.nbytes for file in files for tensor in load_file(file).values())
    assert bars[0].n == bars[0].total == written


def test_a_disk_that_is_too_full_is_noticed_first(tmp_path, tiny_pipeline, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"its disk has 0\.0 GB left"):
        save_pipeline(tiny_pipeline("tango"), tmp_path / "out", RECORD)
    assert not list((tmp_path / "out").iterdir())


def test_output_is_checked_before_anything_is_written(tmp_path, tiny_pipeline):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="neither empty nor an interrupted conversion"):
        save_pipeline(None, tmp_path, RECORD)
    with pytest.raises(ValueError, match="is a file"):
        save_pipeline(None, tmp_path / "notes.txt", RECORD)
    with pytest.raises(ValueError, match=r"`variants` has \['int4'\]"):
        save_pipeline(None, tmp_path / "new", RECORD, ("int4",))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
