"""Tiny data and components for the training scripts."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

NUM_CLIPS = 7
NUM_SAMPLES = 5120


def write_dataset(folder: Path, caption: str = "a dog barks") -> None:
    import pyarrow as pa
    import soundfile
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    rows = []
    for index in range(NUM_CLIPS):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal(NUM_SAMPLES), 16000, format="FLAC")
        captions = ["rain on a tin roof", "loud rain"] if index % 2 else [caption]
        rows.append({"audio": {"bytes": file.getvalue(), "path": f"{index}.flac"}, "caption": captions})
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "train-00000.parquet")


@pytest.fixture(scope="session")
def training_inputs(tmp_path_factory, tiny_pipeline) -> dict[str, str]:
    """Arguments of both training scripts that name what they read: data, VAE, text encoder; and a network's config."""
    root = tmp_path_factory.mktemp("training")
    write_dataset(root / "data")
    pipe = tiny_pipeline("embedded")
    pipe.vae.save_pretrained(root / "vae")
    pipe.vocoder.save_pretrained(root / "vocoder")
    pipe.text_encoder.save_pretrained(root / "text_encoder")
    pipe.tokenizer.save_pretrained(root / "text_encoder")
    student_only = (
        "conditioning",
        "guidance_scale_range",
        "prediction_type",
        "branch_init",
        "num_train_timesteps",
        "trained_betas",
    )
    config = {
        name: value
        for name, value in pipe.unet.config.items()
        if not name.startswith(("_", "beta")) and name not in student_only
    }
    (root / "unet.json").write_text(json.dumps(config))
    return {
        "dataset_name": str(root / "data"),
        "vae": str(root / "vae"),
        "text_encoder": str(root / "text_encoder"),
        "num_samples": str(NUM_SAMPLES),
        "cache_dir": str(root / "cache"),
        "unet_config": str(root / "unet.json"),
        "vocoder": str(root / "vocoder"),
    }
