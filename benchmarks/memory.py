"""What each way of fitting a full-size released model into a small machine costs: time, memory and accuracy.

python benchmarks/memory.py --release sony-dit-v2 --folder random-dit --device cuda

Weights are random, of the released sizes, made once in --folder (or give a converted model there); the text encoder is
left out. Every recipe runs in a process of its own; the first call is not counted, nor is compiling, which it includes.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from common import print_command, print_table
from diffusers_soundctm import AutoencoderDAC, CTMAudioDiTModel, CTMScheduler, CTMUNet2DConditionModel, SoundCTMPipeline
from diffusers_soundctm.conversion import RELEASES
from diffusers_soundctm.conversion.dit import dit_config
from diffusers_soundctm.conversion.first_stages import HIFIGAN_16K

PROMPT_TOKENS = {"sony-unet": 16, "sony-dit-v1": 1, "sony-dit-v2": 1}


def random_model(release: str, folder: Path) -> None:
    """Write a model of the released size with random weights to `folder`."""
    torch.manual_seed(0)
    config, vocoder = dict(RELEASES[release].config), None
    if release == "sony-unet":
        unet = CTMUNet2DConditionModel(**config, sample_size=[256, 16])
        vae = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            block_out_channels=[128, 256, 512],
            layers_per_block=2,
            latent_channels=8,
        )
        kernels = {"upsample_kernel_sizes": [16, 16, 8, 4, 4], "resblock_kernel_sizes": [3, 7, 11]}
        sizes = {"model_in_dim": 64, "upsample_initial_channel": 1024}
        vocoder = SpeechT5HifiGan(SpeechT5HifiGanConfig(**HIFIGAN_16K, **kernels, **sizes))
    else:
        unet = CTMAudioDiTModel(**dit_config(config))
        vae = AutoencoderDAC()  # the released ratios are known to no one without the file; their product is 1024
    scheduler = CTMScheduler(sigma_data=RELEASES[release].sigma_data)
    SoundCTMPipeline(vae, None, None, unet, scheduler, vocoder).save_pretrained(folder)


def in_dtype(dtype: torch.dtype) -> Callable[[Path, str], SoundCTMPipeline]:
    return lambda folder, device: SoundCTMPipeline.from_pretrained(folder, torch_dtype=dtype).to(device)


def compiled(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, device)
    pipe.unet.compile(fullgraph=True)
    return pipe


def model_offload(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = SoundCTMPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def group_offload(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = SoundCTMPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipe.enable_group_offload(
        torch.device(device), num_blocks_per_group=1, use_stream=True, exclude_modules=["vae", "vocoder"]
    )
    return pipe


def tiled(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, device)
    pipe.vae.enable_slicing()
    if pipe.encodes_waveforms:  # tiles of a mel autoencoder are blended, which changes the sound
        pipe.vae.enable_tiling()
    return pipe


def quantized(kind: str) -> Callable[[Path, str], SoundCTMPipeline]:
    def load(folder: Path, device: str) -> SoundCTMPipeline:
        from torchao import quantization

        pipe = in_dtype(torch.bfloat16)(folder, device)
        quantization.quantize_(pipe.unet, getattr(quantization, kind)())
        return pipe

    return load


RECIPES: dict[str, Callable[[Path, str], SoundCTMPipeline]] = {
    "float32": in_dtype(torch.float32),
    "bfloat16": in_dtype(torch.bfloat16),
    "float16": in_dtype(torch.float16),
    "bfloat16, compiled": compiled,
    "bfloat16, sliced and tiled VAE": tiled,
    "bfloat16, model offload": model_offload,
    "bfloat16, group offload": group_offload,
    "int8 weights (torchao)": quantized("Int8WeightOnlyConfig"),
    "float8 weights (torchao)": quantized("Float8WeightOnlyConfig"),
}
NEED_ACCELERATOR = ("float16", "bfloat16, model offload", "bfloat16, group offload")


def measure(args: argparse.Namespace) -> None:
    """One recipe, in this process: what it took as JSON on standard output, its latents in a file."""
    pipe = RECIPES[args.measure](args.folder, args.device)
    pipe.set_progress_bar_config(disable=True)
    width = pipe.conditioning.width
    generator = torch.Generator().manual_seed(0)
    embeds = torch.nn.functional.normalize(
        torch.randn(1, PROMPT_TOKENS[args.release], width, generator=generator), dim=-1
    )
    latents = torch.randn(1, *pipe.latent_shape(round(args.seconds * pipe.sampling_rate)), generator=generator)
    inputs = {"prompt_embeds": embeds, "latents": latents, "num_inference_steps": args.steps}
    np.save(args.latents, pipe(**inputs, output_type="latent").audios.float().cpu().numpy())
    times = []
    for repeat in range(args.repeats + 1):
        start = time.perf_counter()
        pipe(**inputs)  # a NumPy array: the device is done when it returns
        if repeat:
            times.append(time.perf_counter() - start)
    memory = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if args.device.startswith("cuda"):
        memory["device"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": statistics.median(times), **memory}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", choices=RELEASES, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="model folder, made with random weights if missing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--latents", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        measure(args)
        return
    if not (args.folder / "model_index.json").is_file():
        random_model(args.release, args.folder)

    rows, reference = [], None
    with tempfile.TemporaryDirectory() as temporary:
        for recipe in args.recipes:
            if args.device == "cpu" and recipe in NEED_ACCELERATOR:
                continue
            latents = Path(temporary) / "latents.npy"
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", recipe, "--latents", str(latents)]
            run = subprocess.run(command, capture_output=True, text=True)
            if run.returncode:
                rows.append((recipe, run.stderr.strip().splitlines()[-1][:80], "", "", ""))
                continue
            result, output = json.loads(run.stdout.splitlines()[-1]), np.load(latents)
            reference = output if recipe == "float32" else reference
            difference = "" if reference is None else np.linalg.norm(output - reference) / np.linalg.norm(reference)
            rows.append(
                (
                    recipe,
                    f"{result['seconds']:.2f}",
                    f"{result['host'] / 1e9:.1f}",
                    f"{result['device'] / 1e9:.1f}" if "device" in result else "",
                    f"{difference:.1e}" if difference != "" else "",
                )
            )
    print_command()
    print(
        f"{args.release}, {args.seconds:g} s of sound, {args.steps} steps, {args.device}, torch {torch.__version__}\n"
    )
    print_table(("recipe", "seconds", "host GB", "device GB", "latents, relative to float32"), rows)


if __name__ == "__main__":
    main()
