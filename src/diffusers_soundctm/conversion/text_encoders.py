"""Convert released text encoders: CLAP's text branch from LAION's file, and FLAN-T5 from a 16 kHz SoundCTM."""

import re
from collections.abc import Mapping

import torch
from transformers import ClapTextConfig, ClapTextModel, ClapTextModelWithProjection, T5Config, T5EncoderModel

from .build import build, count_layers, needed

CLAP_PREFIXES = ("", "text_encoder.model.", "cond_stage_model.model.")
_T5_PREFIX = "text_encoder."


def convert_clap_text(
    state_dict: Mapping[str, torch.Tensor], projection: bool = True
) -> ClapTextModelWithProjection | ClapTextModel:
    """Build the text branch of LAION-CLAP. Its sizes follow from its tensors.

    Args:
        state_dict: tensors named `text_branch.*` and `text_projection.*` as in LAION's `630k-audioset-best.pt`, or with
            the prefix `text_encoder.model.` (44.1 kHz SoundCTM) or `cond_stage_model.model.` (AudioLDM). Others are
            ignored.
        projection: whether to include the two layers that map to the space shared with audio (`text_embeds`); False
            ends at the pooled output.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    prefix = clap_prefix(state_dict) or ""
    wanted = ("text_branch.", "text_projection.") if projection else ("text_branch.",)
    released = {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(tuple(prefix + part for part in wanted))
    }
    words = needed(released, "text_branch.embeddings.word_embeddings.weight")
    positions = needed(released, "text_branch.embeddings.position_embeddings.weight").shape[0]
    config = ClapTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_hidden_layers=count_layers(released, "text_branch.encoder.layer"),
        num_attention_heads=max(words.shape[1] // 64, 1),  # RoBERTa's heads are 64 wide
        intermediate_size=needed(released, "text_branch.encoder.layer.0.intermediate.dense.weight").shape[0],
        max_position_embeddings=positions,
        type_vocab_size=needed(released, "text_branch.embeddings.token_type_embeddings.weight").shape[0],
        layer_norm_eps=1e-5,  # RoBERTa's, not the 1e-12 of transformers' CLAP
        **({"projection_dim": needed(released, "text_projection.0.weight").shape[0]} if projection else {}),
    )
    base = "text_model." if projection else ""
    names = {"text_branch.": base, "text_projection.0.": "text_projection.linear1."}
    names["text_projection.2."] = "text_projection.linear2."
    tensors = {
        re.sub("|".join(map(re.escape, names)), lambda match: names[match.group()], name, count=1): tensor
        for name, tensor in released.items()
    }
    # Constant tables. Whether a release holds them depends on its version of transformers.
    indices = torch.arange(positions)[None]
    tensors[f"{base}embeddings.position_ids"] = indices
    tensors[f"{base}embeddings.token_type_ids"] = torch.zeros_like(indices)
    return build(ClapTextModelWithProjection if projection else ClapTextModel, config, tensors)


def clap_prefix(state_dict: Mapping[str, torch.Tensor]) -> str | None:
    """Return the prefix of `text_branch.*` in the names of `state_dict`, or None if it holds no CLAP."""
    name = "text_branch.embeddings.word_embeddings.weight"
    return next((prefix for prefix in CLAP_PREFIXES if prefix + name in state_dict), None)


def convert_t5_encoder(state_dict: Mapping[str, torch.Tensor]) -> T5EncoderModel:
    """Build the FLAN-T5 encoder of a whole 16 kHz SoundCTM (`pytorch_model.bin`). Its sizes follow from its tensors.

    Args:
        state_dict: tensors named `text_encoder.*`. Others are ignored.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    tensors = {name.removeprefix(_T5_PREFIX): t for name, t in state_dict.items() if name.startswith(_T5_PREFIX)}
    words = needed(tensors, "shared.weight")
    attention = "encoder.block.0.layer.0.SelfAttention."
    buckets, heads = needed(tensors, f"{attention}relative_attention_bias.weight").shape
    config = T5Config(
        vocab_size=words.shape[0],
        d_model=words.shape[1],
        d_kv=needed(tensors, f"{attention}q.weight").shape[0] // heads,
        d_ff=needed(tensors, "encoder.block.0.layer.1.DenseReluDense.wo.weight").shape[1],
        num_layers=count_layers(tensors, "encoder.block"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    tensors["encoder.embed_tokens.weight"] = words
    model = build(T5EncoderModel, config, tensors)
    model.tie_weights()
    return model
