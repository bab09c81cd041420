"""Teachers of `training/train_teacher.py`."""

from .base import TeacherFamily


class EDM(TeacherFamily):
    """What `train_teacher.py` writes: unet and scheduler; the other parts are given by name."""

    pipelines = ()
    optional = ("vocoder",)
