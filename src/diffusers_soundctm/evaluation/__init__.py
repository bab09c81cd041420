"""Distances and recognition on folders or data sets, over a pluggable audio embedding."""

from .comparison import compare
from .distances import Estimate, frechet_distance, kernel_distance
from .embeddings import AisfxEmbedding, AudioEmbedding, load_embedding
from .probe import LinearProbe

__all__ = [
    "AisfxEmbedding",
    "AudioEmbedding",
    "Estimate",
    "LinearProbe",
    "compare",
    "frechet_distance",
    "kernel_distance",
    "load_embedding",
]
