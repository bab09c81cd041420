"""Golden data of the official SoundCTM code (fixtures/golden/README.md), and the tiny networks that made it."""

import functools
import json
import math
import zlib
from pathlib import Path

import torch
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


def pattern(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of first_stages.json: sines of the tensor's name and the element's index, scaled by its fan-in."""
    tensors = {}
    for name, shape in shapes.items():
        frequency = 1 + zlib.crc32(name.encode()) % 9973 / 9973
        values = torch.sin((torch.arange(math.prod(shape), dtype=torch.float64) + 1) * frequency)
        fan_in = math.prod(shape[1:])
        if len(shape) == 1 and name.endswith("bias"):
            values = 0.1 * values
        elif fan_in <= 1:
            values = (1 + 0.5 * values) * (0.4 if name.endswith("weight_g") else 1)
        else:
            values = values * math.sqrt(2 / fan_in)
        tensors[name] = values.reshape(shape).float()
    return tensors
