"""What distillation costs: a step against a plain reading of the paper, memory, reused trajectories, two processes.

python benchmarks/training.py step
python benchmarks/training.py memory
python benchmarks/training.py reuse --dataset runs/data
python benchmarks/training.py processes --dataset runs/data
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from common import print_command, print_table
from diffusers_soundctm import CTMScheduler, SoundCTMPipeline
from diffusers_soundctm.data import load_clips
from diffusers_soundctm.data.batches import TrainingData
from diffusers_soundctm.data.latents import encode_latents
from diffusers_soundctm.data.prompts import embed_captions
from diffusers_soundctm.distillation.denoisers import Denoiser, TeacherDenoiser
from diffusers_soundctm.distillation.features import FeatureSpace, feature_distance
from diffusers_soundctm.distillation.losses import adaptive_weight, denoising_loss, l2_distance
from diffusers_soundctm.distillation.objective import CTMObjective, NoisyLatents, StepLosses, Triples, jump
from diffusers_soundctm.distillation.solver import heun_solve
from diffusers_soundctm.distillation.teachers import EDM, Teacher
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas, per_sample
from diffusers_soundctm.training.ema import ema_copy, ema_update
from diffusers_soundctm.training.optimizers import make_optimizer
from networks import AUDIOLDM_S

ROOT = Path(__file__).parents[1]
CAPTIONS = [
    "rain on a tin roof", "a dog barks", "a grand piano plays a low note", "thunder rolls in the distance",
    "an engine idles, close and rough", "a bright bell, struck once", "footsteps on gravel", "a flute, held",
]  # fmt: skip
TEN_TIMES = [96, 208, 400, 816]  # block_out_channels


def embedded_teacher(block_out_channels: list[int] | None = None) -> Teacher:
    """The embedded model's teacher, or one of other widths with random weights."""
    pipe = SoundCTMPipeline.from_embedded()
    network = UNet2DConditionModel.from_pretrained(ROOT / "training" / "embedded_teacher" / "unet")
    if block_out_channels:
        network = UNet2DConditionModel.from_config({**network.config, "block_out_channels": block_out_channels})
    scheduler = CTMScheduler.from_pretrained(ROOT / "training" / "embedded_teacher" / "scheduler")
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "vocoder")}
    return Teacher(EDM, network.eval().requires_grad_(False), scheduler, parts)


class Distillation:
    """Student, target, batches and objective of a teacher, as train_ctm.py puts them together."""

    def __init__(self, teacher: Teacher, data: TrainingData, batch_size: int, num_scales: int, reuse: int, **settings):
        self.teacher, self.data, self.preconditioning = teacher, data, teacher.preconditioning
        self.student = teacher.student("zero")
        self.average = ema_copy(self.student)
        self.denoisers = [Denoiser(network, self.preconditioning) for network in (self.student, self.average)]
        self.features = FeatureSpace(teacher.network, self.preconditioning)
        config = teacher.scheduler.config
        sigmas = karras_sigmas(num_scales - 1, config.sigma_min, config.sigma_max, config.rho)
        self.stream = TripleStream(
            data, teacher.network, self.preconditioning, Grid(sigmas, reuse), batch_size=batch_size,
            rows=slice(batch_size), seed=0, **{"guidance_scale_range": (1.0, 5.0)} | settings,
        )  # fmt: skip
        self.objective = CTMObjective(*self.denoisers, self.features, self.student.conv_out)

    def step(self, number: int) -> StepLosses:
        losses = self.objective(*self.stream.at(number))
        losses.total.backward()
        return losses


class PlainReading:
    """The same step as the paper writes it down: the text encoder in every call of a denoiser, one call for each half
    of the guidance, one for each loss of the student, and both gradients of the balance from the losses themselves.

    What is drawn (start, levels, prompts, ω, score matching's noise) is taken from `run`; the solver goes anew.
    """

    def __init__(self, run: Distillation):
        self.run = run
        self.prompts = ["", *sorted(CAPTIONS)]
        draw = run.data.prompts.draw

        def remembered(*arguments):
            self.drawn = draw(*arguments)
            return self.drawn

        run.data.prompts.draw = remembered

    def encode(self, prompts: list[str]) -> dict[str, torch.Tensor | None]:
        conditioning = self.run.teacher.conditioning
        return conditioning.network_kwargs(*conditioning.encode(prompts, torch.device("cpu")))

    def batch(self, number: int) -> tuple[Triples, NoisyLatents | None, torch.Tensor]:
        """What `step` takes: batch `number` of `run`, and the levels its trajectory visits, (k + 1, B)."""
        stream = self.run.stream
        return *stream.at(number), stream.grid.sigmas[stream.pool(number)[0].visited]

    def step(self, triples: Triples, noisy: NoisyLatents | None, sigmas: torch.Tensor) -> StepLosses:
        run, prompts = self.run, [self.prompts[index] for index in self.drawn]
        student, target = run.denoisers
        teacher = Denoiser(run.teacher.network, run.preconditioning)

        def guided(sample: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            conditional = teacher(sample, sigma, **self.encode(prompts))
            unconditional = teacher(sample, sigma, **self.encode([""] * len(prompts)))
            return unconditional + per_sample(triples.guidance_scale, sample) * (conditional - unconditional)

        def conditioned() -> Triples:
            return Triples(**{**vars(triples), "network_kwargs": self.encode(prompts)})

        solved = heun_solve(guided, triples.start, sigmas)
        estimate = jump(student, triples.start, triples.sigma, triples.target_sigma, conditioned())
        with torch.no_grad():
            other = jump(target, solved, triples.solved_sigma, triples.target_sigma, conditioned())
            wanted = run.features(other, triples.target_sigma, self.encode(prompts))
        found = run.features(estimate, triples.target_sigma, self.encode(prompts))
        consistency = feature_distance(found, wanted)
        if noisy is None:
            consistency.mean().backward()
            return StepLosses(consistency.mean(), consistency.detach(), None, None)
        perturbed = noisy.clean + per_sample(noisy.sigma, noisy.noise) * noisy.noise
        # g is the jump's network output where s = t = σ'.
        condition = torch.stack([noisy.sigma, triples.guidance_scale], dim=-1)
        denoised = student(perturbed, noisy.sigma, timestep_cond=condition, **self.encode(prompts))
        settings = (run.preconditioning.sigma_data, run.preconditioning.prediction_type)
        denoising = denoising_loss(denoised, noisy.clean, noisy.sigma, *settings)
        weight = run.student.conv_out.weight
        balance = adaptive_weight(
            *(torch.autograd.grad(loss.mean(), weight, retain_graph=True)[0] for loss in (consistency, denoising))
        )
        total = consistency.mean() + balance * denoising.mean()
        total.backward()
        return StepLosses(total, consistency.detach(), denoising.detach(), balance)


def timed(function: Callable[[], object]) -> tuple[object, float]:
    """Result and seconds of CPU time, all threads together: what else the machine does is not in it."""
    start = time.process_time()
    return function(), time.process_time() - start


def compare(name: str, teacher: Teacher, num_scales: int, reuse: int, updates: int, args) -> tuple[str, ...]:
    """One row: both steps in turn on the same draws. With reuse, ours solves whole trajectories, the plain one its own
    k steps of each batch, so the losses are not those of the same triples.
    """
    generator = torch.Generator().manual_seed(0)
    latents = 0.5 * torch.randn(16, 8, args.latent_length, 16, generator=generator)
    with tempfile.TemporaryDirectory() as folder:
        prompts = embed_captions(teacher.conditioning, [[caption] for caption in CAPTIONS] * 2, folder)
    data = TrainingData(latents, prompts, teacher.conditioning)
    settings = {"denoising": reuse == 1}  # as in configs/embedded/student.yaml
    ours = Distillation(teacher, data, args.batch_size, num_scales, reuse, **settings)
    paper = ours if reuse == 1 else Distillation(teacher, data, args.batch_size, num_scales, 1, **settings)
    warm = Distillation(teacher, data, args.batch_size, 2, 1, **settings)
    plain = PlainReading(warm)  # the first calls at a shape are slow
    warm.step(0), plain.step(*plain.batch(0))
    plain.run = paper
    times, differences, steps = ([], []), [], []
    for number in range(updates):
        ours.student.zero_grad()
        mine, seconds = timed(lambda number=number: ours.step(number))
        times[0].append(seconds)
        if number % reuse:  # the plain step costs the same every time
            continue
        batch = plain.batch(number)
        steps.append(len(batch[2]) - 1)
        paper.student.zero_grad()
        theirs, seconds = timed(lambda batch=batch: plain.step(*batch))
        times[1].append(seconds)
        if reuse == 1:
            differences.append(((mine.consistency - theirs.consistency).abs() / theirs.consistency).max().item())
            differences.append(((mine.denoising - theirs.denoising).abs() / theirs.denoising).max().item())
    fast, slow = (statistics.mean(values) for values in times)
    million = sum(parameter.numel() for parameter in teacher.network.parameters()) / 1e6
    return (
        f"{name}, {million:.1f} M",
        str(num_scales),
        str(reuse),
        f"{statistics.mean(steps):.1f}",
        f"{fast:.2f}",
        f"{slow:.2f}",
        f"{slow / fast:.2f} ×",
        f"{max(differences):.0e}" if differences else "",
    )


def step(args: argparse.Namespace) -> None:
    embedded = embedded_teacher()
    rows = [
        compare("embedded", embedded, 18, 1, args.updates, args),
        compare("embedded", embedded, 18, 10, 10 * args.updates, args),
        compare("10 times as large, random", embedded_teacher(TEN_TIMES), args.large_num_scales, 1, args.updates, args),
        compare("embedded", embedded, 40, 1, args.updates, args),
    ]
    print_command()
    print(f"Batches of {args.batch_size}, float32, CPU seconds a step, both in turn on the same draws.\n")
    print_table(
        ["network", "N", "K", "mean k", "train_ctm.py", "plain reading", "faster", "largest difference of a loss"], rows
    )
    print("\nWith K = 10, without score matching; the plain reading solves k steps for every update.")


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(float(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def saved_bytes(function: Callable[[], object], network: torch.nn.Module) -> float:
    """Bytes that autograd keeps for the backward pass of `function`, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = function()
    del held
    return sum(kept.values())


def memory(args: argparse.Namespace) -> None:
    baseline = resident("VmRSS")
    scheduler = CTMScheduler(prediction_type="epsilon")
    network = UNet2DConditionModel(**AUDIOLDM_S).eval().requires_grad_(False)
    teacher = Teacher(EDM, network, scheduler)
    config = {key: scheduler.config[key] for key in ("prediction_type", "beta_start", "beta_end", "beta_schedule")}
    student = EDM.student_class.from_teacher(network, branch_init="zero", **config)
    student.enable_gradient_checkpointing()
    network.to(torch.bfloat16)
    average = ema_copy(student)
    optimizer = make_optimizer(student.parameters())
    preconditioning = teacher.preconditioning
    features = FeatureSpace(network, preconditioning)
    objective = CTMObjective(
        Denoiser(student, preconditioning), Denoiser(average, preconditioning), features, student.conv_out
    )

    batch, shape = args.batch_size, (args.batch_size, 8, args.latent_length, 16)
    omega, sigmas = torch.full((batch,), 3.5), torch.tensor([[20.0], [5.0], [1.0]]).expand(-1, batch)
    condition = {"encoder_hidden_states": None, "class_labels": torch.randn(batch, 512)}
    both_halves = {"encoder_hidden_states": None, "class_labels": torch.randn(2 * batch, 512)}
    guided = TeacherDenoiser(network, preconditioning, both_halves, omega)

    def update() -> None:
        start = 20 * torch.randn(shape)
        solved = heun_solve(guided, start, sigmas[:2])
        triples = Triples(start, sigmas[0], solved, sigmas[1], sigmas[2], omega, condition)
        noisy = NoisyLatents(torch.randn(shape), torch.full((batch,), 2.0), torch.randn(shape))
        with torch.autocast("cpu", torch.bfloat16):
            losses = objective(triples, noisy)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1000.0)
        optimizer.step()
        ema_update(average, student, 0.999)
        student.zero_grad(set_to_none=True)

    for parameter in student.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its states
    student.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    update()
    peak = resident("VmHWM") - baseline
    point = torch.randn(shape, requires_grad=True)
    activations = saved_bytes(lambda: features(point, sigmas[2], condition), network)

    count = {name: sum(p.numel() for p in net.parameters()) for name, net in [("s", student), ("t", network)]}
    terms = {
        "student, float32": 4 * count["s"],
        "target, float32": 4 * count["s"],
        "teacher, bfloat16": 2 * count["t"],
        "RAdam's two moments, float32": 8 * count["s"],
        "one activation set: what the teacher's features keep": activations,
    }
    needed = sum(terms.values())
    rows = [(name, f"{value / 1e9:.2f}") for name, value in terms.items()]
    rows += [("sum", f"{needed / 1e9:.2f}"), ("measured peak of a step", f"{peak / 1e9:.2f}")]
    rows += [("peak ÷ sum", f"{peak / needed:.2f}"), ("gradients, not in the sum", f"{4 * count['s'] / 1e9:.2f}")]
    print_command()
    seconds = args.latent_length * 0.04
    print(
        f"AudioLDM-S ({count['t'] / 1e6:.0f} M, random weights), bfloat16, checkpointing, {batch} × {seconds:.2f} s.\n"
    )
    print_table(["memory", "GB"], rows)


def clips_of(teacher: Teacher, args: argparse.Namespace, split: str, count: int) -> TrainingData:
    cache = Path(args.cache)
    clips = load_clips(args.dataset, split=split, max_samples=count, cache_dir=cache)
    latents = encode_latents(teacher.components["vae"], clips, cache, front_end=teacher.encoders.front_end)
    return TrainingData(latents, embed_captions(teacher.conditioning, clips.captions, cache), teacher.conditioning)


@torch.no_grad()
def held_out(
    teacher: Teacher, data: TrainingData, num_scales: int, batch_size: int
) -> Callable[[torch.nn.Module], float]:
    """How far a student's jumps to σ_min land from the teacher's own solution, ω = 3, mean square in latent space."""
    settings = {"guidance_scale_range": (3.0, 3.0), "denoising": False}
    run = Distillation(teacher, data, batch_size, num_scales, 2, **settings)
    (solved,) = run.stream.pool(0)
    sigmas = run.stream.grid.sigmas
    starts = range(0, num_scales - 1, 2)

    @torch.no_grad()
    def error(student: torch.nn.Module) -> float:
        denoiser, total = Denoiser(student, teacher.preconditioning), 0.0
        for start in starts:
            sigma = sigmas[start].expand(batch_size)
            end = sigmas[-1].expand(batch_size)
            triples = Triples(solved.points[start], sigma, solved.points[-1], end, end, solved.guidance_scale,
                              solved.network_kwargs)  # fmt: skip
            total += l2_distance(jump(denoiser, triples.start, sigma, end, triples), solved.points[-1]).mean().item()
        return total / len(starts)

    return error


def reuse(args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    teacher = embedded_teacher()
    error = held_out(teacher, clips_of(teacher, args, "test", 8), args.num_scales, 8)
    data = clips_of(teacher, args, "train", 64)
    curves: dict[int, list[tuple[int, float, float]]] = {}
    for count in (1, 4):
        run = Distillation(teacher, data, args.batch_size, args.num_scales, count, denoising=False)
        optimizer = make_optimizer(run.student.parameters(), learning_rate=args.learning_rate)
        curves[count], spent = [(0, 0.0, error(run.average))], 0.0

        def update(number: int, run: Distillation = run, optimizer: torch.optim.Optimizer = optimizer) -> None:
            run.step(number)
            optimizer.step()
            optimizer.zero_grad()
            ema_update(run.average, run.student, 0.9)

        for number in range(args.updates * (1 if count == 1 else 3)):
            spent += timed(lambda number=number, update=update: update(number))[1]
            if (number + 1) % 4 == 0:
                curves[count].append((number + 1, spent, error(run.average)))
    limit = curves[1][-1][1]
    rows = []
    for count, curve in curves.items():
        same_updates = next(point for point in curve if point[0] >= curves[1][-1][0])
        same_time = [point for point in curve if point[1] <= limit][-1]
        rows.append((str(count), f"{same_updates[1] / same_updates[0]:.2f}", f"{same_updates[2]:.4f}",
                     f"{same_time[2]:.4f} ({same_time[0]} updates)"))  # fmt: skip
    print_command()
    print(f"Held-out distance to the teacher's solution before training: {curves[1][0][2]:.4f}\n")
    print_table(["K", "CPU s an update", f"distance after {curves[1][-1][0]} updates", "after the same time"], rows)


def processes(args: argparse.Namespace) -> None:
    rows = []
    embedded = ROOT / "src" / "diffusers_soundctm" / "embedded"
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder) / "text_encoder"
        pipe = SoundCTMPipeline.from_embedded()
        pipe.text_encoder.save_pretrained(encoder)
        pipe.tokenizer.save_pretrained(encoder)
        options = {
            "teacher_model": ROOT / "training" / "embedded_teacher", "vae": embedded / "vae", "text_encoder": encoder,
            "dataset_name": args.dataset, "max_train_samples": 64, "cache_dir": args.cache, "mixed_precision": "no",
            "num_scales": args.num_scales, "denoising_weight": 0, "train_batch_size": args.batch_size,
            "max_train_steps": args.updates, "checkpointing_steps": 10**6,
        }  # fmt: skip
        for count in (1, 2):
            output = Path(folder) / str(count)
            launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
            command = [sys.executable, *launch, str(ROOT / "training" / "train_ctm.py"), f"--output_dir={output}"]
            command += [f"--{name}={value}" for name, value in options.items()]
            settings = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(2 // count)}
            subprocess.run(command, check=True, env={**os.environ, **settings})
            record = json.loads((output / "training.json").read_text())
            solver = record["seconds_in_solver"] / record["seconds"]
            rows.append(
                (str(record["processes"]), str(2 // count), f"{args.updates / record['seconds']:.3f}", f"{solver:.0%}")
            )
    count = sum(parameter.numel() for parameter in pipe.unet.parameters())
    speedup = float(rows[1][2]) / float(rows[0][2])
    print_command()
    print_table(["processes", "threads each", "steps per second", "of it in the solver"], rows)
    print(f"\n2 processes are {speedup:.2f} × as fast. They exchange {4 * count / 1e6:.0f} MB of gradients a step.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, updates in ((step, 3), (memory, 1), (reuse, 16), (processes, 10)):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        command.add_argument("--batch_size", type=int, default=1 if function is memory else 4)
        command.add_argument("--updates", type=int, default=updates)
        command.add_argument("--latent_length", type=int, default=128, help="25 a second")
        command.add_argument("--threads", type=int, default=2)
        if function is step:
            command.add_argument("--large_num_scales", type=int, default=18, help="N of the large network")
        if function in (reuse, processes):
            command.add_argument("--dataset", required=True)
            command.add_argument("--cache", default="runs/cache")
            command.add_argument("--num_scales", type=int, default=18)
            command.add_argument("--learning_rate", type=float, default=3e-4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.function(args)


if __name__ == "__main__":
    main()
