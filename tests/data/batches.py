"""Draw and compare batches."""

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
