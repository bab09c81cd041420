"""The teachers that can be distilled, one module per family."""

import json
import os
from pathlib import Path

from ... import hub
from .audioldm import AudioLDM
from .audioldm2 import AudioLDM2
from .base import Teacher, TeacherFamily
from .edm import EDM
from .musicldm import MusicLDM
from .stable_audio import StableAudio
from .tango import Tango

FAMILIES = (AudioLDM, MusicLDM, AudioLDM2, Tango, StableAudio, EDM)


def recognize(folder: str | os.PathLike) -> type[TeacherFamily]:
    """The family of the pipeline in `folder`, by `model_index.json`, or by its components if it has none.

    Raises:
        ValueError: a student, or none of `FAMILIES`; the message lists them.
    """
    folder = Path(folder)
    configs = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in {
            "index": folder / hub.INDEX,
            "scheduler": folder / "scheduler" / "scheduler_config.json",
            "text_encoder": folder / "text_encoder" / "config.json",
            "unet": folder / "unet" / "config.json",
        }.items()
        if path.is_file()
    }
    if configs.get("unet", {}).get("_class_name", "").startswith("CTM"):
        raise ValueError(
            f"`teacher_model` {str(folder)!r} is a student, a {configs['unet']['_class_name']}; pass the teacher it "
            "was distilled from."
        )
    if "index" in configs:
        found = configs["index"]["_class_name"]
        found = found[-1] if isinstance(found, list) else found
        for family in FAMILIES:
            if found in family.pipelines:
                return family
        found = f"a {found}"
    elif "unet" in configs and "scheduler" in configs:
        if configs["scheduler"]["_class_name"] == "CTMScheduler":
            return EDM
        if configs.get("text_encoder", {}).get("model_type") == "t5":
            return Tango
        found = "a folder of components with neither a CTMScheduler nor a T5 text encoder"
    else:
        found = f"no pipeline: it has no {hub.INDEX}, and no unet and scheduler"
    supported = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(
        f"`teacher_model` {str(folder)!r} is {found}. Supported are {supported}, a plain folder of Tango's components, "
        "and folders that train_teacher.py writes. For another family, write an adapter: subclass TeacherFamily in "
        "diffusers_soundctm.distillation.teachers, name the classes of its components and of its student, and add it "
        "to FAMILIES."
    )


def load_teacher(name_or_folder: str | os.PathLike, **given: str | os.PathLike | None) -> Teacher:
    """A teacher from a folder or a Hub id, in float32 on the CPU.

    Args:
        given: folders of parts that replace the teacher's own, or that it lacks: `vae`, `text_encoder`, `vocoder`; the
            tokenizer is looked for with the text encoder.

    Raises:
        ValueError: not a supported family, an unsupported scheduler, or a part is missing.
        OSError: nothing there, or damaged files.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = Path(hub.download_model(str(name_or_folder)))
    family = recognize(folder)
    if given.get("text_encoder"):
        given["tokenizer"] = given["text_encoder"]
    return family.load(folder, given)
