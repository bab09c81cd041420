"""Write what a repo on the Hub holds, and upload it."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import create_repo, upload_folder

from .card import model_card
from .folders import INDEX, components

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PACKAGE = __package__.partition(".")[0]
_TEMPLATES = Path(__file__).parent / "templates"

# The stock `DiffusionPipeline` finds classes from outside diffusers through a .py file next to each component.
REMOTE_CODE = (_TEMPLATES / "pipeline.py").read_text(encoding="utf-8")
# Code that Hugging Face Inference Endpoints run.
HANDLER = (_TEMPLATES / "handler.py").read_text(encoding="utf-8")


def write_repo(pipe: "DiffusionPipeline", folder: Path, card: str, variant: str | None = None) -> None:
    """Write the content of a repo: weights (sharded if large), card, and the code that loaders and endpoints run."""
    pipe.save_pretrained(folder, variant=variant)
    (folder / "README.md").write_text(card, encoding="utf-8")
    index = json.loads((folder / INDEX).read_text())
    index["_class_name"] = ["pipeline", index["_class_name"]]
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    (folder / "pipeline.py").write_text(REMOTE_CODE)
    (folder / "handler.py").write_text(HANDLER)
    for name, (library, _) in components(folder).items():
        if library == _PACKAGE:
            (folder / name / f"{library}.py").write_text(REMOTE_CODE)


def push_to_hub(
    pipe: "DiffusionPipeline",
    repo_id: str,
    *,
    license: str | None = None,
    card: str | None = None,
    variant: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload `pipe` to the Hub repo `repo_id`, created if need be, with a model card.

    The repo also loads through the stock `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)`.

    Args:
        license: SPDX id for the card written by `model_card`; `card` is a README of your own in its place.

    Returns:
        URL of the commit (or of the pull request with `create_pr`).
    """
    repo_id = create_repo(repo_id, private=private, token=token, exist_ok=True).repo_id
    if card is None:
        card = model_card(
            repo_id,
            num_channels=pipe.num_channels,
            sampling_rate=pipe.sampling_rate,
            guidance_scale_range=pipe.config.guidance_scale_range,
            license=license,
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repo(pipe, folder, card, variant)
        return str(
            upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                token=token,
                commit_message=commit_message or f"Upload {type(pipe).__name__}",
                create_pr=create_pr,
            )
        )


def holds_only_our_code(folder: Path) -> bool:
    """Whether every Python file of a model folder is what `write_repo` writes, which is safe to run."""
    return all(
        file.read_text() == (HANDLER if file.name == "handler.py" else REMOTE_CODE) for file in folder.rglob("*.py")
    )
