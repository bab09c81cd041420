"""The prompts that the app offers come out right, counted by a probe on embeddings of an independent network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.app.examples import EXAMPLES
from diffusers_soundctm.evaluation import LinearProbe, load_embedding

# Fitted on the first seven clips of each of the 80 classes in the training split of the embedded model's data set.
PROBE = Path(__file__).parents[1] / "fixtures" / "probe.npz"


@pytest.fixture(scope="module")
def parts():
    pytest.importorskip("aisfx")
    pipe = SoundCTMPipeline.from_embedded()
    pipe.set_progress_bar_config(disable=True)
    return pipe, load_embedding(), LinearProbe.load(PROBE)


def test_the_examples_are_known(embedded_known):
    assert all(kind in embedded_known for kind in EXAMPLES.values())


@pytest.fixture
def embedded_known():
    from diffusers_soundctm import hub

    return hub.read_known_sounds(hub.embedded_folder())["kinds"]


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "kind"), EXAMPLES.items(), ids=lambda text: text.replace(" ", "-"))
def test_nine_of_ten_drafts_are_recognized(prompt, kind, parts):
    pipe, embedding, probe = parts
    generators = [torch.Generator().manual_seed(seed) for seed in range(10)]
    drafts = pipe([prompt] * 10, generator=generators, output_type="pt").audios[:, 0].numpy()
    heard = probe.predict(embedding.embed(drafts.astype(np.float32), pipe.sampling_rate))[:, 0]
    assert (heard == kind).sum() >= 9, heard
