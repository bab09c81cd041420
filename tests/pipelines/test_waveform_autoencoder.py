"""`SoundCTMPipeline` with the 44.1 kHz networks: the official code's chains, and what differs from mel models."""

import pytest
import torch
from torch.nn.functional import normalize

import golden
from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.conversion import convert_dac
from tiny_teachers import make_teacher

RECORD = golden.read("dit/golden_dit.json")
TENSORS = golden.read("dit/golden_dit.safetensors")


@pytest.fixture(scope="module")
def pipe(tiny_pipeline):
    return tiny_pipeline("dit")


@pytest.fixture
def official():
    """The transformer of the recordings, without a first stage."""
    return SoundCTMPipeline(None, None, None, golden.dit_student(), CTMScheduler(sigma_data=0.5), None)


def tokens(prompts):
    embeddings = golden.read("dit/prompt_embeddings.json")
    return torch.tensor([embeddings[prompt] for prompt in prompts])[:, None]


@pytest.mark.parametrize("case", [case["id"] for case in RECORD["samplers"] if case["sampler"] == "deterministic"])
def test_whole_calls_match_the_reference(official, case):
    case = next(item for item in RECORD["samplers"] if item["id"] == case)
    # Given its own steps, the release starts at 18, from noise of level 80 all the same.
    sigmas = None if case["ts"] is None else [*case["call_t"], 0.002]
    latents = official(
        prompt_embeds=tokens(case["prompts"]),
        negative_prompt_embeds=tokens([""]),
        num_inference_steps=case["steps"],
        sigmas=sigmas,
        nu=case["nu"],
        guidance_scale=case["omega"],
        latents=TENSORS[case["x_T"]] / (80 if sigmas is None else sigmas[0]),
        output_type="latent",
    ).audios
    expected = TENSORS[f"{case['id']}.x0"]
    assert ((latents - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_latents_are_decoded_as_in_the_release(pipe):
    first_stages = golden.read("first_stages.safetensors")
    statistics = {"z_mean": torch.linspace(-1, 1, 5), "z_std": torch.linspace(0.5, 2, 5)}
    vae = convert_dac(golden.pattern(golden.read("first_stages.json")["dac"]), statistics)
    pipe = SoundCTMPipeline(vae, None, None, None, pipe.scheduler, None, transformer=pipe.transformer)
    # The release decodes 2·std·z + mean.
    z = (first_stages["dac.latents"] - statistics["z_mean"][:, None]) / (2 * statistics["z_std"][:, None])
    with torch.no_grad():
        torch.testing.assert_close(pipe.decode_latents(z), first_stages["dac.decoded"], rtol=1e-4, atol=1e-6)
        waveform = first_stages["dac.waveform"]
        encoded = pipe.encode_audio(waveform, 44100, waveform.shape[-1])
    expected = 0.5 * (first_stages["dac.mean"] - statistics["z_mean"][:, None]) / statistics["z_std"][:, None]
    torch.testing.assert_close(encoded, expected, rtol=1e-4, atol=1e-5)


def test_prompt_is_one_unit_token(pipe, tiny_pipeline):
    embeds, mask, negative, _ = pipe.encode_prompt(["rain", "a loud dog barks"])
    assert embeds.shape == negative.shape == (2, 1, 32) and mask.all() and mask.shape == (2, 1)
    torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(2, 1))
    tokenized = pipe.tokenizer("rain", return_tensors="pt")
    pooled = pipe.text_encoder(**tokenized).pooler_output
    torch.testing.assert_close(embeds[0], normalize(pooled, dim=-1))

    projecting = tiny_pipeline("audioldm")  # v1's is CLAP's projected embedding
    pipe = SoundCTMPipeline(
        None, projecting.text_encoder, projecting.tokenizer, None, pipe.scheduler, None, transformer=pipe.transformer
    ).conditioning
    projected = projecting.text_encoder(**projecting.tokenizer("rain", return_tensors="pt")).text_embeds
    torch.testing.assert_close(pipe.encode(["rain"], torch.device("cpu"))[0][0], normalize(projected, dim=-1))


def test_lengths(pipe, caplog):
    trained = 64 * 320 / 16000
    assert pipe.default_audio_length_in_s == trained
    assert pipe("rain").audios.shape == (1, 1, 64 * 320)
    assert pipe("rain", audio_length_in_s=0.33).audios.shape == (1, 1, 5280)
    assert pipe("rain", audio_length_in_s=0.33, output_type="latent").audios.shape == (1, 6, 17)
    assert not caplog.records
    assert pipe("rain", audio_length_in_s=2.0).audios.shape == (1, 1, 32000)
    assert "2.00 s long, and the model was trained on 1.28 s" in caplog.text


def test_latents_are_checked(pipe, official):
    with pytest.raises(ValueError, match=r"shape \(1, 6, 9, 1\); this call needs \(1, 6, time\)"):
        pipe("rain", latents=torch.randn(1, 6, 9, 1))
    with pytest.raises(ValueError, match=r"shape \(1, 6, 9\); this call needs \(1, 6, 17\)"):
        pipe("rain", latents=torch.randn(1, 6, 9), audio_length_in_s=0.33)
    with pytest.raises(ValueError, match=r"this call needs \(1, 8, time\)"):
        official(prompt_embeds=tokens(["Rain"]), latents=torch.randn(1, 8, 9, 1), output_type="latent")
    with pytest.raises(ValueError, match="no `vae`"):
        official(prompt_embeds=tokens(["Rain"]))


def test_stable_audio_without_its_autoencoder_must_be_told_the_length(tiny_pipeline, tmp_path):
    make_teacher("stable_audio", tmp_path, tiny_pipeline)
    pipe = SoundCTMPipeline.from_teacher(tmp_path)
    bare = SoundCTMPipeline(**{**pipe.components, "vae": None})
    for each in (pipe, bare):
        each.set_progress_bar_config(disable=True)
    call = {"latents": torch.randn(1, 4, 40), "output_type": "latent", "nu": 1.5}
    for length in (pipe.default_audio_length_in_s, 0.01):
        expected = pipe("rain", audio_length_in_s=length, **call).audios
        torch.testing.assert_close(bare("rain", audio_length_in_s=length, **call).audios, expected)
    with pytest.raises(ValueError, match="pass `audio_length_in_s`"):
        bare("rain", **call)
    with pytest.raises(ValueError, match="pass `audio_length_in_s`"):
        bare.encode_prompt("rain")
    with pytest.raises(ValueError, match="`audio_length_in_s` is -1"):
        bare("rain", audio_length_in_s=-1, **call)
