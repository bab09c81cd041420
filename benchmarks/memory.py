"""Time, memory and accuracy of each recipe that fits a full-size released model into a small machine.

python benchmarks/memory.py --release sony-dit-v2 --folder random-dit --device cuda

Weights are random, of the released sizes, and written once to --folder. A model in --folder that was converted with
--variants fp16 bf16 is used instead. The text encoder is left out. Every recipe runs in a process of its own. The first
call, which includes compilation, is not counted. On a CPU, time is processor time, so that other jobs do not count.
"To start" is the peak memory of the process until the first call has ended, with libraries and mapped files. "In later
calls" leaves out pages that later calls never touch, such as a mapped file of weights that were converted: Linux takes
those back when memory is short.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from common import print_command, print_table
from diffusers_soundctm import AutoencoderDAC, CTMAudioDiTModel, CTMScheduler, CTMUNet2DConditionModel, SoundCTMPipeline
from diffusers_soundctm.conversion import RELEASES
from diffusers_soundctm.conversion.dit import dit_config
from diffusers_soundctm.conversion.first_stages import HIFIGAN_16K
from diffusers_soundctm.conversion.folders import save_components

PROMPT_TOKENS = {"sony-unet": 16, "sony-dit-v1": 1, "sony-dit-v2": 1}


def random_model(release: str, folder: Path) -> None:
    """Write a model of the released size with random weights to `folder`, as `soundctm convert` does."""
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
    pipe = SoundCTMPipeline(vae, None, None, unet, scheduler, vocoder)
    save_components(
        pipe.components, pipe.config.guidance_scale_range, folder, {"from": f"random {release}"}, ("fp16", "bf16")
    )


def in_dtype(dtype: torch.dtype) -> Callable[[Path, str], SoundCTMPipeline]:
    # In the type that is asked for, the weights are the mapped file.
    variant = {torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype)
    options = {"torch_dtype": dtype, "variant": variant}
    return lambda folder, device: SoundCTMPipeline.from_pretrained(folder, **options).to(device)


def compiled(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, device)
    pipe.denoiser.compile_repeated_blocks(fullgraph=True)
    return pipe


def model_offload(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, "cpu")
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def group_offload(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, "cpu")
    options = {"num_blocks_per_group": 1, "exclude_modules": ["vae", "vocoder"]}
    pipe.enable_group_offload(torch.device(device), use_stream=True, **options)
    return pipe


def group_offload_to_disk(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.bfloat16)(folder, "cpu")
    blocks = folder / "blocks"
    shutil.rmtree(blocks, ignore_errors=True)  # files that are there would be taken, whatever model they are of
    options = {"num_blocks_per_group": 1, "exclude_modules": ["vae", "vocoder"]}
    pipe.enable_group_offload(torch.device(device), offload_to_disk_path=str(blocks), **options)
    return pipe


def tiled(folder: Path, device: str) -> SoundCTMPipeline:
    pipe = in_dtype(torch.float32)(folder, device)
    pipe.vae.enable_slicing()
    if pipe.encodes_waveforms:  # tiles of a mel autoencoder are blended, which changes the sound
        pipe.vae.enable_tiling()
    return pipe


def quantized(kind: str) -> Callable[[Path, str], SoundCTMPipeline]:
    def load(folder: Path, device: str) -> SoundCTMPipeline:
        from torchao import quantization

        pipe = in_dtype(torch.bfloat16)(folder, device)
        quantization.quantize_(pipe.denoiser, getattr(quantization, kind)())
        return pipe

    return load


RECIPES: dict[str, Callable[[Path, str], SoundCTMPipeline]] = {
    "float32": in_dtype(torch.float32),
    "float32, sliced and tiled VAE": tiled,
    "bfloat16": in_dtype(torch.bfloat16),
    "float16": in_dtype(torch.float16),
    "bfloat16, compiled": compiled,
    "bfloat16, model offload": model_offload,
    "bfloat16, group offload": group_offload,
    "bfloat16, group offload to disk": group_offload_to_disk,
    "int8 weights (torchao)": quantized("Int8WeightOnlyConfig"),
    "float8 weights (torchao)": quantized("Float8WeightOnlyConfig"),
}
NEED_ACCELERATOR = ("float16", "bfloat16, model offload", "bfloat16, group offload")


def peak_memory() -> int:
    """Bytes that this process held at most since the last call, less those it holds but has not touched since."""

    def read(file: str, name: str) -> int:
        return int(Path("/proc/self", file).read_text().partition(f"{name}:")[2].split()[0]) * 1024

    untouched = read("smaps_rollup", "Rss") - read("smaps_rollup", "Referenced")
    peak = read("status", "VmHWM") - untouched
    for what in ("1", "5"):  # forget what was touched, and the peak
        Path("/proc/self/clear_refs").write_text(what)
    return peak


def measure(args: argparse.Namespace) -> None:
    """One recipe, in this process: what it took as JSON on standard output, what it made in a file."""
    pipe = RECIPES[args.measure](args.folder, args.device)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, PROMPT_TOKENS[args.release], pipe.conditioning.width, generator=generator)
    latents = torch.randn(1, *pipe.latent_shape(round(args.seconds * pipe.sampling_rate)), generator=generator)
    inputs = {"prompt_embeds": torch.nn.functional.normalize(embeds, dim=-1), "latents": latents}
    inputs["num_inference_steps"] = args.steps
    made = {}

    def keep(pipe: SoundCTMPipeline, step: int, timestep: torch.Tensor, tensors: dict) -> dict:
        made["latents"] = tensors["latents"].float().cpu().numpy()
        return tensors

    made["sound"] = pipe(**inputs, callback_on_step_end=keep).audios
    np.savez(args.made, **made)
    memory = {"start": peak_memory()}
    on_cpu, times = args.device == "cpu", []
    clock = time.process_time if on_cpu else time.perf_counter
    for _ in range(args.repeats):
        start = clock()
        pipe(**inputs)  # a NumPy array: the device is done when it returns
        times.append(clock() - start)
    memory["calls"] = peak_memory()
    if args.device.startswith("cuda"):
        memory["device"] = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": statistics.median(times), "memory": memory}))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", choices=RELEASES, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="model folder, made with random weights if missing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--made", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    if args.measure is not None:
        measure(args)
        return
    if not (args.folder / "model_index.json").is_file():
        random_model(args.release, args.folder)

    rows, reference = [], None
    for recipe in args.recipes:
        if args.device == "cpu" and recipe in NEED_ACCELERATOR:
            continue
        try:
            result = run(recipe)
        except RuntimeError as error:
            rows.append((recipe, f"failed: {error}"[:100], *[""] * 5))
            continue
        reference = reference if reference is not None else result
        memory = [result["memory"].get(moment) for moment in ("start", "calls", "device")]
        rows.append(
            (
                recipe,
                f"{result['seconds'] / reference['seconds']:.2f}",
                *(f"{size / 1e9:.1f}" if size else "" for size in memory),
                *(f"{relative(result[name], reference[name]):.1e}" for name in ("latents", "sound")),
            )
        )
    print_command()
    setting = (
        f"{args.release}, {args.seconds:g} s of sound, {args.steps} steps, {args.device}, torch {torch.__version__}"
    )
    print(f"{setting}; time and differences relative to the first, which took {reference['seconds']:.1f} s\n")
    print_table(("recipe", "time", "GB to start", "GB then", "GB, device", "latents", "sound"), rows)


def run(recipe: str) -> dict[str, Any]:
    """What `measure` found in a process of its own; `RuntimeError` with the last it said if it failed."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made.npz"
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", recipe, "--made", str(made)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(process.stderr.strip().splitlines()[-1])
        return json.loads(process.stdout.splitlines()[-1]) | dict(np.load(made))


def relative(array: np.ndarray, reference: np.ndarray) -> float:
    """‖array − reference‖ / ‖reference‖."""
    return np.linalg.norm(array - reference) / np.linalg.norm(reference)


if __name__ == "__main__":
    main()
