"""Draw and compare batches, and write tar files of clips."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch

from diffusers_soundctm.data.sources import DataSettings

SAMPLES = 5120


def batch_of(data, dropout=0.3, seed=5):
    clips = torch.tensor([6, 0, 3, 3])
    return data.draw(clips, slice(1, 4), dropout, torch.Generator().manual_seed(seed))("cpu")


def assert_same_batch(batch, other):
    for mine, theirs in zip(batch, other, strict=True):
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-2)
            continue
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            if value is not None:
                torch.testing.assert_close(value, theirs[name], rtol=1e-2, atol=1e-2)


def settings_of(dataset, cache_dir="unused", **given):
    return DataSettings(str(dataset), SAMPLES, cache_dir, **given)


def write_tars(root: Path) -> list[str]:
    import soundfile

    rng, names = np.random.default_rng(0), []
    for shard in range(2):
        names.append(str(root / f"clips-{shard}.tar"))
        with tarfile.open(names[-1], "w") as tar:
            for number in range(3):
                sound = io.BytesIO()
                soundfile.write(sound, 0.1 * rng.standard_normal(SAMPLES), 16000, format="FLAC")
                caption = json.dumps({"caption": f"sound {shard} {number}"}).encode()
                for suffix, content in (("flac", sound.getvalue()), ("json", caption)):
                    info = tarfile.TarInfo(f"{shard}{number}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return names


def rewrite(path: Path, change) -> str:
    """Replace the content of some members: `change(name, content)` gives the new content, or None to leave it out."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            content = change(name, content)
            if content is not None:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(path)
