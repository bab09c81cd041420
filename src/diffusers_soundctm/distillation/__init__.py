"""What training uses, apart from the loops: pure functions and small classes, each one idea of the paper."""

from .features import TeacherFeatures, feature_distance
from .solver import heun_solve, sample_teacher
from .teachers import TeacherDenoiser

__all__ = ["TeacherDenoiser", "TeacherFeatures", "feature_distance", "heun_solve", "sample_teacher"]
