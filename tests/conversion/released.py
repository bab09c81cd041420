"""Small files with the names the authors use, made of the recordings' networks."""

from pathlib import Path

import torch
from transformers import ClapTextConfig, ClapTextModelWithProjection, T5EncoderModel

import golden

SHAPES = golden.read("first_stages.json")
TINY_T5 = golden.FOLDER / "tiny-t5"


def write_unet(folder: Path) -> None:
    """A 16 kHz release: EMA student, online student with another UNet and the T5, AudioLDM."""
    student = golden.read("student.safetensors")
    online = {name: 0 * tensor for name, tensor in student.items()}
    text = {f"text_encoder.{name}": t for name, t in T5EncoderModel.from_pretrained(TINY_T5).state_dict().items()}
    (folder / "030000").mkdir(parents=True)
    torch.save(
        {name.removeprefix("ctm_unet."): tensor for name, tensor in student.items()},
        folder / "030000" / "ema_0.999_030000.pt",
    )
    torch.save(online | text, folder / "030000" / "pytorch_model.bin")
    torch.save({"state_dict": audioldm(), "epoch": 1}, folder / "audioldm-s-full.ckpt")


def write_dit(folder: Path) -> None:
    """A 44.1 kHz release in the folders of its Hub repo; the EMA file holds CLAP too, as the authors' does."""
    models, utils = folder / "model_checkpoints" / "soundctm", folder / "utils_checkpoints"
    for path in (models, utils / "vae" / "gaussiandac", utils / "clap"):
        path.mkdir(parents=True)
    student = {f"dit.{name.removeprefix('dit.')}": t for name, t in golden.read("dit/student_dit.safetensors").items()}
    inside = {f"text_encoder.model.{name}": 0 * tensor for name, tensor in laion().items()}
    torch.save(student | inside, models / "ac_v2_ema_0999_030000.pt")
    torch.save({"z_mean": torch.linspace(-1, 1, 8), "z_std": torch.linspace(0.5, 2, 8)}, models / "z_stats.pth")
    (models / "ac_v2_summary.jsonl").write_text('{"sigma_data": 0.5, "w_min": 2.0, "w_max": 5.0, "rho": 7}\n{}\n')
    torch.save({"state_dict": dac(), "metadata": {"kwargs": {}}}, utils / "vae" / "gaussiandac" / "weights.pth")
    named = {f"module.{name}": tensor for name, tensor in laion().items()}
    torch.save({"epoch": 2, "state_dict": named}, utils / "clap" / "630k-audioset-best.pt")


def audioldm() -> dict[str, torch.Tensor]:
    """The recordings' first stage, with the 8 latent channels of the recordings' UNet."""
    latents = {"encoder.conv_out": (0,), "quant_conv": (0, 1), "post_quant_conv": (0, 1), "decoder.conv_in": (1,)}
    shapes = {name: _resized(name, shape, latents, {3: 8, 6: 16}) for name, shape in SHAPES["audioldm"].items()}
    tensors = {f"first_stage_model.{name}": tensor for name, tensor in golden.pattern(shapes).items()}
    return tensors | {"scale_factor": torch.tensor(0.75)}


def dac() -> dict[str, torch.Tensor]:
    """The recordings' waveform autoencoder, with the 8 latent channels of the recordings' transformer."""
    latents = {"encoder.block.5": (0,), "pre_conv": (0, 1), "post_conv": (0, 1), "decoder.model.0": (1,)}
    shapes = {name: _resized(name, shape, latents, {5: 8, 10: 16}) for name, shape in SHAPES["dac"].items()}
    return golden.pattern(shapes)


def laion() -> dict[str, torch.Tensor]:
    """A tiny CLAP, text branch and a piece of the rest, whose pooled output is as wide as the transformer's token."""
    torch.manual_seed(0)
    config = ClapTextConfig(
        vocab_size=32,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        projection_dim=12,
        max_position_embeddings=80,
    )
    names = {"text_model.": "text_branch.", "projection.linear1": "projection.0", "projection.linear2": "projection.2"}
    tensors = {"audio_branch.bn0.weight": torch.zeros(3)}
    for name, tensor in ClapTextModelWithProjection(config).state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        if not name.endswith("_ids"):
            tensors[name] = tensor
    return tensors


def _resized(name: str, shape: list[int], axes: dict[str, tuple[int, ...]], sizes: dict[int, int]) -> list[int]:
    """`shape` with the channels of the latents changed: `axes` of the layers that have any."""
    changed = axes.get(name.rpartition(".")[0], ())
    return [sizes.get(size, size) if axis in changed else size for axis, size in enumerate(shape)]
