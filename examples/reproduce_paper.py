"""The papers' evaluation: sounds for the AudioCaps test captions at 1 to 16 steps, then their metrics.

    accelerate launch examples/reproduce_paper.py --model soundctm-unet --captions test.csv --output reproduction \\
        --reference audiocaps/test --metrics fad-vggish kl-passt clap

`--captions` has the columns `file_name` and `caption`, as the authors' test.csv. Each caption is generated once, by one
of the processes, with a seed of its own: any number of processes and any batch size give the same sounds, and a run
that was stopped goes on where it was. Sounds are reproduction/steps-04/<name>.wav, metrics steps-04.json beside.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from accelerate import PartialState
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline, audio
from diffusers_soundctm.evaluation import comparison, embeddings
from diffusers_soundctm.evaluation.published_metrics import METRICS, check_metrics, read_captions

# ω of the authors' inference scripts, by sampling rate; ν = 1 and γ = 0 in both.
OMEGA = {16000: 3.5, 44100: 5.0}
SEED = 5031


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a converted model")
    parser.add_argument("--captions", required=True, help="csv file with file_name and caption")
    parser.add_argument("--output", required=True, type=Path, help="folder for the sounds and metrics")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--omega", type=float, help="3.5 at 16 kHz and 5 at 44.1 kHz when left out")
    parser.add_argument("--nu", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=SEED, help="of the first caption; each further one adds 1")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--reference", help="folder of the test set's sounds; metrics are left out without it")
    parser.add_argument("--metrics", nargs="*", default=[], choices=METRICS, help="besides the kernel distance")
    parser.add_argument("--embedding", default="aisfx", help="of the kernel distance, see soundctm evaluate")
    args = parser.parse_args(arguments)
    if args.metrics and args.reference is None:
        parser.error("--metrics compare with real sounds; give their folder as --reference.")
    return args


def generate(args: argparse.Namespace, state: PartialState) -> None:
    """Write the sounds that are not there yet, this process's share of them."""
    captions = read_captions(args.captions)
    dtype = getattr(torch, args.dtype)
    with state.main_process_first():  # downloads happen once
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
            remember(folder, settings)
        state.wait_for_everyone()
        missing = [name for name in captions if not (folder / f"{name}.wav").is_file()]
        state.wait_for_everyone()  # nobody writes before everybody has looked
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


def remember(folder: Path, settings: dict) -> None:
    """Keep `settings` in `folder`; `ValueError` if sounds with others are there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.exists() and json.loads(file.read_text()) != settings:
        raise ValueError(f"{folder} has sounds made with {file.read_text().strip()}; choose another --output.")
    comparison.write_json(file, settings)


def measure(args: argparse.Namespace) -> None:
    """Metrics of every number of steps, one JSON file each."""
    for steps in args.steps:
        folder = args.output / f"steps-{steps:02d}"
        results = comparison.compare(
            str(folder),
            args.reference,
            captions=args.captions,
            embedding=args.embedding,
            duration=args.seconds,
            metrics=args.metrics,
        )
        comparison.write_json(folder.with_suffix(".json"), results)
        print(f"{steps} steps\n{comparison.format_results(results)}")


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.reference is not None:  # what is missing is told now, not after the last sound
        check_metrics(args.metrics, read_captions(args.captions), args.reference)
        embeddings.load_embedding(args.embedding)
    # Told to, accelerate finds its other processes on CPUs too (`torchrun`; `accelerate launch` starts one there).
    state = PartialState(cpu=not torch.accelerator.is_available())
    generate(args, state)
    if args.reference is not None and state.is_main_process:
        measure(args)


if __name__ == "__main__":
    main()
