"""Which solved trajectories an update looks at."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_soundctm.distillation.networks import Preconditioning
from diffusers_soundctm.distillation.noise_levels import clip_indices
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas

REUSE, BATCH = 3, 8


class NumberedClips:
    """Clip n is the constant n, its prompt n + 1 tokens of the value n."""

    latent_shape = (1, 2)

    def __len__(self):
        return 1000

    def order(self, batch_size, number, seed):
        return clip_indices(len(self), batch_size, number, seed)

    def draw(self, clips, rows, caption_dropout, generator):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.full((1 + n,), 1.0 * n) for n in clips[rows].tolist()], True)
        latents = clips[rows].float()[:, None, None].expand(-1, 1, 2)
        return lambda device: (
            latents,
            {"tokens": tokens, "mask": None},
            {"tokens": torch.cat([tokens, 0 * tokens]), "mask": None},
        )


class Shrinking(torch.nn.Module):
    """A teacher that counts its calls."""

    def __init__(self):
        super().__init__()
        self.dtype_holder = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, sample, timestep, tokens, mask):
        self.calls += 1
        return SimpleNamespace(sample=-sample)


@pytest.fixture
def stream():
    def build(rows=slice(0, BATCH), reuse=REUSE):
        grid = Grid(karras_sigmas(5), reuse=reuse)
        return TripleStream(
            NumberedClips(), Shrinking(), Preconditioning("edm", 0.5), grid, batch_size=BATCH, rows=rows, seed=0
        )

    return build


def test_an_update_mixes_the_last_solved_batches(stream):
    stream, served = stream(), {}
    for step in range(40 * REUSE):
        _, noisy = stream.at(step)
        clips, newest = noisy.clean[:, 0, 0].long().tolist(), step // REUSE
        orders = [stream.data.order(BATCH, n, 0).tolist() for n in range(max(0, newest - REUSE + 1), newest + 1)]
        assert all(clip in {order[row] for order in orders} for row, clip in enumerate(clips))
        for clip in clips:
            served[clip] = served.get(clip, 0) + 1
    heun_calls = 2 * 5
    assert stream.teacher.calls == 40 * heun_calls  # one batch solved every K updates, none twice
    settled = [served.get(clip, 0) for n in range(REUSE, 36) for clip in stream.data.order(BATCH, n, 0).tolist()]
    assert sum(settled) / len(settled) == pytest.approx(REUSE, abs=0.3)


def test_points_clean_latents_and_prompts_stay_together(stream):
    triples, noisy = stream().at(7 * REUSE + 1)
    for clip, tokens in zip(noisy.clean[:, 0, 0].tolist(), triples.network_kwargs["tokens"], strict=True):
        assert tokens[: int(clip) + 1].eq(clip).all()
        assert tokens[int(clip) + 1 :].eq(0).all()
    assert triples.network_kwargs["mask"] is None
    assert (triples.solved_sigma < triples.sigma).all()


@pytest.mark.parametrize("reuse", [1, REUSE])
def test_a_batch_is_a_function_of_the_step(stream, reuse):
    """After a restart, and for every number of processes."""
    running, step = stream(reuse=reuse), 4 * reuse
    for earlier in range(step):
        running.at(earlier)
    whole, noisy = running.at(step)
    for rows in (slice(0, BATCH), slice(0, BATCH // 2), slice(BATCH // 2, BATCH)):
        part, part_noisy = stream(rows, reuse).at(step)
        for name in ("start", "sigma", "solved", "solved_sigma", "target_sigma", "guidance_scale"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rows])
        assert torch.equal(part_noisy.clean, noisy.clean[rows])
