"""diffusers' auto classes find ours when the package is imported, and say what is missing otherwise."""

import os
import subprocess
import sys

import pytest
from diffusers import AutoModel, AutoPipelineForText2Audio

from diffusers_soundctm import CTMUNet2DConditionModel, ISTFTVocoder, SoundCTMPipeline


def test_models(embedded_folder):
    folder = str(embedded_folder)  # diffusers' `AutoModel` accepts no `Path`
    assert type(AutoModel.from_pretrained(f"{folder}/unet")) is CTMUNet2DConditionModel
    assert type(AutoModel.from_pretrained(folder, subfolder="unet")) is CTMUNet2DConditionModel
    assert type(AutoModel.from_pretrained(f"{folder}/vocoder")) is ISTFTVocoder
    assert type(AutoModel.from_config(f"{folder}/vocoder")) is ISTFTVocoder


def test_pipelines(embedded_folder):
    pipe = AutoPipelineForText2Audio.from_pretrained(embedded_folder)
    assert type(pipe) is SoundCTMPipeline
    again = AutoPipelineForText2Audio.from_pipe(pipe)
    assert type(again) is SoundCTMPipeline and again.unet is pipe.unet
    assert again.config.guidance_scale_range == [2.0, 5.0]


@pytest.mark.slow
def test_without_the_package_the_missing_class_is_named(embedded_folder):
    code = f"""
from diffusers import AutoModel, AutoPipelineForText2Audio
folder = {str(embedded_folder)!r}
for load in (lambda: AutoModel.from_pretrained(folder + "/unet"),
             lambda: AutoModel.from_pretrained(folder, subfolder="unet"),
             lambda: AutoPipelineForText2Audio.from_pretrained(folder)):
    try:
        load()
    except ValueError as error:
        print(error)
import diffusers_soundctm  # after the auto classes, whose modules exist already
print(type(AutoModel.from_pretrained(folder + "/unet")).__name__)
print(type(AutoPipelineForText2Audio.from_pretrained(folder)).__name__)
"""
    lines = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    ).stdout.splitlines()
    names = ("CTMUNet2DConditionModel", "diffusers_soundctm", "SoundCTMPipeline")
    assert all(name in line for name, line in zip((*names, names[0], names[2]), lines, strict=True))
