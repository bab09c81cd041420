"""The card of an adapter of new sounds, and its upload."""

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, create_repo, upload_folder

from ..lora import WEIGHTS
from .publish import repo_id_of

CARD = "README.md"
_TEXT = """---
{data}
---

# {name}

A LoRA adapter of {size:.1f} MB for {base}, a [SoundCTM](https://arxiv.org/abs/2405.18503): {captions}.

```python
from diffusers_soundctm import SoundCTMPipeline

pipe = {load}
pipe.load_lora_weights("{repo_id}", adapter_name="{adapter}")
pipe.set_adapters(["{adapter}"], [1.0])
audio = pipe("{caption}", num_inference_steps=4).audios[0]  # ({channels}, samples) at {rate} Hz
```

## Training

| | |
|---|---|
{facts}

License of the recordings and of the adapter: {license}.
"""


def write_card(args: argparse.Namespace, pipe: Any, record: Mapping[str, Any]) -> None:
    """Write `OUTPUT_DIR/README.md`.

    Args:
        args: Arguments of `learn_sounds.py`.
        pipe: The model.
        record: What `training.json` says about the recordings.
    """
    embedded = args.model in (None, "embedded")
    base = "the model that is embedded in diffusers_soundctm" if embedded else Path(args.model).name
    load = "from_embedded()" if embedded else f'from_pretrained("{args.model}")'
    data = ModelCardData(library_name="diffusers", pipeline_tag="text-to-audio", tags=["soundctm", "lora"],
                         license=args.hub_license)  # fmt: skip
    if not embedded and args.model.count("/") == 1 and not Path(args.model).exists():
        data.base_model = args.model
        data["base_model_relation"] = "adapter"
    captions = record["captions"]
    facts = {
        "recordings": f"{record['recordings']} of {record['seconds_of_audio']:g} s in all, {record['windows']} windows",
        "method": args.method,
        "updates": f"{args.max_train_steps} × {args.train_batch_size}",
        "optimizer": f"AdamW, learning rate {args.learning_rate:g}, EMA {args.ema_decay:g}",
        "rank": str(args.lora_rank),
        "prior preservation": f"{args.prior_sounds} sounds of the model, {args.prior_rate:.0%} of a batch",
    }
    name = args.name or Path(args.output_dir).name
    text = _TEXT.format(
        data=data.to_yaml().strip(),
        name=name,
        size=record["adapter_bytes"] / 1e6,
        base=base,
        captions=", ".join(map(repr, captions[:10])),
        load=f"SoundCTMPipeline.{load}",
        repo_id=repo_id_of(args),
        adapter=adapter_name(name),
        caption=captions[0].replace('"', "'"),
        channels=pipe.num_channels,
        rate=pipe.sampling_rate,
        facts="\n".join(f"| {key} | {value} |" for key, value in facts.items()),
        license=args.hub_license or "not stated",
    )
    (Path(args.output_dir) / CARD).write_text(text, encoding="utf-8")


def adapter_name(text: str) -> str:
    """A name for peft, which must not hold dots: "my creature" → "my_creature"."""
    return "_".join("".join(c if c.isalnum() else " " for c in text).split()) or "sounds"


def publish_adapter(args: argparse.Namespace) -> str:
    """Upload the adapter and its card.

    Returns:
        URL of the commit.

    Raises:
        SystemExit: The upload failed. The adapter is on disk, and the message has the command that tries again.
    """
    repo_id, folder = repo_id_of(args), Path(args.output_dir)
    try:
        repo_id = create_repo(
            repo_id, private=args.hub_private_repo or None, token=args.hub_token, exist_ok=True
        ).repo_id
        return str(upload_folder(
            repo_id=repo_id, folder_path=folder, token=args.hub_token, commit_message="New sounds for SoundCTM",
            allow_patterns=[WEIGHTS, CARD],
        ))  # fmt: skip
    except Exception as error:  # of any kind: the adapter is on disk
        raise SystemExit(
            f"The upload to {repo_id} failed ({type(error).__name__}: {' '.join(str(error).split())}). The adapter is "
            f"complete on disk. Try again with:\n  hf upload {repo_id} {shlex.quote(str(folder))} ."
        ) from error
