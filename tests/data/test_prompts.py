"""Prompts are encoded once, kept without padding, and padded in one way."""

import pytest
import torch

from diffusers_soundctm.data.prompts import embed_captions, encode_prompts, pad_prompts

CAPTIONS = [["rain on a tin roof", "rain"], ["a dog barks"], ["loud rain"]]


@pytest.mark.parametrize("family", ["embedded", "audioldm", "tango", "dit"])
def test_prompt_table_gives_what_the_text_encoder_gives(tiny_pipeline, tmp_path, family):
    pipe = tiny_pipeline(family)
    table = embed_captions(pipe.conditioning, CAPTIONS, tmp_path, batch_size=2)
    indices = [0, table.captions[0][0], table.captions[1][0]]
    embeds, mask = table.embeds(torch.tensor(indices))
    expected, expected_mask = pipe.conditioning.encode(["", "rain on a tin roof", "a dog barks"], torch.device("cpu"))
    if mask is None:
        assert expected_mask is None
    else:
        assert torch.equal(mask, expected_mask)
        expected = expected * mask[..., None]
    torch.testing.assert_close(embeds, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("family", ["embedded", "audioldm"])
def test_prompts_are_encoded_in_any_batch_size(tiny_pipeline, family):
    conditioning = tiny_pipeline(family).conditioning
    prompts = ["rain on a tin roof", "", "a dog barks"]
    alone, together = (dict(encode_prompts(conditioning, prompts, batch_size=size)) for size in (1, 3))
    assert alone.keys() == together.keys() == {0, 1, 2}
    for index, rows in alone.items():
        torch.testing.assert_close(rows, together[index], rtol=1e-4, atol=1e-5)


def test_padding_is_zero_and_masked():
    embeds, mask = pad_prompts([torch.ones(2, 3).half(), torch.ones(4, 3).half()], has_mask=True)
    assert embeds.dtype == torch.float32 and embeds.shape == (2, 4, 3)
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
    assert embeds[0, 2:].abs().max() == 0 and embeds[mask].min() == 1
    embeds, mask = pad_prompts([torch.zeros(1, 3), torch.ones(1, 3)], has_mask=False)
    assert embeds.shape == (2, 3) and mask is None


def test_captions_are_drawn_evenly_and_dropped_at_the_rate(tiny_pipeline, tmp_path):
    table = embed_captions(tiny_pipeline("embedded").conditioning, CAPTIONS, tmp_path)
    drawn = table.draw(torch.zeros(20_000, dtype=torch.long), 0.1, torch.Generator().manual_seed(0))
    shares = [(drawn < 0), *(drawn == index for index in table.captions[0])]
    assert [share.double().mean().item() for share in shares] == pytest.approx([0.1, 0.45, 0.45], abs=0.015)
    embeds, mask = table.embeds(torch.tensor([-1, 0]))
    assert torch.equal(embeds[0], embeds[1]) and torch.equal(mask[0], mask[1])
