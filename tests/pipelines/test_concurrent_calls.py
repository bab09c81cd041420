"""The state of a call is its own: other threads and calls inside a callback leave its latents as they are, to the bit.

Waveforms may differ in their last bits: how a vocoder's Fourier transforms round depends on the alignment of memory.
"""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from diffusers_soundctm.control import IntensityObjective, LossGuidance

FIRST = {
    "prompt": "rain on a tin roof",
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "nu": 1.5,
    "gamma": 0.3,
    "audio_length_in_s": 1.0,
}
SECOND = {
    "prompt": ["a dog barks", "wind"],
    "num_inference_steps": 3,
    "guidance_scale": 4.5,
    "gamma": 0.9,
    "sigmas": None,
}


@pytest.fixture(scope="module", params=["embedded", "audioldm", "dit"])
def pipe(request, tiny_pipeline):
    return tiny_pipeline(request.param)


def call(pipe, seed, settings, output_type="latent", **more):
    generator = torch.Generator().manual_seed(seed)
    return pipe(**settings, generator=generator, output_type=output_type, **more).audios


def in_step(barrier):
    """A callback that makes two calls take their steps in turn."""

    def wait(pipe, step, timestep, tensors):
        if step < 2:
            barrier.wait(timeout=60)
        return tensors

    return wait


def test_two_threads_share_a_pipeline(pipe):
    with ThreadPoolExecutor(1) as pool:
        expected = [pool.submit(call, pipe, i, settings).result() for i, settings in enumerate((FIRST, SECOND))]
    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            together = [
                pool.submit(call, pipe, i, settings, callback_on_step_end=in_step(barrier))
                for i, settings in enumerate((FIRST, SECOND))
            ]
            for result, alone in zip(together, expected, strict=True):
                assert torch.equal(result.result(), alone)


def test_two_threads_decode_at_once(pipe):
    expected = [call(pipe, i, settings, "pt") for i, settings in enumerate((FIRST, SECOND))]
    with ThreadPoolExecutor(2) as pool:
        together = [pool.submit(call, pipe, i, settings, "pt") for i, settings in enumerate((FIRST, SECOND))]
        for result, alone in zip(together, expected, strict=True):
            torch.testing.assert_close(result.result(), alone, rtol=1e-4, atol=1e-5)


def test_threads_guide_with_their_own_levels_and_scales(tiny_pipeline):
    pipe = tiny_pipeline("embedded")

    def guided(seed, settings, *barrier):
        guidance = LossGuidance(IntensityObjective({0: -30.0}))

        def both(call, step, timestep, tensors):
            for each in barrier:
                in_step(each)(call, step, timestep, tensors)
            return guidance.callback_fn(call, step, timestep, tensors)

        names = guidance.tensor_inputs
        return call(pipe, seed, settings, callback_on_step_end=both, callback_on_step_end_tensor_inputs=names)

    with ThreadPoolExecutor(1) as pool:
        expected = [pool.submit(guided, i, settings).result() for i, settings in enumerate((FIRST, SECOND))]
    barrier = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        together = [pool.submit(guided, i, settings, barrier) for i, settings in enumerate((FIRST, SECOND))]
        for result, alone in zip(together, expected, strict=True):
            assert torch.equal(result.result(), alone)


def test_a_callback_may_call_the_pipeline(pipe):
    expected = call(pipe, 0, FIRST)
    seen = []

    def nested(inner, step, timestep, tensors):
        call(inner if step % 2 else pipe, 1, SECOND)
        levels = len(inner.scheduler.sigmas) - 1
        seen.append((inner.guidance_scale, inner.nu, inner.num_timesteps, levels, inner.num_samples))
        return tensors

    assert torch.equal(call(pipe, 0, FIRST, callback_on_step_end=nested), expected)
    assert seen == [(2.0, 1.5, 4, 4, pipe.sampling_rate)] * 4
    assert pipe.guidance_scale == 4.5 and pipe.num_timesteps == 3  # the last call that began


def test_interrupting_one_call_lets_others_go_on(pipe):
    barrier, steps = Barrier(2), {"stopped": 0, "whole": 0}

    def counted(name, stop):
        def count(view, step, timestep, tensors):
            in_step(barrier)(view, step, timestep, tensors)
            steps[name] += 1
            view._interrupt = stop and step == 1
            return tensors

        return count

    with ThreadPoolExecutor(2) as pool:
        stopped = pool.submit(call, pipe, 0, FIRST, callback_on_step_end=counted("stopped", True))
        whole = pool.submit(call, pipe, 1, SECOND, callback_on_step_end=counted("whole", False))
        stopped.result(), whole.result()
    assert steps == {"stopped": 2, "whole": 3}

    def nested(view, step, timestep, tensors):
        ended.append(step)
        view._interrupt = step == 2
        call(view, 1, SECOND)
        return tensors

    ended = []
    call(pipe, 0, FIRST, callback_on_step_end=nested)
    assert ended == [0, 1, 2]
    assert (
        pipe.interrupt and pipe.num_timesteps == 3
    )  # interrupted as the last to end; the nested call was the last to start
