"""What a model says it knows: kept in its folder, and a warning about prompts that are far from all of it."""

import json
import logging

import pytest
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.hub import KNOWN_SOUNDS, KNOWN_SOUNDS_WEIGHTS
from diffusers_soundctm.hub.download import wanted_files
from diffusers_soundctm.pipelines.known_sounds import KnownSounds, embed_prompts

KINDS = {"rain": ["rain on a tin roof"], "dog": ["a dog barks"], "piano": ["a piano plays"]}


@pytest.fixture
def pipe(tiny_pipeline, caplog):
    logging.getLogger("diffusers_soundctm").propagate = True
    pipe = tiny_pipeline("embedded")

    def embed(prompts):
        embeds, mask, _, _ = pipe.encode_prompt(prompts, do_nu_sampling=False)
        return embed_prompts(embeds, mask)

    pipe.known_sounds = KnownSounds(KINDS, embed([prompt for prompts in KINDS.values() for prompt in prompts]), 0.999)
    return pipe


def call(pipe, prompt, **options):
    return pipe(prompt, audio_length_in_s=0.2, generator=torch.Generator().manual_seed(0), **options).audios


def test_unknown_prompts_are_named_with_the_nearest_kinds(pipe, caplog):
    call(pipe, ["a dog barks", "loud wind and drum", ""], num_waveforms_per_prompt=2)
    (message,) = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert "'loud wind and drum'" in message and all(kind in message for kind in KINDS)
    assert list(pipe.unknown_sounds("loud wind and drum")) == ["loud wind and drum"]
    assert pipe.unknown_sounds(["a dog barks", "rain on a tin roof"]) == {}


def test_the_nearest_kind_comes_first(pipe):
    pipe.known_sounds.threshold = 2.0  # everything is unknown
    assert pipe.unknown_sounds("a dog barks")["a dog barks"][0] == "dog"


def test_an_open_model_never_warns_and_sounds_are_the_same(pipe, tiny_pipeline, caplog):
    warned = call(pipe, "loud wind and drum")
    caplog.clear()
    pipe.known_sounds = None
    assert (call(pipe, "loud wind and drum") == warned).all() and pipe.unknown_sounds("loud wind") == {}
    assert "does not know" not in caplog.text


def test_the_folder_keeps_it(pipe, tmp_path, capsys):
    from diffusers_soundctm.cli import main

    pipe.save_pretrained(tmp_path / "model")
    again = SoundCTMPipeline.from_pretrained(tmp_path / "model").known_sounds
    assert (again.kinds, again.threshold) == (KINDS, 0.999)
    torch.testing.assert_close(again.embeddings, pipe.known_sounds.embeddings, atol=1e-3, rtol=0)
    assert main(["info", "--model", str(tmp_path / "model")]) == 0
    assert "It knows 3 kinds of sounds" in capsys.readouterr().out
    pipe.known_sounds = None
    pipe.save_pretrained(tmp_path / "open")
    assert not (tmp_path / "open" / KNOWN_SOUNDS).exists()
    assert SoundCTMPipeline.from_pretrained(tmp_path / "open").known_sounds is None


def test_it_is_downloaded():
    files = ["model_index.json", KNOWN_SOUNDS, KNOWN_SOUNDS_WEIGHTS, "other.json"]
    assert wanted_files(iter(files), []) == files[:3]


@pytest.mark.parametrize("change", [{"kinds": []}, {"kinds": {"rain": ["rain"]}}, {"threshold": "high"}])
def test_a_damaged_file_is_named(change, pipe, tmp_path):
    pipe.known_sounds.save(tmp_path)
    content = json.loads((tmp_path / KNOWN_SOUNDS).read_text())
    (tmp_path / KNOWN_SOUNDS).write_text(json.dumps(content | change))
    with pytest.raises(OSError, match="known_sounds"):
        KnownSounds.load(tmp_path)


def test_the_threshold_leaves_the_asked_share_of_held_out_captions_below():
    generator = torch.Generator().manual_seed(0)
    examples = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    heldout = torch.nn.functional.normalize(examples.repeat(50, 1) + 0.5 * torch.randn(400, 16, generator=generator))
    known = KnownSounds.fit({"a": list("abc"), "b": list("defgh")}, examples, heldout, 0.1)
    share = (known.similarities(heldout).amax(dim=1) < known.threshold).float().mean().item()
    assert share == pytest.approx(0.1, abs=0.01)
