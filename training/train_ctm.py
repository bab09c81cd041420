"""Distil a text-to-sound diffusion teacher into a SoundCTM student.

accelerate launch training/train_ctm.py --teacher_model cvssp/audioldm-s-full-v2 --dataset_name my_sounds \
    --output_dir runs/student
python training/train_ctm.py --config training/configs/embedded/student.yaml --teacher_model runs/teacher \
    --dataset_name data --vae runs/autoencoder/vae --text_encoder text_encoder --output_dir runs/student

The teacher is a folder or Hub id of an AudioLDM, MusicLDM, AudioLDM2, Tango or Stable Audio pipeline, or what
train_teacher.py wrote. Defaults are the paper's. `output_dir/unet` holds the moving average of the weights, which is
the model; where there is a vocoder, or none is needed, the whole `output_dir` is a `SoundCTMPipeline`. With
`--lora_rank` it holds an adapter of a few MB, for `SoundCTMPipeline.from_teacher(...).load_lora_weights`.
SIGTERM and SIGUSR1, sent to the script and not to its launcher, write a checkpoint and end the run with exit code 0.
"""

import argparse
import json
import math
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.optimization import SchedulerType, get_scheduler
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.data.latents import fingerprint
from diffusers_soundctm.data.sampling import step_generator
from diffusers_soundctm.data.sources import default_num_samples, distillation_data
from diffusers_soundctm.distillation.denoisers import Denoiser
from diffusers_soundctm.distillation.features import FeatureSpace
from diffusers_soundctm.distillation.objective import FEATURE_DISTANCES, CTMObjective, micro_batches
from diffusers_soundctm.distillation.teachers import Teacher, load_teacher
from diffusers_soundctm.distillation.trajectories import DENOISING_LEVELS, DENOISING_TARGETS, Grid, TripleStream
from diffusers_soundctm.lora import add_lora, save_lora
from diffusers_soundctm.preconditioning import karras_sigmas
from diffusers_soundctm.training.checkpoints import (
    remove_unfinished,
    resume,
    run_identity,
    save_checkpoint,
    save_model,
    set_learning_rate,
)
from diffusers_soundctm.training.config import (
    PRESETS,
    add_data_arguments,
    add_run_arguments,
    add_stream_arguments,
    parse_with_config,
)
from diffusers_soundctm.training.ema import ema_update
from diffusers_soundctm.training.optimizers import OPTIMIZERS, make_optimizer, scaler_state, step_if_finite
from diffusers_soundctm.training.preflight import (
    TRACKERS,
    check_arguments,
    check_output_dir,
    check_processes,
    check_run,
    make_accelerator,
    teacher_dtype,
)
from diffusers_soundctm.training.publish import publish
from diffusers_soundctm.training.sharding import Networks, process_rows
from diffusers_soundctm.training.signals import STOPPED, RunningLosses, SkippedSteps, StopSignal
from diffusers_soundctm.training.validation import STEPS, log_sounds, make_sounds

FP16_GRADIENT_SCALE = 2.0**14


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), help="a published recipe's objective and optimisation")
    add_data_arguments(parser)
    # A pipeline brings these along.
    parser.set_defaults(vae=None, text_encoder=None, sampling_rate=None, num_samples=None, dataset_name=None)
    parser.add_argument(
        "--captions", help="text file, one caption per line: distill from captions and noise alone, without audio"
    )
    parser.add_argument("--teacher_model", default=..., help="folder or Hub id of the teacher's pipeline")
    parser.add_argument("--vocoder", help="folder of the vocoder, if the teacher has none")
    add_stream_arguments(parser)
    loss = parser.add_argument_group("objective")
    loss.add_argument("--num_scales", type=int, default=40, help="noise levels of the teacher's solver, N")
    loss.add_argument("--trajectory_reuse", type=int, default=4, help="updates that one solved trajectory serves, K")
    loss.add_argument("--omega", type=float, help="one fixed guidance scale to embed, in place of a range")
    loss.add_argument("--omega_min", type=float, default=2.0, help="smallest guidance scale to embed")
    loss.add_argument("--omega_max", type=float, default=5.0, help="largest guidance scale to embed")
    loss.add_argument("--caption_dropout", type=float, default=0.1, help="share of empty prompts")
    loss.add_argument(
        "--feature_distance",
        choices=FEATURE_DISTANCES,
        default="output",
        help="how two jumps are compared: in the teacher's features (full, half), in units of the network's output "
        "(output), or as latents (l2, pseudo_huber)",
    )
    loss.add_argument("--match_point", choices=["zs", "z0"], default="zs", help="level the jumps are compared at")
    loss.add_argument("--denoising_weight", type=float, default=1.0, help="lambda; 0 leaves score matching out")
    loss.add_argument(
        "--denoising_target",
        choices=DENOISING_TARGETS,
        default="teacher",
        help="what g(z, t, t) is trained against: the guided teacher, or the clips (the paper's), whose best denoiser "
        "has no guidance",
    )
    loss.add_argument(
        "--denoising_levels",
        choices=DENOISING_LEVELS,
        default="mixed",
        help="noise levels of the guided teacher's targets: uniform on the grid, or half of them near exp(N(0, 1))",
    )
    loss.add_argument(
        "--adaptive_weight",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="scale the denoising loss to the consistency loss by their gradients on the last layer (the paper's)",
    )
    loss.add_argument("--target_sigma_min_rate", type=float, default=0.0, help="extra share of targets s = sigma_min")
    loss.add_argument("--step_count_power", type=float, default=1.0, help="p in P(k) ~ k^p, of k solver steps")
    loss.add_argument(
        "--solve_to_target",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="the solver integrates down to s, so that the target needs no EMA: u = s",
    )
    loss.add_argument(
        "--sampler_rate",
        type=float,
        default=0.25,
        help="share of training pairs (t, s) that are a random step of a 1-, 2-, 4-, 8- or 16-step sampler",
    )
    loss.add_argument(
        "--branch_init", choices=["reference", "zero"], default="reference", help="start of the s and omega branches"
    )
    loss.add_argument("--initial_unet", help="folder of a student to go on from, in place of the teacher's weights")
    loss.add_argument("--lora_rank", type=int, help="train an adapter of this rank in place of the whole network")
    loss.add_argument("--lora_alpha", type=float, help="its alpha; default: the rank")
    run = parser.add_argument_group("optimisation")
    run.add_argument(
        "--train_batch_size", type=int, default=16, help="of all processes and accumulation steps together"
    )
    run.add_argument("--gradient_accumulation_steps", type=int, default=1, help="parts a process' batch is cut into")
    run.add_argument("--max_train_steps", type=int, default=30000)
    run.add_argument("--optimizer", choices=OPTIMIZERS, default="radam")
    run.add_argument("--use_8bit_adam", action="store_true", help="AdamW with 8-bit moments, needs bitsandbytes")
    run.add_argument("--learning_rate", type=float, default=8e-5)
    run.add_argument("--adam_beta1", type=float, default=0.9)
    run.add_argument("--adam_beta2", type=float, default=0.999)
    run.add_argument("--adam_weight_decay", type=float, default=0.0)
    run.add_argument("--adam_epsilon", type=float, default=1e-8)
    run.add_argument("--lr_scheduler", default="cosine", choices=[kind.value for kind in SchedulerType])
    run.add_argument("--lr_warmup_steps", type=int, default=0)
    run.add_argument("--max_grad_norm", type=float, default=1000.0)
    run.add_argument("--ema_decay", type=float, default=0.999, help="of the target, which is also the model")
    run.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="bf16")
    run.add_argument("--gradient_checkpointing", action="store_true")
    keep = parser.add_argument_group("checkpoints and reports")
    add_run_arguments(run, keep)
    keep.add_argument("--report_to", default="none", help=f"none, or some of {','.join(TRACKERS)} joined by commas")
    keep.add_argument("--logging_dir", default="logs", help="of the trackers, inside OUTPUT_DIR")
    keep.add_argument("--tracker_project_name", default="soundctm")
    keep.add_argument("--validation_prompts", nargs="+", help="sounds to make while training, into OUTPUT_DIR/samples")
    keep.add_argument("--validation_steps", type=int, default=500, help="make them every so many steps")
    keep.add_argument("--validation_num_inference_steps", type=int, nargs="+", default=list(STEPS))
    keep.add_argument("--push_to_hub", action="store_true", help="upload the model at the end")
    keep.add_argument("--hub_model_id", help="name of its repo; default: the last part of OUTPUT_DIR")
    keep.add_argument("--hub_token", help="default: the one of `hf auth login`")
    keep.add_argument("--hub_private_repo", action="store_true")
    keep.add_argument("--hub_license", help="SPDX id; default: that of the teacher's card")
    args = parse_with_config(parser, argv)
    if args.omega is not None:
        args.omega_min = args.omega_max = args.omega
    if args.num_scales < 2 or args.trajectory_reuse < 1:
        parser.error("--num_scales must be at least 2 and --trajectory_reuse at least 1")
    if args.trajectory_reuse == 1 and (args.solve_to_target or args.sampler_rate):
        parser.error(
            "--trajectory_reuse 1 solves parts of a trajectory only; --solve_to_target and --sampler_rate need whole "
            "ones: pass --trajectory_reuse 2 or more, or --no-solve_to_target --sampler_rate 0"
        )
    if not 0 <= args.sampler_rate <= 1:
        parser.error(f"--sampler_rate {args.sampler_rate} must lie in [0, 1]")
    if (args.captions is None) == (args.dataset_name is None):
        parser.error("pass either --dataset_name, or --captions to distill without audio")
    if args.captions is not None:
        check_captions(parser, args)
    if args.match_point == "z0" and args.feature_distance == "output":
        parser.error(
            "--match_point z0 does not go with --feature_distance output, which compares jumps where they land"
        )
    if not args.omega_min <= args.omega_max:
        parser.error(f"--omega_min {args.omega_min} is above --omega_max {args.omega_max}")
    if not math.isfinite(args.step_count_power):
        parser.error(f"--step_count_power {args.step_count_power} must be a finite number")
    if args.initial_unet and args.lora_rank:
        parser.error("--lora_rank starts at the teacher, where its adapter is loaded again; leave out --initial_unet")
    if not 0 <= args.caption_dropout < 1 or not 0 <= args.ema_decay < 1:
        parser.error("--caption_dropout and --ema_decay must lie in [0, 1)")
    return args


def check_captions(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse arguments that need audio together with `--captions`."""
    if not Path(args.captions).is_file():
        parser.error(f"--captions {args.captions} is not a file; give a text file with one caption per line")
    if args.trajectory_reuse == 1:
        parser.error("--captions needs trajectories from pure noise: pass --trajectory_reuse 2 or more")
    if args.denoising_target == "data" and args.denoising_weight > 0:
        parser.error("--denoising_target data needs clips; with --captions, pass --denoising_target teacher")
    for name in ("mix_rate", "streaming", "data_files", "max_train_samples"):
        if getattr(args, name):
            parser.error(f"--{name} needs clips; leave it out with --captions")


def settings_of(args: argparse.Namespace) -> dict:
    """The arguments without secrets."""
    return {name: value for name, value in vars(args).items() if name != "hub_token"}


def identity(args: argparse.Namespace, teacher: Teacher, clips: int) -> dict[str, str]:
    """What makes every batch and every update of a run: to resume, it must be the same."""
    names = ("train_batch_size", "seed", "num_scales", "trajectory_reuse", "target_sigma_min_rate", "step_count_power",
             "solve_to_target", "sampler_rate", "denoising_target", "denoising_levels", "adaptive_weight",
             "denoising_weight", "feature_distance", "omega_min", "omega_max", "caption_dropout", "mix_rate",
             "optimizer", "lora_rank", "lora_alpha")  # fmt: skip
    last = list(teacher.network.parameters())[-8:]
    weights = fingerprint([parameter.flatten()[:1024].tolist() for parameter in last])
    return run_identity(args, names, clips=clips, teacher=weights)


def build_objective(
    args: argparse.Namespace, accelerator: Accelerator, teacher: Teacher, model, average, student
) -> CTMObjective:
    in_feature_space = args.feature_distance in ("full", "half")
    preconditioning = teacher.preconditioning
    return CTMObjective(
        Denoiser(model, preconditioning),
        Denoiser(average, preconditioning),
        FeatureSpace(teacher.network, preconditioning, args.feature_distance) if in_feature_space else None,
        last_layer(student),
        distance=args.feature_distance,
        denoising_weight=args.denoising_weight,
        adaptive=args.adaptive_weight,
        match_sigma=teacher.scheduler.config.sigma_min if args.match_point == "z0" else None,
        reduce=lambda gradient: accelerator.reduce(gradient, "mean"),
        gradient_scale=FP16_GRADIENT_SCALE if args.mixed_precision == "fp16" else 1.0,
    )


def last_layer(student: torch.nn.Module) -> torch.nn.Module:
    return student.conv_out if hasattr(student, "conv_out") else student.postprocess_conv


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_output_dir(args)
    check_arguments(args)
    output_dir = Path(args.output_dir)
    report_to = None if args.report_to in (None, "none") else args.report_to.split(",")
    accelerator = make_accelerator(mixed_precision=args.mixed_precision, log_with=report_to,
                                   project_dir=str(output_dir / args.logging_dir))  # fmt: skip
    check_processes(accelerator, args.use_8bit_adam)
    device, main_process = accelerator.device, accelerator.is_main_process
    set_seed(args.seed)

    # 1. Check everything before any work
    teacher = load_teacher(args.teacher_model, vae=args.vae, text_encoder=args.text_encoder, vocoder=args.vocoder)
    args.sampling_rate = args.sampling_rate or teacher.sampling_rate
    args.num_samples = args.num_samples or default_num_samples(args.dataset_name, teacher)
    check_run(args, teacher, accelerator.num_processes)
    student = teacher.student(args.branch_init, args.initial_unet)
    if main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        remove_unfinished(output_dir)
        (output_dir / "settings.json").write_text(json.dumps(settings_of(args), indent=2) + "\n", encoding="utf-8")
    with accelerator.main_process_first():
        data = distillation_data(args, teacher, device)

    # 2. Optimizer, moving average, state
    own_identity = identity(args, teacher, len(data))
    if not teacher.conditioning.needs_audio_length:
        student.register_to_config(sample_size=data.latent_shape[1])
    if args.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    teacher.network.eval().requires_grad_(False).to(device, teacher_dtype(args.mixed_precision))
    if args.lora_rank:
        trained = add_lora(student, args.lora_rank, args.lora_alpha)
    else:
        trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(
        trained,
        args.optimizer,
        args.learning_rate,
        (args.adam_beta1, args.adam_beta2),
        args.adam_weight_decay,
        args.adam_epsilon,
        args.use_8bit_adam,
    )
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.max_train_steps,
    )
    last_layer(student).weight.requires_grad_(True)  # the losses are balanced there, trained or not
    networks = Networks(accelerator, student, optimizer)
    model, average, optimizer = networks.model, networks.average, networks.optimizer
    skips, running = SkippedSteps(args.max_skipped_steps), RunningLosses()
    state = {**networks.state(student), "lr": lr_scheduler, "skips": skips, "losses": running,
             **scaler_state(accelerator)}  # fmt: skip
    first = resume(args.resume_from_checkpoint, output_dir, state, own_identity)
    set_learning_rate(lr_scheduler, args.learning_rate)

    # 3. Batches and losses
    settings = teacher.scheduler.config
    sigmas = karras_sigmas(args.num_scales - 1, settings.sigma_min, settings.sigma_max, settings.rho)
    stream = TripleStream(
        data,
        teacher.network,
        teacher.preconditioning,
        Grid(
            sigmas,
            args.trajectory_reuse,
            args.target_sigma_min_rate,
            args.step_count_power,
            args.solve_to_target,
            args.sampler_rate,
        ),
        batch_size=args.train_batch_size,
        rows=process_rows(args.train_batch_size, accelerator),
        seed=args.seed,
        guidance_scale_range=(args.omega_min, args.omega_max),
        caption_dropout=args.caption_dropout,
        denoising=args.denoising_weight > 0,
        denoising_target=args.denoising_target,
        denoising_levels=args.denoising_levels,
        device=device,
    )
    objective = build_objective(args, accelerator, teacher, model, average, student)
    if args.denoising_weight > 0 and args.denoising_target == "data" and args.omega_max > 1:
        accelerator.print(
            "--denoising_target data trains g(z, t, t) against the clips, whose best denoiser has no guidance, so many "
            "steps lose guidance; --denoising_target teacher keeps it."
        )

    def checkpoint_now(step: int) -> None:
        save_checkpoint(output_dir, step, state, args.checkpoints_total_limit, own_identity, main_process)
        save_student()

    def save_student() -> torch.nn.Module:
        distilled = networks.whole_average()
        if main_process and args.lora_rank:
            save_lora(distilled, output_dir)
        elif main_process:
            save_model(distilled, output_dir / "unet")
        return distilled

    def validate(step: int) -> None:
        distilled = networks.whole_average()
        if not main_process:
            return
        folder = output_dir / "samples" / f"step-{step}"
        pipe = SoundCTMPipeline.from_components(teacher.parts(distilled), (args.omega_min, args.omega_max)).to(device)
        sounds = make_sounds(
            pipe,
            args.validation_prompts,
            folder,
            (args.omega_min + args.omega_max) / 2,
            args.validation_num_inference_steps,
            args.seed,
        )
        log_sounds(accelerator.trackers, sounds, folder / "spectrograms.png", step)

    if main_process:
        teacher.scheduler.save_pretrained(output_dir / "scheduler")
        if report_to:
            accelerator.init_trackers(args.tracker_project_name, _loggable(settings_of(args)))

    # 4. Train
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not main_process)  # fmt: skip
    solving, started = 0.0, time.time()
    unfinished = False
    with StopSignal() as stop:
        for step in progress:
            # Dropout, if the network has any, is a function of the step too.
            torch.manual_seed(step_generator(args.seed, step, stream=2).initial_seed() + accelerator.process_index)
            before = time.time()
            triples, noisy = stream.at(step)
            solving += time.time() - before
            sums: dict[str, float] = {}
            for part, (some, some_noisy) in enumerate(
                micro_batches(triples, noisy, args.gradient_accumulation_steps), 1
            ):
                last = part == args.gradient_accumulation_steps
                with nullcontext() if last else accelerator.no_sync(model):
                    with accelerator.autocast():
                        losses = objective(some, some_noisy)
                    accelerator.backward(losses.total / args.gradient_accumulation_steps)
                values = {"ctm": losses.consistency.mean().item()}
                if some_noisy is not None:
                    values |= {"dsm": losses.denoising.mean().item(), "balance": losses.balance.item()}
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value / args.gradient_accumulation_steps
            # One exchange a step: losses of the whole batch, and whether any process was told to stop.
            shared = torch.tensor([*sums.values(), float(stop.requested)], device=device)
            *means, told = accelerator.reduce(shared, "mean").tolist()
            sums = dict(zip(sums, means, strict=True))
            finite = step_if_finite(accelerator, optimizer, networks.parameters, args.max_grad_norm)
            if finite:
                ema_update(average, student, args.ema_decay)
            model.zero_grad(set_to_none=True)
            lr_scheduler.step()
            skips.record(not finite)

            if finite:
                running.record(sums, 0.05)
            progress.set_postfix(
                {name: f"{value:.4f}" for name, value in running.items()},
                solver=f"{solving / (time.time() - started):.0%}",
                skipped=skips.total,
            )
            done = step + 1
            if report_to:
                accelerator.log({**sums, "lr": lr_scheduler.get_last_lr()[0], "skipped": skips.total}, step=done)
            unfinished = told > 0 and done < args.max_train_steps
            if unfinished or done % args.checkpointing_steps == 0:
                checkpoint_now(done)
            if args.validation_prompts and done % args.validation_steps == 0:
                validate(done)
            if unfinished:
                progress.close()
                accelerator.print(STOPPED.format(done))
                break

    # 5. The model
    distilled = None if unfinished else save_student()
    if main_process and not unfinished:
        if teacher.can_decode and not args.lora_rank:
            pipe = SoundCTMPipeline.from_components(teacher.parts(distilled), (args.omega_min, args.omega_max))
            pipe.save_pretrained(output_dir)
        record = {"arguments": settings_of(args), "skipped_steps": skips.total, "losses": running, "clips": len(data),
                  "processes": accelerator.num_processes, "seconds": round(time.time() - started),
                  "seconds_in_solver": round(solving)}  # fmt: skip
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()
    if main_process and args.push_to_hub and not unfinished:
        pipe = SoundCTMPipeline.from_components(teacher.parts(distilled), (args.omega_min, args.omega_max))
        print(f"Uploaded: {publish(args, pipe, distilled, record)}")


def _loggable(arguments: dict) -> dict:
    return {k: v if isinstance(v, (int, float, str, bool)) else str(v) for k, v in arguments.items()}


if __name__ == "__main__":
    main()
