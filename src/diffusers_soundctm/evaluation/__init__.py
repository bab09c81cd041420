"""Distances between sets of sounds, class recognition, and the metrics of the papers."""

from .comparison import compare, format_results, fraction_interval
from .distances import Estimate, frechet_distance, kernel_distance
from .embeddings import AisfxEmbedding, AudioEmbedding, load_embedding
from .probe import LinearProbe

__all__ = [
    "AisfxEmbedding",
    "AudioEmbedding",
    "Estimate",
    "LinearProbe",
    "compare",
    "format_results",
    "fraction_interval",
    "frechet_distance",
    "kernel_distance",
    "load_embedding",
]
