"""How good the sounds are: recognition, kernel distance, pairs of sounds, refinement, fidelity, and what ν and ω do.

Captions are those of the test split, which training never saw, or with `--split train` those that it saw. Embeddings of
generated sounds are kept under --output by weights, setting, prompt and seed: an interrupted run resumes, and tables
share their sounds.

    python benchmarks/quality.py recognition --dataset data --teacher runs/teacher/unet
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer

from common import (
    PAIR,
    SAMPLING_RATE,
    digest,
    print_command,
    print_table,
    real_embeddings,
    save_arrays,
    single_probe,
    single_sounds,
)
from diffusers_soundctm import CTMScheduler, CTMUNet2DConditionModel, ISTFTVocoder, SoundCTMPipeline
from diffusers_soundctm.distillation import TeacherDenoiser, sample_teacher
from diffusers_soundctm.distillation.denoisers import Preconditioning
from diffusers_soundctm.evaluation import Estimate, LinearProbe, fraction_interval, kernel_distance, load_embedding
from diffusers_soundctm.files import write_json
from diffusers_soundctm.pipelines.conditioning import conditioning_for

TEACHER_STEPS = 18
# Prompts of a class repeat this often with other seeds: refinement compares seeds of one prompt.
SEEDS_PER_PROMPT = 4


@dataclass(frozen=True)
class Setting:
    """What makes a sound of a prompt and a seed: "student", "teacher" (Heun steps), "undistilled" (it in one step)."""

    model: str = "student"
    steps: int = 1
    nu: float = 1.0
    omega: float = 3.5

    def __str__(self) -> str:
        return f"{self.model}-{self.steps}-nu{self.nu:g}-omega{self.omega:g}"


@dataclass(frozen=True)
class Prompts:
    """What to generate: for each sound its caption, seed, and the class (or both classes) it should be heard as."""

    captions: list[str]
    seeds: list[int]
    labels: list[str]


class SoundMaker:
    """Generates sounds and keeps their embeddings."""

    def __init__(self, args: argparse.Namespace):
        self.teacher = None
        if args.teacher is not None:
            self.teacher = UNet2DConditionModel.from_pretrained(args.teacher).eval()
        self.pipe = load_pipeline(args, self.teacher)
        self.pipe.set_progress_bar_config(disable=True)
        dtype = getattr(torch, args.dtype)
        for network in (self.pipe.denoiser, self.teacher):
            if network is not None:
                network.to(dtype)
        self.embedding = load_embedding()
        self.folder = args.output / "sounds"
        self.batch_size = args.batch_size
        decoder = digest(self.pipe.vae, self.pipe.vocoder, self.pipe.text_encoder)
        self.fingerprints = {
            "student": digest(self.pipe.denoiser) + decoder,
            "teacher": digest(self.teacher) + decoder if self.teacher is not None else None,
        }
        self.fingerprints["undistilled"] = self.fingerprints["teacher"]

    def embeddings(self, setting: Setting, prompts: Prompts) -> np.ndarray:
        """Embeddings (N, D) of the sounds of all prompts, generated where they are not yet kept."""
        pieces = []
        starts = range(0, len(prompts.captions), self.batch_size)
        for start in tqdm(starts, desc=str(setting), unit="batch"):
            captions = prompts.captions[start : start + self.batch_size]
            seeds = prompts.seeds[start : start + self.batch_size]
            key = json.dumps([self.fingerprints[setting.model], str(self.pipe.denoiser.dtype), captions, seeds])
            path = self.folder / str(setting) / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
            if not path.exists():
                waveforms = self.waveforms(setting, captions, seeds)
                save_arrays(path, embeddings=self.embedding.embed(waveforms, SAMPLING_RATE))
            pieces.append(np.load(path)["embeddings"])
        return np.concatenate(pieces)

    @torch.inference_mode()
    def waveforms(self, setting: Setting, captions: list[str], seeds: list[int]) -> np.ndarray:
        """Sounds (B, samples). A seed is the same noise for every setting."""
        pipe = self.pipe
        num_samples = round(pipe.default_audio_length_in_s * pipe.sampling_rate)
        shape = pipe.latent_shape(num_samples)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        if setting.model == "student":
            audios = pipe(
                captions,
                num_inference_steps=setting.steps,
                nu=setting.nu,
                guidance_scale=setting.omega,
                latents=noise,
                audio_length_in_s=pipe.default_audio_length_in_s,
            ).audios
            return audios[:, 0]
        embeds, mask, no_embeds, no_mask = pipe.encode_prompt(captions)
        # A student's conditioning is its teacher's.
        kwargs = conditioning_for(self.teacher).guided_kwargs(
            torch.cat([embeds, no_embeds]), None if mask is None else torch.cat([mask, no_mask])
        )
        guidance_scale = torch.full((len(captions),), setting.omega)
        denoise = TeacherDenoiser(self.teacher, Preconditioning.from_scheduler(pipe.scheduler), kwargs, guidance_scale)
        sigma_max = pipe.scheduler.config.sigma_max
        if setting.model == "undistilled":
            latents = denoise(sigma_max * noise, torch.full((len(captions),), sigma_max))
        else:
            levels = {name: pipe.scheduler.config[name] for name in ("sigma_min", "sigma_max", "rho")}
            latents = sample_teacher(denoise, noise, setting.steps, **levels)
        mel = pipe.decode_latents(latents)
        return pipe.mel_spectrogram_to_waveform(mel)[:, 0, :num_samples].numpy()


def load_pipeline(args: argparse.Namespace, teacher: UNet2DConditionModel | None) -> SoundCTMPipeline:
    """A pipeline folder, the embedded model, or one put together from what training wrote."""
    if args.vae is None:
        pipe = SoundCTMPipeline.from_pretrained(args.pipeline) if args.pipeline else SoundCTMPipeline.from_embedded()
        if args.unet is not None:
            pipe.register_modules(unet=CTMUNet2DConditionModel.from_pretrained(args.unet).eval())
        return pipe
    if args.unet is not None:
        unet = CTMUNet2DConditionModel.from_pretrained(args.unet)
    else:
        unet = CTMUNet2DConditionModel.from_teacher(teacher)
    return SoundCTMPipeline(
        vae=AutoencoderKL.from_pretrained(args.vae).eval(),
        text_encoder=AutoModel.from_pretrained(args.text_encoder).eval(),
        tokenizer=AutoTokenizer.from_pretrained(args.text_encoder),
        unet=unet.eval(),
        scheduler=CTMScheduler(),
        vocoder=ISTFTVocoder.from_pretrained(args.vocoder).eval(),
    )


def plan_single(captions: Sequence[list[str]], labels: Sequence[str], seeds_per_class: int) -> Prompts:
    """`seeds_per_class` sounds of each class: its captions in the test split in turn, each with a few seeds."""
    plan = Prompts([], [], [])
    for index, label in enumerate(sorted({label for label in labels if PAIR not in label})):
        of_class = [some for some, name in zip(captions, labels, strict=True) if name == label]
        of_label = sorted({caption for some in of_class for caption in some})
        np.random.default_rng(index).shuffle(of_label)
        for seed in range(seeds_per_class):
            plan.captions.append(of_label[seed // SEEDS_PER_PROMPT % len(of_label)])
            plan.seeds.append(1000 * index + seed)
            plan.labels.append(label)
    return plan


def balanced(labels: Sequence[str], per_class: int, seed: int = 0) -> np.ndarray:
    """Indices of `per_class` clips of each class, or of the fewest that a class has."""
    generator = np.random.default_rng(seed)
    names, counts = np.unique(labels, return_counts=True)
    chosen = [
        generator.permutation(np.flatnonzero(np.asarray(labels) == name))[: min(per_class, counts.min())]
        for name in names
    ]
    return np.concatenate(chosen)


def percent(hits: np.ndarray) -> str:
    """Fraction of booleans with its 95 % interval."""
    low, high = fraction_interval(hits)
    return f"{hits.mean():.1%} [{low:.1%}, {high:.1%}]"


def thousandths(distance: Estimate) -> str:
    """A kernel distance times 1000, with its 95 % interval."""
    return f"{1000 * distance.value:.2f} [{1000 * distance.low:.2f}, {1000 * distance.high:.2f}]"


def student(args: argparse.Namespace, steps: int) -> Setting:
    """The student at the first --nu and --omega."""
    return Setting("student", steps, args.nu[0], args.omega[0])


def settings(args: argparse.Namespace, maker: SoundMaker) -> list[tuple[str, Setting]]:
    """What the tables compare: the student at --steps, and its teacher if there is one, in many steps and in one."""
    compared = [(f"student, {steps} step{'s' * (steps > 1)}", student(args, steps)) for steps in args.steps]
    if maker.teacher is not None:
        if args.teacher_steps:
            setting = Setting("teacher", args.teacher_steps, omega=args.omega[0])
            compared.append((f"teacher, {args.teacher_steps} Heun steps", setting))
        compared.append(("teacher, 1 step (undistilled)", Setting("undistilled", omega=args.omega[0])))
    return compared


class Measure:
    """Real clips to fit a probe on and to hold generated sounds against, and the maker of those."""

    def __init__(self, args: argparse.Namespace):
        self.cache = args.cache
        train = real_embeddings(args.dataset, "train", args.cache, args.train_clips)
        test = real_embeddings(args.dataset, "test", args.cache)
        self.train, self.train_labels, _ = train
        self.test, self.test_labels, _ = test
        # The clips whose captions are asked for.
        self.asked, self.labels, self.captions = {"train": train, "test": test}[args.split]
        self.maker = SoundMaker(args)

    def probe(self) -> LinearProbe:
        """Knows single sounds."""
        return single_probe(self.train, self.train_labels, self.cache)

    def prompts(self, seeds_per_class: int) -> Prompts:
        """Captions of every class, of the split that --split names."""
        return plan_single(self.captions, self.labels, seeds_per_class)

    def reference(self) -> np.ndarray:
        """As many held-out clips of every class, at most 20: the classes are mixed as in the generated sounds."""
        embeddings, labels = single_sounds(self.test, self.test_labels)
        return embeddings[balanced(labels, 20)]


def recognition(args: argparse.Namespace) -> None:
    """Recognition and kernel distance by steps, of the teacher, of the teacher in one step, and of real sounds."""
    measure = Measure(args)
    probe, prompts, reference = measure.probe(), measure.prompts(args.seeds_per_class), measure.reference()
    labels = np.array(prompts.labels)
    results, rows = {}, []

    def add(name: str, embeddings: np.ndarray, labels: np.ndarray, distance: Estimate | None) -> None:
        hits = probe.recognized(embeddings, labels)
        results[name] = {
            "n": len(hits),
            "recognized": float(hits.mean()),
            "recognized_interval": fraction_interval(hits),
            "top_3": float(probe.recognized(embeddings, labels, k=3).mean()),
            "recognized_by_class": {label: float(hits[labels == label].mean()) for label in sorted(set(labels))},
        }
        if distance is not None:
            results[name] |= {"kernel_distance": distance.value, "interval": [distance.low, distance.high]}
            replicates[name] = distance.replicates
        shown = "" if distance is None else thousandths(distance)
        rows.append((name, len(hits), percent(hits), f"{results[name]['top_3']:.1%}", shown))

    replicates: dict[str, np.ndarray] = {}
    add("held-out real clips", *single_sounds(measure.test, measure.test_labels), None)
    train, train_labels = single_sounds(measure.train, measure.train_labels)
    chosen = balanced(train_labels, 20)
    add("training clips", train[chosen], train_labels[chosen], kernel_distance(train[chosen], reference))
    compared = settings(args, measure.maker)
    for name, setting in compared:
        embeddings = measure.maker.embeddings(setting, prompts)
        add(name, embeddings, labels, kernel_distance(embeddings, reference))

    print_command()
    seeds = f"{args.seeds_per_class} seeds per class"
    print(f"{len(set(prompts.labels))} classes, {seeds}, captions of the {args.split} split.\n")
    print_table(["sounds", "n", "recognized", "in top 3", "kernel distance × 1000 to held-out clips"], rows)
    names = [name for name, setting in compared if setting.model == "student"]
    print("\nChange of the kernel distance × 1000 with the steps (same seeds, paired bootstrap, 95 %):\n")
    changes = []
    for fewer, more in pairwise(names):
        low, high = np.quantile(replicates[more] - replicates[fewer], (0.025, 0.975))
        change = results[more]["kernel_distance"] - results[fewer]["kernel_distance"]
        changes.append((f"{fewer} → {more}", f"{1000 * change:+.2f} [{1000 * low:+.2f}, {1000 * high:+.2f}]"))
    print_table(["from → to", "change"], changes)
    shown = names[0] if names else compared[0][0]
    weak = sorted(results[shown]["recognized_by_class"].items(), key=lambda item: item[1])[:12]
    print(f"\nLeast recognized, {shown}: {', '.join(f'{label} {value:.0%}' for label, value in weak)}")
    write_json(args.output / "recognition.json", results)


def pairs(args: argparse.Namespace) -> None:
    """Two sounds in one prompt, seen apart but never together: are both among the probe's two best classes?"""
    measure = Measure(args)
    probe = LinearProbe.fit_each(measure.train, [label.split(PAIR) for label in measure.train_labels])
    mixtures = [i for i, label in enumerate(measure.labels) if PAIR in label]
    prompts = Prompts(
        [measure.captions[i][0] for i in mixtures], list(range(len(mixtures))), list(measure.labels[mixtures])
    )
    results, rows = {}, []

    def add(name: str, embeddings: np.ndarray) -> None:
        found = np.array(
            [
                [part in best for part in label.split(PAIR)]
                for label, best in zip(prompts.labels, probe.predict(embeddings, k=2), strict=True)
            ]
        )
        both = found.all(axis=1)
        results[name] = {"n": len(both), "both": float(both.mean()), "interval": fraction_interval(both)}
        rows.append((name, len(both), percent(both), f"{found.any(axis=1).mean():.1%}"))

    add(f"real mixtures of the {args.split} split", measure.asked[mixtures])
    for name, setting in settings(args, measure.maker):
        add(name, measure.maker.embeddings(setting, prompts))
    print_command()
    print_table(["sounds", "n", "both found", "at least one"], rows)
    write_json(args.output / "pairs.json", results)


def refinement(args: argparse.Namespace) -> None:
    """Is the 16-step sound of a seed the 1-step sound, refined? Cosine of embeddings standardized by real clips."""
    measure = Measure(args)
    probe, prompts = measure.probe(), measure.prompts(args.seeds_per_class)

    draft, refined = (
        directions(probe, measure.maker.embeddings(student(args, steps), prompts))
        for steps in (min(args.steps), max(args.steps))
    )
    captions, seeds = np.array(prompts.captions), np.array(prompts.seeds)
    same = (draft * refined).sum(1)
    other_seed = (captions[:, None] == captions) & (seeds[:, None] != seeds)
    different = (draft @ refined.T)[other_seed]
    by_prompt = [
        np.median(same[captions == c]) > np.quantile((draft @ refined.T)[other_seed & (captions == c)[:, None]], 0.95)
        for c in sorted(set(prompts.captions))
    ]
    print_command()
    print_table(
        ["pairs of a 1-step and a 16-step sound", "n", "5 %", "median", "95 %"],
        [
            (name, len(values), *(f"{np.quantile(values, q):.3f}" for q in (0.05, 0.5, 0.95)))
            for name, values in (("same seed", same), ("same prompt, different seeds", different))
        ],
    )
    print(
        f"\nFor {np.mean(by_prompt):.0%} of {len(by_prompt)} prompts alone, the same-seed median is above their 95 %."
    )
    write_json(
        args.output / "refinement.json",
        {
            "same_seed_median": float(np.median(same)),
            "different_seeds_95": float(np.quantile(different, 0.95)),
            "prompts_holding": float(np.mean(by_prompt)),
        },
    )


def fidelity(args: argparse.Namespace) -> None:
    """Is the student's sound its teacher's own of the same noise? Cosine of embeddings standardized by real clips."""
    measure = Measure(args)
    if measure.maker.teacher is None or not args.teacher_steps:
        raise SystemExit("fidelity is to a teacher: name its folder, --teacher UNET, and --teacher-steps above 0")
    probe, prompts, reference = measure.probe(), measure.prompts(args.seeds_per_class), measure.reference()
    wanted = measure.maker.embeddings(Setting("teacher", args.teacher_steps, omega=args.omega[0]), prompts)
    results, rows = {}, []
    for steps in args.steps:
        embeddings = measure.maker.embeddings(student(args, steps), prompts)
        cosine = (directions(probe, embeddings) * directions(probe, wanted)).sum(1).mean()
        distance = kernel_distance(embeddings, reference)
        results[steps] = {"cosine": float(cosine), "kernel_distance": distance.value}
        rows.append((steps, len(embeddings), f"{cosine:.3f}", thousandths(distance)))
    print_command()
    print_table(["steps", "n", "mean cosine to the teacher's sound", "kernel distance × 1000"], rows)
    write_json(args.output / "fidelity.json", results)


def directions(probe: LinearProbe, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D), standardized by real clips, to unit length."""
    standardized = (embeddings - probe.mean) / probe.scale
    return standardized / np.linalg.norm(standardized, axis=1, keepdims=True)


def guidance(args: argparse.Namespace) -> None:
    """Recognition and kernel distance over ν and ω."""
    measure = Measure(args)
    probe, prompts, reference = measure.probe(), measure.prompts(args.seeds_per_class), measure.reference()
    cells = {}
    for nu in args.nu:
        for omega in args.omega:
            x = measure.maker.embeddings(Setting("student", args.steps[0], nu, omega), prompts)
            cells[nu, omega] = probe.recognized(x, prompts.labels), kernel_distance(x, reference)
    print_command()
    print(f"{len(prompts.labels)} sounds a cell, {args.steps[0]} step(s).")
    for title, show in (
        ("Recognized", lambda cell: f"{cell[0].mean():.1%}"),
        ("Kernel distance × 1000", lambda cell: f"{1000 * cell[1].value:.2f}"),
    ):
        print(f"\n{title}:\n")
        rows = [[f"ν = {nu:g}", *(show(cells[nu, omega]) for omega in args.omega)] for nu in args.nu]
        print_table(["", *(f"ω = {omega:g}" for omega in args.omega)], rows)
    write_json(
        args.output / "guidance.json",
        [
            {"nu": nu, "omega": omega, "recognized": float(hits.mean()), "kernel_distance": distance.value}
            for (nu, omega), (hits, distance) in cells.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="table")
    tables = {
        recognition: {"steps": [1, 2, 4, 8, 16], "nu": [1], "omega": [3.5]},
        pairs: {"steps": [1, 4], "nu": [1], "omega": [3.5]},
        refinement: {"steps": [1, 16], "nu": [1], "omega": [3.5]},
        fidelity: {"steps": [1, 4, 16], "nu": [1], "omega": [3.5]},
        guidance: {"steps": [1], "nu": [0, 0.5, 1, 1.5, 2], "omega": [2, 2.75, 3.5, 4.25, 5]},
    }
    for table, defaults in tables.items():
        command = commands.add_parser(table.__name__, help=table.__doc__.splitlines()[0])
        command.set_defaults(table=table)
        command.add_argument("--dataset", required=True, help="data set with splits train and test and a column label")
        command.add_argument("--cache", type=Path, required=True, help="folder of embeddings of real clips")
        command.add_argument("--train-clips", type=int, help="fit the probe on the first so many training clips (all)")
        command.add_argument("--split", choices=("test", "train"), default="test", help="split of the captions")
        command.add_argument("--output", type=Path, required=True, help="folder of results and generated embeddings")
        command.add_argument("--pipeline", help="folder or Hub id (the embedded model)")
        command.add_argument("--unet", help="folder of another student network to put into the pipeline")
        command.add_argument("--teacher", help="folder of the teacher network, to compare with")
        command.add_argument(
            "--teacher-steps", type=int, default=TEACHER_STEPS, help="of Heun's method (%(default)s); 0 leaves it out"
        )
        command.add_argument("--vae", help="folder: put a pipeline together, with --vocoder and --text-encoder")
        command.add_argument("--vocoder", help="folder")
        command.add_argument("--text-encoder", help="folder or Hub id")
        command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the networks")
        command.add_argument("--batch-size", type=int, default=10)
        command.add_argument("--seeds-per-class", type=int, default=20)
        command.add_argument("--steps", type=int, nargs="*", default=defaults["steps"], help="of the student")
        command.add_argument("--nu", type=float, nargs="+", default=defaults["nu"])
        command.add_argument("--omega", type=float, nargs="+", default=defaults["omega"])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    args.table(args)


if __name__ == "__main__":
    main()
