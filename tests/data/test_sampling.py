"""Draws of batches depend on the seed and the step alone."""

import torch

from diffusers_soundctm.data.sampling import clip_indices, step_generator


def test_every_epoch_sees_every_clip_once():
    batches = [clip_indices(10, 4, step, seed=3) for step in range(5)]
    stream = torch.cat(batches)
    assert sorted(stream[:10].tolist()) == sorted(stream[10:].tolist()) == list(range(10))
    assert stream[:10].tolist() != stream[10:].tolist()
    assert torch.equal(clip_indices(10, 4, 3, seed=3), batches[3])


def test_generators_of_steps_and_streams_differ():
    draws = {(step, stream): torch.rand((), generator=step_generator(0, step, stream)).item()
             for step in range(4) for stream in range(2)}  # fmt: skip
    assert len(set(draws.values())) == len(draws)
