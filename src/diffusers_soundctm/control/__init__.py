"""Training-free control: what a sound should do, as differentiable objectives, and ways to make a model do it."""

import importlib
from typing import Any

# Public name -> the module that defines it, loaded on first use.
_PUBLIC = {
    "BandEnergyObjective": ".objectives",
    "CircularTime": ".seams",
    "ClapEmbedding": ".clap",
    "CurveObjective": ".objectives",
    "EmbeddingSimilarityObjective": ".objectives",
    "IntensityObjective": ".objectives",
    "KnownRegion": ".inpainting",
    "LatentMatchObjective": ".objectives",
    "LoopObjective": ".objectives",
    "LossGuidance": ".loss_guidance",
    "MelMatchObjective": ".objectives",
    "Objective": ".objectives",
    "OnsetObjective": ".objectives",
    "PromptMorph": ".variation",
    "Sound": ".sound",
    "SpectralCentroidObjective": ".objectives",
    "WaveformMatchObjective": ".objectives",
    "decode_loop": ".seams",
    "drift": ".variation",
    "extend_bandwidth": ".bandwidth",
    "generate_long": ".inpainting",
    "inpaint": ".inpainting",
    "noise_hash": ".variation",
    "optimize_noise": ".noise_optimization",
    "vary": ".variation",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
