"""Released text encoders compute what RoBERTa and T5 with the same tensors compute."""

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaModel, T5EncoderModel

import golden
from diffusers_soundctm.conversion import convert_clap_text, convert_t5_encoder
from diffusers_soundctm.conversion.text_encoders import CLAP_PREFIXES


def laion() -> tuple[dict[str, torch.Tensor], nn.Module, nn.Module]:
    """A checkpoint as LAION-CLAP names it, and the two modules it is made of there."""
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=40,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    branch = RobertaModel(config).eval()
    projection = nn.Sequential(nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, 24))
    for parameter in (*branch.parameters(), *projection.parameters()):
        parameter.data += 0.1 * torch.randn_like(parameter)
    tensors = {f"text_branch.{name}": tensor for name, tensor in branch.state_dict().items()}
    tensors |= {f"text_projection.{name}": tensor for name, tensor in projection.state_dict().items()}
    others = {"audio_branch.bn0.weight": torch.zeros(3), "logit_scale_t": torch.tensor(1.0)}
    others["text_transform.sequential.0.weight"] = torch.zeros(2, 2)
    return tensors | others, branch, projection


@torch.no_grad()
@pytest.mark.parametrize("prefix", CLAP_PREFIXES)
def test_clap_text_branch_is_roberta_and_two_layers(prefix):
    state_dict, branch, projection = laion()
    state_dict = {prefix + name: tensor for name, tensor in state_dict.items()} | {"dit.x": torch.zeros(1)}
    tokens = torch.tensor([[0, 7, 9, 2, 1, 1], [0, 5, 6, 8, 11, 2]])
    mask = (tokens != 1).long()
    pooled = branch(tokens, attention_mask=mask).pooler_output
    projected = convert_clap_text(state_dict)
    assert projected.config.layer_norm_eps == 1e-5 and not projected.training
    torch.testing.assert_close(projected(tokens, attention_mask=mask).text_embeds, projection(pooled))
    torch.testing.assert_close(convert_clap_text(state_dict, False)(tokens, attention_mask=mask).pooler_output, pooled)
    # The release pads every prompt to 77 tokens: that changes nothing.
    alone = projected(tokens[:1, :4], attention_mask=mask[:1, :4]).text_embeds
    torch.testing.assert_close(alone, projection(pooled)[:1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_t5_out_of_a_whole_student(tmp_path):
    expected = T5EncoderModel.from_pretrained(golden.FOLDER / "tiny-t5").eval()
    state_dict = {f"text_encoder.{name}": tensor for name, tensor in expected.state_dict().items()}
    converted = convert_t5_encoder(state_dict | {"ctm_unet.conv_in.bias": torch.zeros(1)})
    tokens = torch.tensor([[3, 9, 20, 1], [5, 1, 0, 0]])
    mask = (tokens != 0).long()
    output = converted(tokens, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(output, expected(tokens, attention_mask=mask).last_hidden_state)
    converted.save_pretrained(tmp_path)
    again = T5EncoderModel.from_pretrained(tmp_path)(tokens, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(again, output)


def test_every_misfit_is_listed():
    state_dict, _, _ = laion()
    state_dict["text_projection.3.weight"] = state_dict.pop("text_projection.2.weight")
    state_dict["text_branch.pooler.dense.bias"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        convert_clap_text(state_dict)
    for line in (
        "missing text_projection.linear2.weight",
        "unexpected text_projection.3.weight",
        "text_model.pooler.dense.bias has shape (3,), not (128,)",
    ):
        assert line in str(error.value)
    with pytest.raises(ValueError, match="missing text_branch"):
        convert_clap_text({"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"missing shared\.weight"):
        convert_t5_encoder({"x": torch.zeros(1)})
