"""How close a student stays to its teacher's own trajectories, without generating audio.

For prompts and noise that both share: the distance of the student's latents to the teacher's solution (Heun, 40
intervals) at 1, 2, 4, 8 and 16 steps, the effective guidance by noise level, the error of g(t, t), and the error of
jumps by (t, s). Captions of the test split are unseen ones; --captions FILE takes others, one per line.

    python benchmarks/trajectory.py --dataset runs/data --teacher training/embedded_teacher
    python benchmarks/trajectory.py --dataset runs/data --split train --student runs/student/unet
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from common import PAIR, print_command, print_table
from diffusers_soundctm import CTMScheduler, CTMUNet2DConditionModel, SoundCTMPipeline
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.diagnostics import Solution, TrajectoryComparison, solve_teacher
from diffusers_soundctm.pipelines.conditioning import conditioning_for


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="training/embedded_teacher", help="folder of the teacher")
    parser.add_argument("--pipeline", help="folder or Hub id of the pipeline (the embedded model)")
    parser.add_argument("--student", nargs="*", default=[], help="folders of more student networks to compare")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataset", help="data set with captions and labels; one caption per class is drawn")
    source.add_argument("--captions", type=Path, help="text file, one caption per line")
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument("--prompts", type=int, default=32, help="number of prompts")
    parser.add_argument("--guidance_scale", type=float, default=3.5)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def draw_prompts(args: argparse.Namespace) -> list[str]:
    """`args.prompts` captions, spread over the classes of the data set."""
    generator = np.random.default_rng(args.seed)
    if args.captions is not None:
        lines = [line.strip() for line in args.captions.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        return [str(line) for line in generator.permutation(lines)[: args.prompts]]
    files = sorted(Path(args.dataset).glob(f"{args.split}-*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file, columns=["caption", "label"]).to_pylist()]
    captions: dict[str, list[str]] = {}
    for row in rows:
        if PAIR not in row["label"]:
            captions.setdefault(row["label"], []).extend(row["caption"])
    labels = generator.permutation(sorted(captions)).tolist()
    chosen = [labels[i % len(labels)] for i in range(args.prompts)]
    return [str(generator.choice(captions[label])) for label in chosen]


def solutions(args: argparse.Namespace, pipe: SoundCTMPipeline, prompts: list[str]) -> Iterator[Solution]:
    """The teacher's trajectories for the prompts, batch by batch."""
    network = UNet2DConditionModel.from_pretrained(args.teacher, subfolder="unet", torch_dtype=torch.float32).eval()
    scheduler = CTMScheduler.from_pretrained(args.teacher, subfolder="scheduler")
    conditioning = conditioning_for(network)
    shape = pipe.latent_shape(round(pipe.default_audio_length_in_s * pipe.sampling_rate))
    settings = scheduler.config
    for start in tqdm(range(0, len(prompts), args.batch_size), desc="teacher", unit="batch"):
        some = prompts[start : start + args.batch_size]
        noise = torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(args.seed + start + i))
                for i in range(len(some))
            ]
        )
        embeds, mask, no_embeds, no_mask = pipe.encode_prompt(some)
        both = torch.cat([embeds, no_embeds]), None if mask is None else torch.cat([mask, no_mask])
        yield solve_teacher(
            network,
            Preconditioning.from_scheduler(scheduler),
            noise,
            conditioning.network_kwargs(embeds, mask),
            conditioning.guided_kwargs(*both),
            args.guidance_scale,
            settings.sigma_min,
            settings.sigma_max,
            settings.rho,
        )


def main() -> None:
    args = parse_args()
    prompts = draw_prompts(args)
    pipe = SoundCTMPipeline.from_pretrained(args.pipeline) if args.pipeline else SoundCTMPipeline.from_embedded()
    networks = {args.pipeline or "embedded": pipe.denoiser}
    networks |= {folder: CTMUNet2DConditionModel.from_pretrained(folder).eval() for folder in args.student}
    comparisons = {name: TrajectoryComparison() for name in networks}
    for solution in solutions(args, pipe, prompts):
        for name, network in networks.items():
            comparisons[name].add(Denoiser(network, Preconditioning.from_scheduler(pipe.scheduler)), solution)
    print_command()
    print(f"{len(prompts)} prompts of the {args.split} split, guidance {args.guidance_scale:g}.\n")
    counts = list(next(iter(comparisons.values())).distance)
    print_table(
        ["distance to the teacher's solution", *[f"{count} steps" for count in counts]],
        [[name, *[f"{value:.3f}" for value in c.distance.values()]] for name, c in comparisons.items()],
    )
    sigmas = list(next(iter(comparisons.values())).estimate_error)
    for omega in (2.0, 3.5, 5.0):
        print()
        print_table(
            [f"effective guidance, {omega:g} asked", *[f"σ {sigma:.3g}" for sigma in sigmas]],
            [
                [name, *[f"{c.effective_guidance[omega, sigma]:.2f}" for sigma in sigmas]]
                for name, c in comparisons.items()
            ],
        )
    print()
    print_table(
        ["relative error of g(t, t)", *[f"σ {sigma:.3g}" for sigma in sigmas]],
        [[name, *[f"{value:.3f}" for value in c.estimate_error.values()]] for name, c in comparisons.items()],
    )
    print()
    print_table(
        ["error of jumps, units of F", *[f"{t:.3g} → {s:.3g}" for t, s in next(iter(comparisons.values())).jump_error]],
        [[name, *[f"{value:.3f}" for value in c.jump_error.values()]] for name, c in comparisons.items()],
    )


if __name__ == "__main__":
    main()
