"""Convert the released 44.1 kHz transformers, student and teacher."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..models.transformer_ctm import AudioDiTModel, CTMAudioDiTModel
from .build import build

_TEACHER_ONLY = "to_global_embed."  # in every teacher file, used by neither teacher nor student

_MODULES = {
    "preprocess_conv": "preprocess_conv",
    "postprocess_conv": "postprocess_conv",
    "to_timestep_embed": "timestep_proj",
    "to_cond_embed": "cross_attention_proj",
    "transformer.project_in": "proj_in",
    "transformer.project_out": "proj_out",
    "transformer.layers": "transformer_blocks",
}
_IN_BLOCK = {
    "pre_norm.gamma": ["norm1.weight"],
    "pre_norm.beta": ["norm1.bias"],
    "self_attn.to_qkv.weight": ["attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"],
    "self_attn.to_out.weight": ["attn1.to_out.0.weight"],
    "cross_attend_norm.gamma": ["norm2.weight"],
    "cross_attend_norm.beta": ["norm2.bias"],
    "cross_attn.to_q.weight": ["attn2.to_q.weight"],
    "cross_attn.to_kv.weight": ["attn2.to_k.weight", "attn2.to_v.weight"],
    "cross_attn.to_out.weight": ["attn2.to_out.0.weight"],
    "ff_norm.gamma": ["norm3.weight"],
    "ff_norm.beta": ["norm3.bias"],
    "ff.ff.0.proj.weight": ["ff.net.0.proj.weight"],
    "ff.ff.0.proj.bias": ["ff.net.0.proj.bias"],
    "ff.ff.2.weight": ["ff.net.2.weight"],
    "ff.ff.2.bias": ["ff.net.2.bias"],
}


def convert_soundctm_dit(
    state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> CTMAudioDiTModel | AudioDiTModel:
    """Build the network of a released 44.1 kHz checkpoint. A checkpoint with `to_global_embed.*` is a teacher.

    Args:
        state_dict: tensors whose names have the prefix `dit.` or none. Others, such as `text_encoder.*`, are ignored.
            The model uses the tensors without copying them.
        config: the released configuration with `io_channels`, `embed_dim`, `depth`, `num_heads` and `cond_token_dim`.
            Other keys must have the released values.

    Returns:
        The model in the checkpoint's dtype, in eval mode.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape, or `config` has an unsupported value; the
            message lists them.
    """
    prefix = "dit." if any(name.startswith("dit.") for name in state_dict) else ""
    released = {
        name.removeprefix(prefix): tensor
        for name, tensor in state_dict.items()
        if name.startswith(prefix) and not name.startswith("text_encoder.")
    }
    is_teacher = any(name.startswith(_TEACHER_ONLY) for name in released)
    tensors = dict(part for name, tensor in released.items() for part in _renamed(name, tensor))
    return build(AudioDiTModel if is_teacher else CTMAudioDiTModel, dit_config(config), tensors)


def dit_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the released configuration to diffusers' keys; raise `ValueError` if a value is unsupported."""
    fixed = {"project_cond_tokens": False, "transformer_type": "continuous_transformer"}
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"`config` has {key} = {config[key]!r}; only the released value {value!r} is supported.")
    head_dim = config["embed_dim"] // config["num_heads"]
    return {
        "sample_size": 432,  # frames in training: 10.03 s
        "in_channels": config["io_channels"],
        "out_channels": config["io_channels"],
        "num_layers": config["depth"],
        "attention_head_dim": head_dim,
        "num_attention_heads": config["num_heads"],
        "num_key_value_attention_heads": config["cond_token_dim"] // head_dim,
        "cross_attention_dim": config["cond_token_dim"],
        "cross_attention_input_dim": config["cond_token_dim"],
    }


def _renamed(name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield our (name, tensor) pairs of a released tensor. An unknown name is kept, and reported later."""
    if name.startswith(_TEACHER_ONLY) or name == "transformer.rotary_pos_emb.inv_freq":
        return
    if name == "timestep_features.weight":
        yield "fourier.weight", tensor.squeeze(-1)
        return
    module = next((m for m in _MODULES if name.startswith(f"{m}.")), None)
    if module is None:
        yield name, tensor
        return
    rest = name.removeprefix(f"{module}.")
    if module != "transformer.layers":
        yield f"{_MODULES[module]}.{rest}", tensor
        return
    index, _, inside = rest.partition(".")
    targets = _IN_BLOCK.get(inside, [inside])
    for target, part in zip(targets, torch.atleast_1d(tensor).tensor_split(len(targets)), strict=True):
        yield f"transformer_blocks.{index}.{target}", part
