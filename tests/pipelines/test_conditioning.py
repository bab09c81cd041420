"""The kind of conditioning: stored in a student's config, inferred for networks without it."""

import pytest

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.distillation import load_teacher
from diffusers_soundctm.pipelines.conditioning import CONDITIONINGS, conditioning_for, infer_conditioning
from tiny_teachers import make_teacher

KINDS = {
    "audioldm": "class_label",
    "musicldm": "class_label",
    "audioldm2": "audioldm2",
    "tango": "cross_attention",
    "stable_audio": "stable_audio",
    "stable_audio_3": "stable_audio_3",
    "longcat": "longcat",
    "ace_step": "ace_step",
}


@pytest.mark.parametrize("family", KINDS)
def test_every_teacher_hands_its_kind_to_the_student(family, tmp_path, tiny_pipeline):
    make_teacher(family, tmp_path, tiny_pipeline)
    teacher = load_teacher(tmp_path)
    student = teacher.student()
    assert infer_conditioning(teacher.network) == infer_conditioning(student) == KINDS[family]
    assert student.config.conditioning == KINDS[family]
    assert type(student).from_config(student.config).config.conditioning == KINDS[family]
    assert type(conditioning_for(student)) is type(teacher.conditioning) is CONDITIONINGS[KINDS[family]]


def test_the_config_decides(tiny_pipeline):
    unet = tiny_pipeline("tango").unet
    assert unet.config.conditioning is None and infer_conditioning(unet) == "cross_attention"
    unet.register_to_config(conditioning="class_label")
    assert type(conditioning_for(unet)) is CONDITIONINGS["class_label"]
    unet.register_to_config(conditioning="telepathy")
    with pytest.raises(ValueError, match=r"`conditioning` 'telepathy'; this version knows ace_step, audioldm2"):
        conditioning_for(unet)


def test_released_and_embedded_students_name_theirs(tiny_pipeline):
    assert tiny_pipeline("dit").transformer.config.conditioning == "sentence_token"
    assert SoundCTMPipeline.from_embedded(vae=None, vocoder=None).unet.config.conditioning == "cross_attention"
