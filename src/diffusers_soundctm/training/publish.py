"""Upload the model of a finished run to the Hub. If the upload fails, the repo's folder stays on disk."""

import argparse
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import create_repo, get_token, hf_hub_download, metadata_load, upload_folder
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .. import hub, lora

if TYPE_CHECKING:
    from ..pipelines.pipeline_soundctm import SoundCTMPipeline


def publishing_problems(args: argparse.Namespace) -> list[str]:
    """Find before training what would make `--push_to_hub` fail."""
    if not args.push_to_hub:
        return []
    problems = []
    try:
        validate_repo_id(repo_id_of(args))
    except HFValidationError as error:
        problems.append(f"--hub_model_id {repo_id_of(args)!r} is malformed: {error}")
    if args.hub_token is None and get_token() is None:
        problems.append("--push_to_hub needs a token: run `hf auth login`, set HF_TOKEN or pass --hub_token.")
    if license_of(args) is None:
        problems.append(
            f"--push_to_hub needs a license, and {args.teacher_model} names none to inherit; pass --hub_license."
        )
    return problems


def repo_id_of(args: argparse.Namespace) -> str:
    """`--hub_model_id`, or the last part of `--output_dir`."""
    return args.hub_model_id or Path(args.output_dir).name


def license_of(args: argparse.Namespace) -> str | None:
    """`--hub_license`, or the license in the teacher's card."""
    if args.hub_license:
        return args.hub_license
    card = Path(args.teacher_model) / "README.md"
    if not Path(args.teacher_model).is_dir():
        try:
            card = Path(hf_hub_download(str(args.teacher_model), "README.md"))
        except (OSError, ValueError):
            return None
    return (metadata_load(card) or {}).get("license") if card.is_file() else None


def facts_of(args: argparse.Namespace, record: Mapping[str, Any]) -> dict[str, str]:
    """Facts about a run for the model card. Of local folders only the last part is named."""

    def public(name: str | os.PathLike) -> str:
        return str(name) if re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) and not Path(name).exists() else Path(name).name

    seconds = f"{args.num_samples / args.sampling_rate:.2f} s"
    if args.captions is None:
        data = f"{public(args.dataset_name)}, {record['clips'] or 'streamed'} clips of {seconds}"
    else:
        data = f"{record['clips']} captions, no audio; trajectories of {seconds}"
    losses = ", ".join(f"{name} {value:.4f}" for name, value in record["losses"].items())
    return {
        "teacher": public(args.teacher_model),
        "data": data,
        "guidance scale ω": f"{args.omega_min:g} to {args.omega_max:g}",
        "steps": f"{args.max_train_steps} × {args.train_batch_size}",
        "optimizer": f"{args.optimizer}, learning rate {args.learning_rate:g}, EMA {args.ema_decay:g}",
        "solver": f"{args.num_scales} levels, {args.trajectory_reuse} updates per trajectory",
        "losses at the end": losses,
    }


def publish(args: argparse.Namespace, pipe: "SoundCTMPipeline", student: Any, record: Mapping[str, Any]) -> str:
    """Upload the model of a run with its card, loaders and the last validation samples.

    Args:
        args: Arguments of `train_ctm.py`.
        pipe: The resulting pipeline.
        student: Its denoiser.
        record: Content of training.json.

    Returns:
        URL of the commit.

    Raises:
        SystemExit: The upload failed. Everything is on disk, and the message has the command that tries again.
    """
    repo_id, token, folder = repo_id_of(args), args.hub_token, Path(args.output_dir) / "hub"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sounds = _copy_sounds(Path(args.output_dir) / "samples", folder)
    facts = facts_of(args, record)
    card = hub.model_card(
        repo_id,
        num_channels=pipe.num_channels,
        sampling_rate=pipe.sampling_rate,
        guidance_scale_range=pipe.config.guidance_scale_range,
        license=license_of(args),
        facts=facts,
        sounds=sounds,
        adapter_of=facts["teacher"] if args.lora_rank else None,
        branch_init=getattr(pipe.denoiser.config, "branch_init", None),
    )
    if args.lora_rank:
        lora.save_lora(student, folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    else:
        hub.write_repo(pipe, folder, card)
    try:
        repo_id = create_repo(repo_id, private=args.hub_private_repo or None, token=token, exist_ok=True).repo_id
        card = hub.update_card(card, repo_id, args.hub_license, token)
        (folder / "README.md").write_text(card, encoding="utf-8")
        url = str(upload_folder(repo_id=repo_id, folder_path=folder, token=token, commit_message="Distilled SoundCTM"))
    except Exception as error:  # of any kind: the model is on disk
        raise SystemExit(
            f"The upload to {repo_id} failed ({type(error).__name__}: {' '.join(str(error).split())}). The model is "
            f"complete on disk. Try again with:\n  hf upload {repo_id} {shlex.quote(str(folder))} ."
        ) from error
    shutil.rmtree(folder)
    return url


def _copy_sounds(samples: Path, folder: Path) -> list[str]:
    """Copy the samples of the last validation into the repo's folder; returns their paths in the repo."""
    steps = sorted(samples.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    if not steps:
        return []
    (folder / "samples").mkdir()
    copied = []
    for file in sorted(steps[-1].glob("*.wav")):
        shutil.copy(file, folder / "samples" / file.name)
        copied.append(f"samples/{file.name}")
    return copied
