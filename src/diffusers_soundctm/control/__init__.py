"""Training-free control: what a sound should do, as differentiable objectives."""

from .objectives import (
    BandEnergyObjective,
    CurveObjective,
    EmbeddingSimilarityObjective,
    IntensityObjective,
    LoopObjective,
    Objective,
    OnsetObjective,
    SpectralCentroidObjective,
)
from .sound import Sound

__all__ = [
    "BandEnergyObjective",
    "CurveObjective",
    "EmbeddingSimilarityObjective",
    "IntensityObjective",
    "LoopObjective",
    "Objective",
    "OnsetObjective",
    "Sound",
    "SpectralCentroidObjective",
]
