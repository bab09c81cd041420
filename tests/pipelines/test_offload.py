"""Offloading: every model is brought to the device before it runs, whichever of its methods is called."""

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.distillation import load_teacher
from tiny_teachers import make_teacher


# CLAP's text branch and the autoencoders are called by other methods than `forward`.
@pytest.mark.parametrize("family", ["audioldm2", "stable_audio", "stable_audio_3", "longcat", "ace_step"])
def test_model_offload_fetches_every_model(family, tmp_path, tiny_pipeline):
    make_teacher(family, tmp_path, tiny_pipeline)
    teacher = load_teacher(tmp_path)
    pipe = SoundCTMPipeline.from_components(teacher.parts(teacher.student().eval()))
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_model_cpu_offload(device="cpu")
    models = {name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)}
    fetched = set()
    for name, model in models.items():
        fetch = model._hf_hook.pre_forward

        def record(*args, name=name, fetch=fetch, **kwargs):
            fetched.add(name)
            return fetch(*args, **kwargs)

        model._hf_hook.pre_forward = record
    assert torch.as_tensor(pipe("rain", nu=1.5).audios).isfinite().all()
    assert fetched == set(models)
