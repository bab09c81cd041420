"""A Space with the package's app. It runs the embedded model, or the one named by the variable SOUNDCTM_MODEL."""

import os

try:
    import spaces  # exists on ZeroGPU only; must be imported before torch
except ImportError:
    spaces = None

import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app import build_app, launch

model = os.environ.get("SOUNDCTM_MODEL")
pipe = SoundCTMPipeline.from_pretrained(model) if model else SoundCTMPipeline.from_embedded()
pipe.set_progress_bar_config(disable=True)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")

if __name__ == "__main__":
    launch(build_app(pipe, model or "embedded", on_gpu=spaces and spaces.GPU))
