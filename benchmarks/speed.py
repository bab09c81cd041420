"""How fast the pipeline is: against real time, against its own parts, and from a cold command to the file.

python benchmarks/speed.py --threads 2
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import print_command, print_table
from diffusers_soundctm import SoundCTMPipeline

PROMPT = "rain on a tin roof"


def parts(pipe: SoundCTMPipeline, steps: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """How often a call runs each network, and that network alone on inputs of the call's shapes."""
    tokens = pipe.tokenizer([PROMPT], padding=True, return_tensors="pt").to(pipe.device)
    embeds, mask, _, _ = pipe.encode_prompt(PROMPT, do_nu_sampling=False)
    kwargs = pipe.conditioning.network_kwargs(embeds, mask)
    noise = torch.randn(1, *pipe.latent_shape(round(pipe.default_audio_length_in_s * pipe.sampling_rate)))
    noise = noise.to(pipe.device, pipe.denoiser.dtype)
    timestep = torch.ones((), device=pipe.device)
    condition = torch.tensor([[0.002, 3.5]], device=pipe.device)
    mel = pipe.vae.decode(noise.to(pipe.vae.dtype)).sample[:, 0]
    return {
        "text encoder": (1, lambda: pipe.text_encoder(**tokens)),
        "network": (steps, lambda: pipe.denoiser(noise, timestep, timestep_cond=condition, **kwargs)),
        "VAE decoder": (1, lambda: pipe.vae.decode(noise.to(pipe.vae.dtype))),
        "vocoder": (1, lambda: pipe.vocoder(mel)),
    }


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def warm(pipe: SoundCTMPipeline, steps: int, repeats: int) -> tuple[str, ...]:
    """Median times of the whole call and of its parts, taken in turn so that a busy machine slows them alike."""
    alone = parts(pipe, steps)

    def call() -> None:
        pipe(PROMPT, num_inference_steps=steps)

    times: dict[str, list[float]] = {name: [] for name in ("call", *alone)}
    for repeat in range(repeats + 2):
        once = {"call": seconds(call)}
        once |= {name: sum(seconds(function) for _ in range(count)) for name, (count, function) in alone.items()}
        if repeat >= 2:  # the first are slow
            for name, value in once.items():
                times[name].append(value)
    median = {name: statistics.median(values) for name, values in times.items()}
    networks = sum(median[name] for name in alone)
    length = pipe.default_audio_length_in_s
    return (
        str(steps),
        f"{1000 * median['call']:.0f}",
        *(f"{1000 * median[name]:.0f}" for name in alone),
        f"{median['call'] / networks:.3f}",
        f"{length / median['call']:.1f} ×",
    )


def cold(model: str | None, repeats: int) -> float:
    """Median seconds of `soundctm generate`, start to exit, one step."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "sound.wav")
        command = [sys.executable, "-m", "diffusers_soundctm", "generate", PROMPT, "-o", output, "--force"]
        command += ["--model", model] if model else []
        return statistics.median(
            seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(repeats)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", help="folder or Hub id (the embedded model)")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    pipe = SoundCTMPipeline.from_pretrained(args.pipeline) if args.pipeline else SoundCTMPipeline.from_embedded()
    pipe.to(args.device).set_progress_bar_config(disable=True)
    rows = [warm(pipe, steps, args.repeats) for steps in args.steps]
    print_command()
    print(
        f"One sound of {pipe.default_audio_length_in_s:.2f} s, {args.device}, {args.threads} threads, medians in ms.\n"
    )
    header = ["steps", "call", "text encoder", "networks", "VAE decoder", "vocoder", "call ÷ parts", "real time"]
    print_table(header, rows)
    print(f"\nCold, from the command to the file, 1 step: {cold(args.pipeline, 5):.1f} s")


if __name__ == "__main__":
    main()
