"""Calls of the tiny pipelines, and what the tests of `pipelines/` compare."""

import numpy as np
import torch

FAMILIES = ("embedded", "tango", "audioldm", "dit")
AUDIO = {"initial_audio_waveforms": np.zeros(1600), "initial_audio_sampling_rate": 16000}
PROMPTS = ["rain on a tin roof", "a dog barks"]
# A batch of another size rounds differently, and an epsilon network's output is multiplied by sigma = 80.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def seeded(*seeds):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return generators if len(generators) > 1 else generators[0]


def latents_of(pipe, prompt="rain on a tin roof", *, seed=0, **kwargs):
    kwargs.setdefault("generator", seeded(*seed) if isinstance(seed, tuple) else seeded(seed))
    return pipe(prompt, output_type="latent", **kwargs).audios


def counting_calls(module):
    """Batch sizes of the calls made to `module`, filled in as they happen."""
    sizes = []
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append((args[0] if args else kwargs["input_ids"]).shape[0]), with_kwargs=True
    )
    return sizes, handle
