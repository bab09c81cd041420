"""Golden data of the official SoundCTM code (fixtures/golden/README.md), and the tiny networks that made it."""

import functools
import json
from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from diffusers_soundctm import AudioDiTModel, CTMAudioDiTModel, CTMUNet2DConditionModel
from diffusers_soundctm.conversion import convert_soundctm_dit, convert_soundctm_unet

FOLDER = Path(__file__).parent / "fixtures" / "golden"


def read(name: str):
    """A golden file: the tensors of a .safetensors, the content of a .json."""
    path = FOLDER / name
    return load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


@functools.cache
def student() -> CTMUNet2DConditionModel:
    return convert_soundctm_unet(read("student.safetensors"), read("unet_config.json"))


@functools.cache
def teacher() -> UNet2DConditionModel:
    return convert_soundctm_unet(read("teacher.safetensors"), read("unet_config.json"))


@functools.cache
def dit_student() -> CTMAudioDiTModel:
    return convert_soundctm_dit(read("dit/student_dit.safetensors"), read("dit/dit_config.json"))


@functools.cache
def dit_teacher() -> AudioDiTModel:
    return convert_soundctm_dit(read("dit/teacher_dit.safetensors"), read("dit/dit_config.json"))
