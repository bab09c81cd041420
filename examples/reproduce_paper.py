"""Reproduce the papers' evaluation: generate sounds for the AudioCaps test captions, then compute the metrics.

    accelerate launch examples/reproduce_paper.py --model soundctm-unet --captions test.csv --output reproduction \\
        --reference audiocaps/test --metrics fad-vggish kl-passt clap

`--captions` has the columns `file_name` and `caption`, like the authors' test.csv. Each caption has its own seed, so
the sounds do not depend on the number of processes or on the batch size. A run that was interrupted resumes with the
missing sounds. For 4 steps, sounds are written to reproduction/steps-04/<name>.wav and metrics to
reproduction/steps-04.json.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline, audio
from diffusers_soundctm.evaluation import compare, format_results, load_embedding
from diffusers_soundctm.evaluation.published_metrics import METRICS, check_metrics, read_captions
from diffusers_soundctm.files import read_json, write_json

# ω of the authors' inference scripts, by sampling rate in Hz. Both use ν = 1 and γ = 0.
OMEGA = {16000: 3.5, 44100: 5.0}
SEED = 5031


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a converted model")
    parser.add_argument("--captions", required=True, help="csv file with the columns file_name and caption")
    parser.add_argument("--output", required=True, type=Path, help="folder to write sounds and metrics to")
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of steps (default: 1 2 4 8 16)"
    )
    parser.add_argument("--omega", type=float, help="guidance scale (default: 3.5 at 16 kHz, 5 at 44.1 kHz)")
    parser.add_argument("--nu", type=float, default=1.0, help="ν of the calls (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each sound (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=SEED, help="seed of the first caption; each further one adds 1 (%(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="sounds per call (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the model")
    parser.add_argument("--reference", help="folder of the test set's sounds; without it, no metrics are computed")
    parser.add_argument(
        "--metrics", nargs="*", default=[], choices=METRICS, help="metrics to compute besides the kernel distance"
    )
    parser.add_argument(
        "--embedding", default="aisfx", help="embedding of the kernel distance, see soundctm evaluate (%(default)s)"
    )
    args = parser.parse_args(arguments)
    if args.metrics and args.reference is None:
        parser.error("--metrics need real sounds; pass their folder as --reference.")
    return args


def generate(args: argparse.Namespace, state: PartialState) -> None:
    """Write this process's share of the sounds that are missing."""
    captions = read_captions(args.captions)
    dtype = getattr(torch, args.dtype)
    with state.main_process_first():  # one process downloads
        pipe = SoundCTMPipeline.from_pretrained(args.model, torch_dtype=dtype)
    pipe.to(state.device).set_progress_bar_config(disable=True)
    omega = OMEGA.get(pipe.sampling_rate, 3.5) if args.omega is None else args.omega
    settings = {"omega": omega, "nu": args.nu, "seconds": args.seconds, "seed": args.seed, "dtype": args.dtype}
    digest = hashlib.sha256(json.dumps([*captions.items()]).encode()).hexdigest()
    settings |= {"model": args.model, "captions": len(captions), "captions_sha256": digest}
    seeds = dict(zip(captions, range(args.seed, args.seed + len(captions)), strict=True))
    for steps in args.steps:
        folder = args.output / f"steps-{steps:02d}"
        if state.is_main_process:
            store_settings(folder, settings)
        state.wait_for_everyone()
        missing = [name for name in captions if not (folder / f"{name}.wav").is_file()]
        state.wait_for_everyone()  # all processes list the missing sounds before one writes
        with state.split_between_processes(missing) as names:
            for i in tqdm(range(0, len(names), args.batch_size), desc=folder.name, disable=not state.is_main_process):
                batch = names[i : i + args.batch_size]
                sounds = pipe(
                    [captions[name] for name in batch],
                    audio_length_in_s=args.seconds,
                    num_inference_steps=steps,
                    guidance_scale=omega,
                    nu=args.nu,
                    generator=[torch.Generator().manual_seed(seeds[name]) for name in batch],
                ).audios
                for name, sound in zip(batch, sounds, strict=True):
                    audio.write_audio(folder / f"{name}.wav", torch.from_numpy(sound), pipe.sampling_rate)
        state.wait_for_everyone()


def store_settings(folder: Path, settings: dict) -> None:
    """Store `settings` in `folder`; raise `ValueError` if it holds sounds made with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and read_json(file) != settings:
        raise ValueError(f"{folder} has sounds made with {file.read_text().strip()}; choose another --output.")
    write_json(file, settings)


def measure(args: argparse.Namespace) -> None:
    """Compute the metrics for each number of steps and write one JSON file each."""
    for steps in args.steps:
        folder = args.output / f"steps-{steps:02d}"
        results = compare(
            str(folder),
            args.reference,
            captions=args.captions,
            embedding=args.embedding,
            duration=args.seconds,
            metrics=args.metrics,
        )
        write_json(folder.with_suffix(".json"), results)
        print(f"{steps} steps\n{format_results(results)}")


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.reference is not None:  # report what is missing before the first sound, not after the last
        check_metrics(args.metrics, read_captions(args.captions), args.reference)
        load_embedding(args.embedding)
    # Without cpu=True, accelerate ignores other processes on CPUs. Start those with `torchrun`, because
    # `accelerate launch --cpu` starts only one.
    state = PartialState(cpu=not torch.accelerator.is_available())
    generate(args, state)
    if args.reference is not None and state.is_main_process:
        measure(args)


if __name__ == "__main__":
    main()
