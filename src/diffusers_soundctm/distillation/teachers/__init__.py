"""The teachers that can be distilled, one module per family; see `base` for how to add one."""

import os
from pathlib import Path
from typing import Any

from ... import hub
from ...files import read_json
from ...schedulers.scheduling_ctm import CTMScheduler
from .ace_step import AceStep
from .audio_dit import AudioDiT
from .audioldm import AudioLDM
from .audioldm2 import AudioLDM2
from .base import Teacher, TeacherFamily, class_name
from .edm import EDM
from .longcat import LongCat
from .musicldm import MusicLDM
from .stable_audio import StableAudio
from .stable_audio_3 import StableAudio3
from .tango import Tango

__all__ = [
    "FAMILIES",
    "Teacher",
    "TeacherFamily",
    "load_network_config",
    "load_teacher",
    "load_teacher_scheduler",
    "recognize",
]

FAMILIES = (AudioLDM, MusicLDM, AudioLDM2, Tango, StableAudio, StableAudio3, LongCat, AceStep, AudioDiT, EDM)


def load_teacher(
    name_or_folder: str | os.PathLike,
    *,
    allow_distilled: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    **given: str | os.PathLike | None,
) -> Teacher:
    """Load a teacher in float32 on the CPU.

    Args:
        name_or_folder: Folder or Hub id of a diffusers pipeline of one of `FAMILIES`, or a folder that
            `training/train_teacher.py` wrote.
        allow_distilled: Whether to accept a checkpoint that is distilled already. It samples in few stochastic steps,
            with its guidance baked in, so its velocity does not describe the trajectories of its data.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub.
        given: Folders of components that the teacher lacks, or that replace its own: `vae`, `text_encoder` (with its
            tokenizer) and `vocoder`.

    Raises:
        ValueError: The family or the scheduler is not supported, a component is missing, or the checkpoint is a
            distilled one.
        OSError: There is no such folder or repo, or a file is damaged.
    """
    folder = teacher_folder(name_or_folder, revision, token)
    family = recognize(folder)
    if given.get("text_encoder"):
        given["tokenizer"] = given["text_encoder"]
    return family.load(folder, given, allow_distilled)


def load_teacher_scheduler(name_or_folder: str | os.PathLike) -> CTMScheduler:
    """Load the noise levels and the prediction type of a teacher, without its weights; errors as for `load_teacher`."""
    folder = teacher_folder(name_or_folder)
    return recognize(folder).load_scheduler(folder)


def load_network_config(name_or_folder: str | os.PathLike) -> dict[str, Any]:
    """Load the configuration of a teacher's network, without its weights; errors as for `load_teacher`."""
    folder = teacher_folder(name_or_folder)
    return hub.read_config(recognize(folder).network_folder(folder) / "config.json")


def teacher_folder(
    name_or_folder: str | os.PathLike, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """Return a teacher's folder, which is downloaded if `name_or_folder` is a Hub id."""
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    return Path(hub.download_model(str(name_or_folder), revision=revision, token=token))


def recognize(folder: str | os.PathLike) -> type[TeacherFamily]:
    """Return the family of the teacher in a folder, by its configuration files.

    Raises:
        ValueError: The folder holds a student, or a model of none of `FAMILIES`. The message lists them.
        OSError: A configuration file is not valid JSON.
    """
    folder = Path(folder)
    configs = _configs(folder)
    for name in ("unet", "transformer"):
        student = class_name(configs.get(name, {})) or ""
        if student.startswith("CTM"):
            raise ValueError(
                f"`teacher_model` {str(folder)!r} is a student, a {student}; pass the teacher that it was "
                "distilled from."
            )
    for family in FAMILIES:
        if family.matches(configs):
            return family
    if "model_index" in configs:
        found = f"a {class_name(configs['model_index'])}"
    elif configs.keys() & {"unet", "transformer"}:
        names = [class_name(configs[name]) or name for name in ("unet", "transformer") if name in configs]
        encoder = configs.get("text_encoder", {}).get("model_type")
        found = f"a folder of components with {names[0]} and the text encoder {encoder!r}, which no family has"
    else:
        found = f"no pipeline: it has no {hub.INDEX}, and no unet or transformer"
    supported = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(
        f"`teacher_model` {str(folder)!r} is {found}. Supported are {supported}, plain folders of their components, "
        "folders with an AudioDiTModel, and folders that train_teacher.py writes. For another family, add a module to "
        "diffusers_soundctm.distillation.teachers."
    )


def _configs(folder: Path) -> dict[str, dict[str, Any]]:
    files = {
        "model_index": folder / hub.INDEX,
        "scheduler": folder / "scheduler" / "scheduler_config.json",
        **{name: folder / name / "config.json" for name in ("text_encoder", "unet", "transformer")},
    }
    configs = {name: read_json(path) for name, path in files.items() if path.is_file()}
    for name, config in configs.items():
        if not isinstance(config, dict):
            raise OSError(f"{files[name]} holds no JSON object; download or copy it again.")
    return configs
