"""Conversion of the released sizes: random weights under the released names, and the memory it takes."""

import json
import shutil
import subprocess
import sys

import pytest
import released
import torch
from safetensors import safe_open
from transformers import RobertaConfig, RobertaModel

import golden
from diffusers_soundctm import AutoencoderDAC

pytestmark = pytest.mark.slow

# In its own process: what is measured is the conversion's memory, mapped pages of the files included. Not by
# `getrusage`, whose peak is the parent's to begin with.
CONVERT = """
import json, sys
from pathlib import Path
from diffusers_soundctm.conversion import convert_release
import diffusers_soundctm.pipelines.pipeline_soundctm
def peak(): return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
before = peak()
release, output, text_encoder, *files = sys.argv[1:]
convert_release(release, output, files, text_encoder=text_encoder)
print(json.dumps({"bytes": peak() - before}))
"""


@pytest.fixture
def folder(tmp_path):
    """Gone after the test: it takes some 13 GB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def random_checkpoint(shapes, path, **more):
    """Written to `path` and forgotten; the number of bytes of its tensors."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.empty(shape).uniform_(-0.05, 0.05, generator=generator) for name, shape in shapes.items()}
    torch.save({**tensors, **more}, path)
    return sum(tensor.nbytes for tensor in tensors.values())


def dac_shapes():
    """Names of the waveform autoencoder at a plausible size; the released one may have other ratios."""
    with torch.device("meta"):
        vae = AutoencoderDAC()
    units = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
    halves = {
        "encoder": ("block", ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1")),
        "decoder": ("model", ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3")),
    }
    shapes = {}
    for name, tensor in vae.state_dict().items():
        half, *parts = name.split(".")
        if half in halves:
            layers, order = halves[half]
            if parts[0] == "block":
                parts = [layers, str(int(parts[1]) + 1), "block", str(order.index(parts[2])), *parts[3:]]
                if parts[4] in units:
                    parts[4:5] = ["block", str(units[parts[4]])]
            else:
                parts = [layers, str({"conv1": 0, "snake1": 5, "conv2": 6}[parts[0]]), *parts[1:]]
        else:
            half = {"quant_conv": "pre_conv", "post_quant_conv": "post_conv"}[half]
        shapes[".".join([half, *parts])] = tensor.shape
    return shapes


def convert(release, output, text_encoder, files):
    command = [sys.executable, "-c", CONVERT, release, output, text_encoder, *files]
    run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])["bytes"]


def check_weights(checkpoint, folder, names):
    """Tensors of the checkpoint are in `folder`, `names` being theirs and ours, in float32 and half precision."""
    released_tensors = torch.load(checkpoint, weights_only=True, mmap=True)
    for variant, dtype in (("", torch.float32), (".fp16", torch.float16)):
        with safe_open(folder / f"diffusion_pytorch_model{variant}.safetensors", "pt") as file:
            for theirs, ours in names.items():
                assert torch.equal(file.get_tensor(ours), released_tensors[theirs].to(dtype)), ours


def test_16_khz(folder):
    student, audioldm = folder / "pytorch_model.bin", folder / "audioldm-s-full.ckpt"
    size = random_checkpoint(golden.read("full_size_student_shapes.json")["tensors"], student)  # UNet and FLAN-T5
    stage = {f"first_stage_model.{name}": shape for name, shape in released.SHAPES["audioldm_full_size"].items()}
    size += random_checkpoint(stage, audioldm, scale_factor=torch.tensor(0.9))
    memory = convert("sony-unet", folder / "out", released.TINY_T5, [student, audioldm])
    print(f"sony-unet: {memory / 1e9:.2f} GB for checkpoints of {size / 1e9:.2f} GB")
    assert memory < 1.3 * size
    names = ("conv_in.weight", "mid_block.resnets.0.conv1.weight", "up_blocks.3.attentions.2.proj_out.weight")
    names = {f"ctm_unet.{name}": name for name in names}
    names["ctm_unet.s_time_embedding.linear_1.weight"] = "time_embedding.target_embedding.linear_1.weight"
    check_weights(student, folder / "out" / "unet", names)
    config = json.loads((folder / "out" / "text_encoder" / "config.json").read_text())
    sizes = {"d_model": 1024, "d_ff": 2816, "d_kv": 64, "num_layers": 24, "num_heads": 16, "vocab_size": 32128}
    assert config.items() >= sizes.items()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_44_khz(folder, clap_tokenizer, version):
    ema, vae, clap = folder / f"ac_{version}_ema.pt", folder / "weights.pth", folder / "clap.pt"
    shapes = golden.read(f"dit/full_size_{version}_shapes.json")["student"]
    size = random_checkpoint({f"dit.{name.removeprefix('dit.')}": shape for name, shape in shapes.items()}, ema)
    size += random_checkpoint(dac_shapes(), vae)
    with torch.device("meta"):
        roberta = RobertaModel(RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
    branch = {f"text_branch.{name}": tensor.shape for name, tensor in roberta.state_dict().items()}
    branch |= {"text_projection.0.weight": (512, 768), "text_projection.2.weight": (512, 512)}
    branch |= {"text_projection.0.bias": (512,), "text_projection.2.bias": (512,)}
    size += random_checkpoint(branch, clap)
    torch.save({"z_mean": torch.zeros(64), "z_std": torch.ones(64)}, folder / "z_stats.pth")
    files = [ema, vae, clap, folder / "z_stats.pth"]
    memory = convert(f"sony-dit-{version}", folder / "out", clap_tokenizer, files)
    print(f"sony-dit-{version}: {memory / 1e9:.2f} GB for checkpoints of {size / 1e9:.2f} GB")
    assert memory < 1.3 * size
    names = {
        "dit.preprocess_conv.weight": "preprocess_conv.weight",
        "dit.transformer.layers.23.ff.ff.0.proj.weight": "transformer_blocks.23.ff.net.0.proj.weight",
    }
    check_weights(ema, folder / "out" / "transformer", names)
