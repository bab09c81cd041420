"""Convert released first stages: AudioLDM's mel autoencoder and HiFi-GAN, and the 44.1 kHz waveform autoencoder."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from ..models.autoencoder_dac import AutoencoderDAC
from .build import build, count_layers, needed

FIRST_STAGE = "first_stage_model."
VOCODER = "vocoder."

# Values of AudioLDM's 16 kHz HiFi-GAN that do not follow from the shapes of its tensors.
HIFIGAN_16K = {
    "sampling_rate": 16000,
    "upsample_rates": [5, 4, 2, 2, 2],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "leaky_relu_slope": 0.1,
    "normalize_before": False,
}

_MEL_VAE = [
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.(down|up)\.(\d+)\.block\.", r".\1_blocks.\2.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
]
_RESIDUAL = ("snake1", "conv1", "snake2", "conv2")
_DAC = {"pre_conv": "quant_conv", "post_conv": "post_quant_conv"}


def convert_audioldm_vae(
    state_dict: Mapping[str, torch.Tensor], scale_factor: float | torch.Tensor | None = None
) -> AutoencoderKL:
    """Build the mel autoencoder of an AudioLDM, AudioLDM2 or Tango checkpoint. Its sizes follow from its tensors.

    Args:
        state_dict: tensors named `first_stage_model.*`, and `scale_factor`; others, such as AudioLDM's UNet, are
            ignored. Or the autoencoder alone without the prefix, as in Tango's `pytorch_model_vae.bin`.
        scale_factor: replaces that of the checkpoint. Tango keeps it in `vae_config.json`.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    released = {name: t for name, t in _first_stage(state_dict).items() if not name.startswith(VOCODER)}
    if scale_factor is None:
        scale_factor = needed(state_dict, "scale_factor")
    levels = count_layers(released, "encoder.down")
    latent_channels = needed(released, "post_quant_conv.weight").shape[1]
    widths = [needed(released, f"encoder.down.{i}.block.0.conv1.weight").shape[0] for i in range(levels)]
    config = {
        "in_channels": needed(released, "encoder.conv_in.weight").shape[1],
        "out_channels": needed(released, "decoder.conv_out.weight").shape[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": count_layers(released, "encoder.down.0.block"),
        "latent_channels": latent_channels,
        "scaling_factor": float(scale_factor),
    }

    def renamed(name: str) -> str:
        for pattern, ours in _MEL_VAE:
            name = re.sub(pattern, ours, name)
        # The release numbers the levels of the decoder from its output, diffusers from the latent.
        return re.sub(r"(?<=\.up_blocks\.)\d+", lambda match: str(levels - 1 - int(match.group())), name)

    tensors = {
        # The release writes the projections of attention as 1×1 convolutions.
        renamed(name): tensor[..., 0, 0] if ".attn_1." in name and tensor.ndim == 4 else tensor
        for name, tensor in released.items()
    }
    return build(AutoencoderKL, config, tensors)


def convert_hifigan(state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any] = HIFIGAN_16K) -> SpeechT5HifiGan:
    """Build the vocoder of an AudioLDM checkpoint, with or without weight norm.

    Args:
        state_dict: tensors named `first_stage_model.vocoder.*`, or `vocoder.*` as in Tango. Others are ignored.
        config: values that do not follow from the tensors; by default those of the 16 kHz releases.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    released = _first_stage(state_dict)
    released = {name.removeprefix(VOCODER): t for name, t in released.items() if name.startswith(VOCODER)}
    released = _without_weight_norm(released)
    first = needed(released, "conv_pre.weight")
    kernels = len(config["resblock_dilation_sizes"])
    sizes = {
        "model_in_dim": first.shape[1],
        "upsample_initial_channel": first.shape[0],
        "upsample_kernel_sizes": [
            needed(released, f"ups.{i}.weight").shape[-1] for i in range(len(config["upsample_rates"]))
        ],
        "resblock_kernel_sizes": [needed(released, f"resblocks.{i}.convs1.0.weight").shape[-1] for i in range(kernels)],
    }
    tensors = {re.sub(r"^ups\.", "upsampler.", name): tensor for name, tensor in released.items()}
    # SpeechT5HifiGan expects statistics that normalize mels. AudioLDM does not normalize.
    tensors |= {"mean": first.new_zeros(first.shape[1]), "scale": first.new_ones(first.shape[1])}
    return build(SpeechT5HifiGan, SpeechT5HifiGanConfig(**dict(config), **sizes), tensors)


def convert_dac(
    state_dict: Mapping[str, torch.Tensor], statistics: Mapping[str, torch.Tensor] | None = None
) -> AutoencoderDAC:
    """Build the waveform autoencoder of the 44.1 kHz release. Its sizes follow from its tensors.

    Args:
        state_dict: tensors named `encoder.block.*`, `pre_conv.*`, `post_conv.*` and `decoder.model.*`. Weight norm is
            folded into the weights.
        statistics: `z_mean` and `z_std` of the training latents, each (latent_channels,); None leaves them out.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message lists all of them.
    """
    released = _without_weight_norm(state_dict)
    encoder_blocks, decoder_blocks = (
        sum(f"{layers}.{i}.block.{last}.weight" in released for i in range(count_layers(released, layers)))
        for layers, last in (("encoder.block", 4), ("decoder.model", 1))
    )
    config = {
        "encoder_hidden_size": needed(released, "encoder.block.0.weight").shape[0],
        "decoder_hidden_size": needed(released, "decoder.model.0.weight").shape[0],
        "latent_channels": needed(released, "post_conv.weight").shape[0],
        # The kernel of every resampling convolution is two strides wide.
        "downsampling_ratios": [
            needed(released, f"encoder.block.{i + 1}.block.4.weight").shape[-1] // 2 for i in range(encoder_blocks)
        ],
        "upsampling_ratios": [
            needed(released, f"decoder.model.{i + 1}.block.1.weight").shape[-1] // 2 for i in range(decoder_blocks)
        ],
    }
    if statistics is not None:
        for ours, name in (("latents_mean", "z_mean"), ("latents_std", "z_std")):
            values = needed(statistics, name)
            if values.shape != (config["latent_channels"],):
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}, not ({config['latent_channels']},), one value per "
                    "channel of the autoencoder; take both from the same release."
                )
            config[ours] = values.tolist()
    blocks = {"encoder": encoder_blocks, "decoder": decoder_blocks}
    return build(AutoencoderDAC, config, {_dac_name(name, blocks): tensor for name, tensor in released.items()})


def _first_stage(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the mel autoencoder and its vocoder without their prefix."""
    prefix = FIRST_STAGE if any(name.startswith(FIRST_STAGE) for name in state_dict) else ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    tensors.pop("scale_factor", None)
    return tensors


def _dac_name(name: str, blocks: Mapping[str, int]) -> str:
    """Return our name of a released tensor. An unknown name is kept, and reported later."""
    convolution, _, rest = name.partition(".")
    if convolution in _DAC:
        return f"{_DAC[convolution]}.{rest}"
    match = re.match(r"(encoder)\.block\.(\d+)\.(.+)|(decoder)\.model\.(\d+)\.(.+)", name)
    if match is None:
        return name
    half, index, inside = filter(None, match.groups())
    index = int(index)
    if not 0 < index <= blocks[half]:
        layer = {0: "conv1", blocks[half] + 1: "snake1", blocks[half] + 2: "conv2"}.get(index)
        return name if layer is None else f"{half}.{layer}.{inside}"
    # An encoder block is three residual units, Snake and a convolution. A decoder block is Snake, a convolution and
    # three residual units.
    layers = ["res_unit1", "res_unit2", "res_unit3"]
    layers = [*layers, "snake1", "conv1"] if half == "encoder" else ["snake1", "conv_t1", *layers]
    match = re.fullmatch(r"block\.([0-4])\.(?:block\.([0-3])\.)?(\w+)", inside)
    if match is None:
        return name
    layer, unit, parameter = match.groups()
    unit = "" if unit is None else f".{_RESIDUAL[int(unit)]}"
    return f"{half}.block.{index - 1}.{layers[int(layer)]}{unit}.{parameter}"


def _without_weight_norm(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Replace every pair `weight_g`, `weight_v` by `weight` = g·v/‖v‖, and keep other tensors."""
    tensors = {}
    for name, tensor in state_dict.items():
        if name.endswith(".weight_v") and f"{name[:-1]}g" in state_dict:
            tensors[name[:-2]] = torch._weight_norm(tensor, state_dict[f"{name[:-1]}g"], 0)
        elif not (name.endswith(".weight_g") and f"{name[:-1]}v" in state_dict):
            tensors[name] = tensor
    return tensors
