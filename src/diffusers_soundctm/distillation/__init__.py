"""Distillation as in the paper: denoisers, solver, trajectories, losses and objective, and the teachers."""

from .denoisers import TeacherDenoiser
from .features import TeacherFeatures, feature_distance
from .solver import heun_solve, sample_teacher
from .teachers import Teacher, load_teacher

__all__ = [
    "Teacher",
    "TeacherDenoiser",
    "TeacherFeatures",
    "feature_distance",
    "heun_solve",
    "load_teacher",
    "sample_teacher",
]
