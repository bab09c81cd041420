"""Text encoders load as encoders."""

import pytest
import torch
import transformers

from diffusers_soundctm.data.encoders import AutoTextEncoder, Encoders


def tiny_config(kind):
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    if kind in ("T5", "MT5", "UMT5"):
        return getattr(transformers, f"{kind}Config")(**sizes)
    text = {
        "vocab_size": 32,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    if kind == "Bert":
        return transformers.BertConfig(**text)
    if kind == "T5Gemma":
        module = transformers.T5GemmaModuleConfig(**text, num_key_value_heads=1, head_dim=8)
        return transformers.T5GemmaConfig(encoder=module, decoder=module, **{"vocab_size": 32})
    return transformers.ClapTextConfig(**text, projection_dim=12)


@pytest.mark.parametrize(
    "saved, loaded",
    [
        ("T5Model", "T5EncoderModel"),
        ("T5EncoderModel", "T5EncoderModel"),
        ("T5ForConditionalGeneration", "T5EncoderModel"),
        ("MT5Model", "MT5EncoderModel"),
        ("UMT5Model", "UMT5EncoderModel"),
        ("UMT5EncoderModel", "UMT5EncoderModel"),
        ("T5GemmaModel", "T5GemmaEncoderModel"),
        ("BertModel", "BertModel"),
        ("ClapTextModel", "ClapTextModel"),
        ("ClapTextModelWithProjection", "ClapTextModelWithProjection"),
    ],
)
@torch.no_grad()
def test_encoders_load_without_their_decoders(tmp_path, saved, loaded):
    kind = next(name for name in ("T5Gemma", "UMT5", "MT5", "T5", "Bert", "Clap") if saved.startswith(name))
    original = getattr(transformers, saved)(tiny_config(kind)).eval()
    original.save_pretrained(tmp_path)
    encoder = AutoTextEncoder.from_pretrained(tmp_path).eval()
    assert type(encoder).__name__ == loaded
    ids = torch.tensor([[5, 6, 7]])
    states = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    if kind not in ("Bert", "Clap"):
        expected = original.get_encoder()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        torch.testing.assert_close(states.last_hidden_state, expected)


def test_sampling_rate_and_channels_are_those_of_the_models(tiny_pipeline):
    mel, waveform = tiny_pipeline("embedded"), tiny_pipeline("dit")
    encoders = Encoders(mel.vae, mel.conditioning, mel.vocoder.config)
    assert (encoders.sampling_rate, encoders.num_channels, encoders.front_end.n_mels) == (16000, 1, 64)
    encoders = Encoders(waveform.vae, waveform.conditioning)
    assert (encoders.sampling_rate, encoders.num_channels, encoders.front_end) == (16000, 1, None)
