"""Training-free control: differentiable objectives for what a sound should be like, and methods that meet them."""

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

_PUBLIC = {
    "BandEnergyObjective": ".objectives",
    "CircularTime": ".seams",
    "ClapEmbedding": ".clap",
    "CurveObjective": ".objectives",
    "EmbeddingSimilarityObjective": ".objectives",
    "IntensityObjective": ".objectives",
    "KnownRegion": ".inpainting",
    "LatentHeads": ".heads",
    "LatentMatchObjective": ".objectives",
    "LoopObjective": ".objectives",
    "LossGuidance": ".guidance",
    "MelMatchObjective": ".objectives",
    "Objective": ".objectives",
    "OnsetObjective": ".objectives",
    "PitchObjective": ".pitch",
    "PromptMorph": ".variation",
    "SketchObjective": ".sketch",
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
    "sketch_curves": ".sketch",
    "vary": ".variation",
}

if TYPE_CHECKING:  # the same names, for type checkers
    from .bandwidth import extend_bandwidth as extend_bandwidth
    from .clap import ClapEmbedding as ClapEmbedding
    from .guidance import LossGuidance as LossGuidance
    from .heads import LatentHeads as LatentHeads
    from .inpainting import KnownRegion as KnownRegion
    from .inpainting import generate_long as generate_long
    from .inpainting import inpaint as inpaint
    from .noise_optimization import optimize_noise as optimize_noise
    from .objectives import BandEnergyObjective as BandEnergyObjective
    from .objectives import CurveObjective as CurveObjective
    from .objectives import EmbeddingSimilarityObjective as EmbeddingSimilarityObjective
    from .objectives import IntensityObjective as IntensityObjective
    from .objectives import LatentMatchObjective as LatentMatchObjective
    from .objectives import LoopObjective as LoopObjective
    from .objectives import MelMatchObjective as MelMatchObjective
    from .objectives import Objective as Objective
    from .objectives import OnsetObjective as OnsetObjective
    from .objectives import SpectralCentroidObjective as SpectralCentroidObjective
    from .objectives import WaveformMatchObjective as WaveformMatchObjective
    from .pitch import PitchObjective as PitchObjective
    from .seams import CircularTime as CircularTime
    from .seams import decode_loop as decode_loop
    from .sketch import SketchObjective as SketchObjective
    from .sketch import sketch_curves as sketch_curves
    from .sound import Sound as Sound
    from .variation import PromptMorph as PromptMorph
    from .variation import drift as drift
    from .variation import noise_hash as noise_hash
    from .variation import vary as vary
else:
    __all__ = sorted(_PUBLIC)
    __getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
