"""Training-free control: differentiable objectives for what a sound should be like, and methods that meet them."""

from ..lazy import lazy_exports

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
    "LossGuidance": ".guidance",
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
__getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
