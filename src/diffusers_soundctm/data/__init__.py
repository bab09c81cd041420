"""Data sets of audio and captions, and the latents and prompt embeddings that training reads in their place."""

from .clips import Clips, decode_audio, load_clips, metadata_files, open_dataset, to_int16

__all__ = ["Clips", "decode_audio", "load_clips", "metadata_files", "open_dataset", "to_int16"]
