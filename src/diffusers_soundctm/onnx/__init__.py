"""Models in ONNX format: export from PyTorch, and generation without it.

Only `export`, `graphs` and `real_vocoder` import torch.
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_exports

_PUBLIC = {
    "NoiseGenerator": ".noise",
    "OnnxPipelineOutput": ".pipeline",
    "OnnxSettings": ".settings",
    "OnnxSoundCTMPipeline": ".pipeline",
    "export_onnx": ".export",
}

if TYPE_CHECKING:  # the same names, for type checkers
    from .export import export_onnx as export_onnx
    from .noise import NoiseGenerator as NoiseGenerator
    from .pipeline import OnnxPipelineOutput as OnnxPipelineOutput
    from .pipeline import OnnxSoundCTMPipeline as OnnxSoundCTMPipeline
    from .settings import OnnxSettings as OnnxSettings
else:
    __all__ = sorted(_PUBLIC)
    __getattr__, __dir__ = lazy_exports(__name__, _PUBLIC)
