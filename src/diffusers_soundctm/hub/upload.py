"""Write what a repo on the Hub holds, and upload it."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import create_repo, upload_folder

from ..files import write_json
from .card import model_card, update_card
from .folders import INDEX, components, read_config
from .trust import HANDLER, REMOTE_CODE

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_PACKAGE = __package__.partition(".")[0]


def write_repo(pipe: "DiffusionPipeline", folder: Path, card: str, variant: str | None = None) -> None:
    """Write the content of a repo: weights (sharded if large), card, and the code that loaders and endpoints run.

    Args:
        pipe: the pipeline.
        folder: an existing folder.
        card: content of the README.
        variant: variant in the names of the weights' files, as in "fp16".
    """
    pipe.save_pretrained(folder, variant=variant)
    _write_card(folder, card)


def _write_card(folder: Path, card: str) -> None:
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "handler.py").write_bytes(HANDLER)


def write_loaders(folder: Path) -> None:
    """Write the small Python files with which the stock `DiffusionPipeline` finds our classes.

    Args:
        folder: a saved pipeline.
    """
    (folder / "pipeline.py").write_bytes(REMOTE_CODE)
    for name, (library, _) in components(folder).items():
        if library == _PACKAGE:
            (folder / name / f"{library}.py").write_bytes(REMOTE_CODE)
    index = read_config(folder / INDEX)
    if isinstance(index["_class_name"], str):
        write_json(folder / INDEX, index | {"_class_name": ["pipeline", index["_class_name"]]})


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
    folder: Path | None = None,
) -> str:
    """Upload a pipeline to a repo on the Hub, which is created if needed.

    The stock `DiffusionPipeline.from_pretrained(repo_id, trust_remote_code=True)` loads the repo too, where this
    package is installed.

    Args:
        pipe: the pipeline.
        repo_id: Hub id, as in "user/name".
        license: SPDX id for the card; None keeps that of the repo.
        card: content of the README. None generates one with `model_card`, or brings that of the repo up to date.
        variant: variant in the names of the weights' files, as in "fp16".
        private: whether a new repo is private; None follows the settings of the account.
        token: token for the Hub; None uses the stored one.
        commit_message: message of the commit; None names the class of `pipe`.
        create_pr: whether to open a pull request in place of a commit.
        folder: folder in which the pipeline is saved already; the card is added there. None saves to a temporary one.

    Returns:
        URL of the commit or of the pull request.
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
        card = update_card(card, repo_id, license, token)
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            folder = Path(temporary)
            write_repo(pipe, folder, card, variant)
        else:
            _write_card(folder, card)
        return str(
            upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=[
                    INDEX,
                    "README.md",
                    "pipeline.py",
                    "handler.py",
                    *(f"{name}/*" for name in components(folder)),
                ],
                token=token,
                commit_message=commit_message or f"Upload {type(pipe).__name__}",
                create_pr=create_pr,
            )
        )
