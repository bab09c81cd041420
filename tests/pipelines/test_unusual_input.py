"""Input that is unusual and works, or is wrong and gets a sentence that names the argument."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import write_audio
from diffusers_soundctm.control import (
    IntensityObjective,
    LossGuidance,
    MelMatchObjective,
    PromptMorph,
    extend_bandwidth,
    inpaint,
    vary,
)
from tiny_teachers import make_teacher

RATE = 16000
# An embedding of int16 samples or of ±1 floats differs in its last digits.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
ENTRIES = {
    "initial_audio_waveforms": lambda pipe, x: (
        pipe(
            "rain",
            initial_audio_waveforms=x,
            initial_audio_sampling_rate=RATE,
            output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).audios
    ),
    "encode_audio": lambda pipe, x: pipe.encode_audio(x[None, None], RATE, x.shape[-1]),
    "inpaint": lambda pipe, x: inpaint(
        pipe, "rain", x, RATE, spans=[(0.4, 0.6)], num_inference_steps=1, generator=torch.Generator().manual_seed(0)
    ),
    "extend_bandwidth": lambda pipe, x: extend_bandwidth(
        pipe, "rain", x, RATE, 3000, num_inference_steps=1, generator=torch.Generator().manual_seed(0)
    ),
    "objective": lambda pipe, x: MelMatchObjective((x, RATE)).reference.waveform,
}


@pytest.fixture(scope="module")
def embedded(tiny_pipeline):
    return tiny_pipeline("embedded")


def floats():
    return (0.1 * np.random.default_rng(0).standard_normal(RATE)).clip(-1, 0.99)


@pytest.mark.parametrize("entry", ENTRIES)
def test_samples_of_any_dtype_give_the_same_sound(embedded, entry):
    expected = ENTRIES[entry](embedded, torch.from_numpy(floats()).float())
    for dtype, scale in ((np.int16, 2**15), (np.int32, 2**31)):
        x = np.round(floats() * scale).astype(dtype)
        found = ENTRIES[entry](embedded, x)
        torch.testing.assert_close(found, expected, **CLOSE)
        torch.testing.assert_close(ENTRIES[entry](embedded, x[::-1][::-1]), found)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("dtype", [np.complex64, np.int64, bool])
def test_samples_without_a_full_scale_are_refused_by_name(embedded, entry, dtype):
    with pytest.raises(TypeError, match=r"`\w+` has the dtype (complex64|int64|bool), which has no full scale"):
        ENTRIES[entry](embedded, np.ones(RATE, dtype))


def test_a_foreign_scheduler_is_refused_before_work(tiny_pipeline, embedded_folder):
    pipe = tiny_pipeline("embedded")
    with pytest.raises(TypeError, match=r"`scheduler` is a DDIMScheduler; a SoundCTM needs a `CTMScheduler`"):
        SoundCTMPipeline(**pipe.components | {"scheduler": DDIMScheduler()})
    with pytest.raises(TypeError, match="`scheduler` is a DDIMScheduler"):
        SoundCTMPipeline.from_pretrained(embedded_folder, scheduler=DDIMScheduler())
    pipe.scheduler = DDIMScheduler()
    pipe.text_encoder.forward = None  # a call of it would fail
    with pytest.raises(TypeError, match="`scheduler` is a DDIMScheduler"):
        pipe("rain")


@pytest.mark.parametrize("component", ["vae", "denoiser", "text_encoder", "vocoder"])
@pytest.mark.parametrize("family", ["embedded", "audioldm", "dit"])
def test_components_may_differ_in_dtype(tiny_pipeline, family, component):
    pipe = tiny_pipeline(family)
    if getattr(pipe, component) is None:
        pytest.skip("this family has none")
    getattr(pipe, component).to(torch.bfloat16)
    given = {
        "nu": 1.5,
        "initial_audio_waveforms": floats(),
        "initial_audio_sampling_rate": RATE,
        "callback_on_step_end": LossGuidance(IntensityObjective([-30.0, -20.0])),
    }
    if (family, component) == ("audioldm", "denoiser"):
        with pytest.raises(ValueError, match=r"predicts epsilon .* Load it in float32"):
            pipe("rain", **given)
        return
    audios = pipe("rain", **given).audios
    assert audios.dtype == np.float32 and np.isfinite(audios).all()


@pytest.mark.parametrize("family", ["audioldm2", "stable_audio"])
def test_encoders_may_differ_in_dtype(family, tiny_pipeline, tmp_path):
    make_teacher(family, tmp_path, tiny_pipeline)
    pipe = SoundCTMPipeline.from_teacher(tmp_path)
    for name in ("text_encoder", "text_encoder_2", "projection_model", "language_model"):
        if getattr(pipe, name) is not None:
            home = getattr(pipe, name).dtype
            getattr(pipe, name).to(torch.bfloat16)
            assert pipe.encode_prompt("rain")[0].dtype == pipe.denoiser.dtype
            getattr(pipe, name).to(home)


def test_prompts_are_encoded_without_a_denoiser(tiny_pipeline, embedded_folder):
    encoder = SoundCTMPipeline.from_pretrained(embedded_folder, unet=None, vae=None, vocoder=None)
    whole = SoundCTMPipeline.from_pretrained(embedded_folder)
    for found, expected in zip(encoder.encode_prompt("rain"), whole.encode_prompt("rain"), strict=True):
        torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="no student; load `unet` or `transformer`"):
        SoundCTMPipeline(**encoder.components | {"unet": None}).encode_prompt("rain")


def test_embeddings_without_an_encoder_name_the_missing_argument(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder, text_encoder=None, tokenizer=None)
    embeds = torch.zeros(1, 3, 16)
    assert pipe(prompt_embeds=embeds).audios.shape[0] == 1
    with pytest.raises(ValueError, match=r"no text_encoder .* pass `negative_prompt_embeds`, or `nu=1`"):
        pipe(prompt_embeds=embeds, nu=1.5)


@pytest.mark.parametrize("argument", ["prompt", "negative_prompt"])
def test_a_lone_surrogate_is_named(embedded, argument):
    with pytest.raises(ValueError, match=rf"`{argument}` is 'rain .udce9', which is not valid Unicode at 5"):
        embedded(**{"prompt": "rain", "nu": 1.5, argument: "rain \udce9"})


def test_a_morph_needs_no_decoder(embedded_folder):
    pipe = SoundCTMPipeline.from_pretrained(embedded_folder, vae=None, vocoder=None)
    call = {"latents": torch.randn(1, 8, 32, 16), "output_type": "latent"}
    assert pipe("rain", callback_on_step_end=PromptMorph("dog"), **call).audios.shape == (1, 8, 32, 16)
    with pytest.raises(ValueError, match=r"`start_in_s` and `end_in_s` are seconds"):
        pipe("rain", callback_on_step_end=PromptMorph("dog", end_in_s=1), **call)


def test_control_accepts_numpy_integers_and_reversed_arrays(embedded):
    assert vary(torch.randn(1, 8, 4, 16), 0.3, np.int64(2)).shape[0] == 2
    curve = np.linspace(-40, -20, 9)
    guided = [
        embedded(
            "rain",
            generator=torch.Generator().manual_seed(0),
            callback_on_step_end=LossGuidance(IntensityObjective(values), inner_steps=np.int64(1)),
        ).audios
        for values in (curve[::-1], curve[::-1].copy())
    ]
    np.testing.assert_array_equal(*guided)
    with pytest.raises(TypeError, match="`curve` holds complex numbers"):
        IntensityObjective(curve + 1j)
    filled = inpaint(embedded, "rain", floats()[::-1], np.int64(RATE), [(np.float32(0.3), np.float64(0.5))])
    assert filled.abs().max() <= 1


def test_a_call_says_by_how_much_it_was_turned_down(tiny_pipeline, monkeypatch):
    pipe = tiny_pipeline("embedded")
    decode = pipe.mel_spectrogram_to_waveform

    def scaled(mel):
        waveforms = decode(mel)
        peaks = torch.tensor([0.5, 4.0])[: len(waveforms)].reshape(-1, 1, 1)
        return peaks * waveforms / waveforms.abs().amax(dim=-1, keepdim=True)

    monkeypatch.setattr(pipe, "mel_spectrogram_to_waveform", scaled)
    output = pipe(["rain", "dog"])
    assert output.turned_down_db == pytest.approx([0, 20 * np.log10(4)], abs=1e-3)
    np.testing.assert_allclose(abs(output.audios).max(axis=(1, 2)), [0.5, 1], rtol=1e-5)
    assert len(pipe(["rain", "dog"], return_dict=False)) == 1
    assert pipe("rain", output_type="latent").turned_down_db is None


def test_a_file_says_by_how_much_it_was_turned_down(tmp_path, caplog):
    import logging

    logging.getLogger("diffusers_soundctm").propagate = True
    write_audio(tmp_path / "a.wav", torch.tensor([0.5, -1.0]), RATE)
    assert not caplog.records
    write_audio(tmp_path / "a.wav", torch.tensor([0.5, -2.0]), RATE)
    assert "turned down by 6.0 dB" in caplog.text
