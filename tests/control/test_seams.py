"""Crossfades keep the level, joins lose nothing, and loops are seamless."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm.control import CircularTime, decode_loop
from diffusers_soundctm.control.seams import crossfade, join
from diffusers_soundctm.control.sound import decode_waveform

RATE = 16000


def noise(seed, samples=RATE):
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_crossfade_keeps_the_level_whatever_the_correlation(correlation):
    first, other = noise(0), noise(1)
    second = correlation * first + (1 - correlation**2) ** 0.5 * other
    level = crossfade(first, second).reshape(2, 10, -1).square().mean(dim=-1).sqrt()
    torch.testing.assert_close(level, torch.ones_like(level), rtol=0, atol=0.08)
    if correlation == 1:
        torch.testing.assert_close(crossfade(first, second), first, rtol=0, atol=1e-4)


def test_join_puts_overlapping_pieces_back_together():
    sound, overlap, piece = noise(0, 3 * RATE), 4001, RATE
    starts = range(0, sound.shape[1] - piece + 1, piece - overlap)
    pieces = [sound[:, start : start + piece] for start in starts]
    joined = join(pieces, overlap, RATE)
    assert joined.shape[1] == starts[-1] + piece
    torch.testing.assert_close(joined, sound[:, : joined.shape[1]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", range(1, 6))
def test_circular_time_cuts_each_step_elsewhere_and_comes_back(steps):
    time = torch.arange(8.0).reshape(1, 1, 8, 1)
    latents, pipe, firsts = time, SimpleNamespace(num_timesteps=steps), []
    for step in range(steps):
        firsts.append(latents[0, 0, 0, 0].item())
        tensors = CircularTime()(pipe, step, None, {"latents": latents, "previous_latents": 2 * latents})
        latents = tensors["latents"]
        assert torch.equal(tensors["previous_latents"], 2 * latents)
    assert firsts[0] == 0 and len(set(firsts)) == steps
    assert torch.equal(latents, time)


def test_every_family_makes_loops(family_pipe):
    pipe = family_pipe
    call = {"num_inference_steps": 2, "output_type": "latent", "generator": torch.Generator().manual_seed(0)}
    z_0 = pipe("rain", callback_on_step_end=CircularTime(), **call).audios
    loop = decode_loop(pipe, z_0)
    samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
    assert loop.shape == (1, pipe.num_channels, samples) and loop.isfinite().all()
    # Decoding is circular: rotating the latents rotates the loop, except near its seam.
    turned = decode_loop(pipe, z_0.roll(z_0.shape[2] // 2, dims=2))
    middle = slice(round(0.3 * samples), round(0.4 * samples))
    pair = (x[..., middle].flatten() for x in (turned, loop.roll(samples // 2, dims=-1)))
    # Only approximately, because normalization in the mel decoder depends on the whole waveform.
    assert torch.nn.functional.cosine_similarity(*pair, dim=0) > 0.9


@pytest.mark.parametrize("family", ["embedded", "audioldm", "dit"])
def test_loops_close_without_a_click(tiny_pipeline, family):
    pipe = tiny_pipeline(family)
    latents = torch.randn(4, *pipe.latent_shape(20480), generator=torch.Generator().manual_seed(0))
    loop = decode_loop(pipe, latents)
    assert loop.shape == (4, 1, 20480)
    with torch.no_grad():
        plain = decode_waveform(pipe, latents)
    natural = loop.diff(dim=-1).abs().flatten(1).quantile(0.95, dim=1)
    jump = (loop[..., 0] - loop[..., -1]).abs()[:, 0]
    assert (jump < 2 * natural).all() and jump.mean() < natural.mean()
    # Far from the ends, it is the same waveform.
    middle = slice(8000, 12000)
    assert torch.nn.functional.cosine_similarity(loop[..., middle], plain[..., middle], dim=-1).min() > 0.5
