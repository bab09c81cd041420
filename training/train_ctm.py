"""Distil a text-to-sound diffusion teacher into a SoundCTM student.

accelerate launch training/train_ctm.py --config training/configs/embedded/student.yaml --teacher_model runs/teacher \
    --dataset_name data --vae runs/autoencoder/vae --text_encoder text_encoder --output_dir runs/student

Defaults are the paper's. `output_dir/unet` holds the moving average of the weights, which is the model; with
`--vocoder` the whole `output_dir` is a `SoundCTMPipeline`.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, SpeechT5HifiGan

from diffusers_soundctm import CTMScheduler, CTMUNet2DConditionModel, ISTFTVocoder, SoundCTMPipeline
from diffusers_soundctm.distillation.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint, save_model
from diffusers_soundctm.distillation.config import add_data_arguments, parse_with_config
from diffusers_soundctm.distillation.ema import ema_copy, ema_update
from diffusers_soundctm.distillation.latents import training_data
from diffusers_soundctm.distillation.networks import Denoiser, Preconditioning
from diffusers_soundctm.distillation.objective import FEATURE_DISTANCES, CTMObjective
from diffusers_soundctm.distillation.teachers import FeatureSpace
from diffusers_soundctm.distillation.trajectories import Grid, TripleStream
from diffusers_soundctm.preconditioning import karras_sigmas


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--teacher_model", default=..., help="folder with the teacher's unet/ and scheduler/")
    parser.add_argument("--vocoder", help="folder of the vocoder; with it, OUTPUT_DIR becomes a SoundCTMPipeline")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--num_scales", type=int, default=40, help="noise levels of the teacher's solver, N")
    loss.add_argument("--trajectory_reuse", type=int, default=1, help="updates one solved trajectory serves, K")
    loss.add_argument("--omega_min", type=float, default=2.0, help="smallest guidance scale to embed")
    loss.add_argument("--omega_max", type=float, default=5.0, help="largest guidance scale to embed")
    loss.add_argument("--caption_dropout", type=float, default=0.1, help="share of empty prompts")
    loss.add_argument("--feature_distance", choices=FEATURE_DISTANCES, default="full")
    loss.add_argument("--match_point", choices=["zs", "z0"], default="zs", help="level the jumps are compared at")
    loss.add_argument("--denoising_weight", type=float, default=1.0, help="lambda; 0 leaves score matching out")
    loss.add_argument("--no_adaptive_weight", action="store_true", help="do not balance the losses by gradients")
    loss.add_argument("--target_sigma_min_rate", type=float, default=0.0, help="extra share of targets s = sigma_min")
    loss.add_argument(
        "--branch_init", choices=["reference", "zero"], default="reference", help="start of the s and omega branches"
    )
    run = parser.add_argument_group("optimisation")
    run.add_argument("--train_batch_size", type=int, default=16, help="of all processes together")
    run.add_argument("--max_train_steps", type=int, default=30000)
    run.add_argument("--learning_rate", type=float, default=8e-5)
    run.add_argument("--lr_scheduler", default="constant")
    run.add_argument("--lr_warmup_steps", type=int, default=0)
    run.add_argument("--max_grad_norm", type=float, default=1000.0)
    run.add_argument("--ema_decay", type=float, default=0.999, help="of the target, which is also the model")
    run.add_argument("--mixed_precision", choices=["no", "bf16"], default="bf16")
    run.add_argument("--gradient_checkpointing", action="store_true")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--checkpointing_steps", type=int, default=500)
    run.add_argument("--checkpoints_total_limit", type=int, default=2)
    run.add_argument("--resume_from_checkpoint", help="folder of a checkpoint, or 'latest'")
    args = parse_with_config(parser, argv)
    if args.num_scales < 2 or args.trajectory_reuse < 1:
        parser.error("--num_scales must be at least 2 and --trajectory_reuse at least 1")
    if not args.omega_min <= args.omega_max:
        parser.error(f"--omega_min {args.omega_min} is above --omega_max {args.omega_max}")
    return args


def save_pipeline(args: argparse.Namespace, unet: CTMUNet2DConditionModel, scheduler: CTMScheduler) -> None:
    vocoder_config = json.loads((Path(args.vocoder) / "config.json").read_text(encoding="utf-8"))
    vocoder_class = ISTFTVocoder if vocoder_config.get("_class_name") == "ISTFTVocoder" else SpeechT5HifiGan
    SoundCTMPipeline(
        vae=AutoencoderKL.from_pretrained(args.vae),
        text_encoder=AutoModel.from_pretrained(args.text_encoder),
        tokenizer=AutoTokenizer.from_pretrained(args.text_encoder),
        unet=unet,
        scheduler=scheduler,
        vocoder=vocoder_class.from_pretrained(args.vocoder),
        guidance_scale_range=(args.omega_min, args.omega_max),
    ).save_pretrained(args.output_dir)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    device = accelerator.device
    if args.train_batch_size % accelerator.num_processes:
        raise SystemExit(
            f"--train_batch_size {args.train_batch_size} does not divide by {accelerator.num_processes} processes"
        )
    output_dir = Path(args.output_dir)
    set_seed(args.seed)

    scheduler = CTMScheduler.from_pretrained(args.teacher_model, subfolder="scheduler")
    preconditioning = Preconditioning.from_scheduler(scheduler)
    settings = scheduler.config
    teacher = UNet2DConditionModel.from_pretrained(args.teacher_model, subfolder="unet")
    betas = {
        key: settings[key]
        for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    }
    student = CTMUNet2DConditionModel.from_teacher(
        teacher, prediction_type=settings.prediction_type, branch_init=args.branch_init, **betas
    )
    if args.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    with accelerator.main_process_first():
        data = training_data(args, teacher, device)
    teacher.eval().requires_grad_(False).to(device, torch.bfloat16 if args.mixed_precision == "bf16" else torch.float32)

    optimizer = torch.optim.RAdam(student.parameters(), args.learning_rate, weight_decay=0.0)
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.max_train_steps,
    )
    average = ema_copy(student).to(device)
    model, optimizer = accelerator.prepare(student, optimizer)
    state = {"unet": student, "ema": average, "optimizer": optimizer, "lr": lr_scheduler}
    first = 0
    if args.resume_from_checkpoint:
        checkpoint = args.resume_from_checkpoint
        checkpoint = latest_checkpoint(output_dir) if checkpoint == "latest" else Path(checkpoint)
        first = load_checkpoint(checkpoint, state) if checkpoint else 0

    sigmas = karras_sigmas(args.num_scales - 1, settings.sigma_min, settings.sigma_max, settings.rho)
    share = args.train_batch_size // accelerator.num_processes
    stream = TripleStream(
        data,
        teacher,
        preconditioning,
        Grid(sigmas, args.trajectory_reuse, args.target_sigma_min_rate),
        batch_size=args.train_batch_size,
        rows=slice(accelerator.process_index * share, (accelerator.process_index + 1) * share),
        seed=args.seed,
        guidance_scale_range=(args.omega_min, args.omega_max),
        caption_dropout=args.caption_dropout,
        denoising=args.denoising_weight > 0,
        device=device,
    )
    in_feature_space = args.feature_distance in ("full", "half")
    objective = CTMObjective(
        Denoiser(model, preconditioning),
        Denoiser(average, preconditioning),
        FeatureSpace(teacher, preconditioning, args.feature_distance) if in_feature_space else None,
        student.conv_out.weight,
        distance=args.feature_distance,
        denoising_weight=args.denoising_weight,
        adaptive=not args.no_adaptive_weight,
        match_sigma=settings.sigma_min if args.match_point == "z0" else None,
        reduce=lambda gradient: accelerator.reduce(gradient, "mean"),
    )
    if accelerator.is_main_process:
        scheduler.save_pretrained(output_dir / "scheduler")
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process)  # fmt: skip
    running: dict[str, float] = {}
    skipped, solving, started = 0, 0.0, time.time()
    for step in progress:
        before = time.time()
        triples, noisy = stream.at(step)
        solving += time.time() - before
        with accelerator.autocast():
            losses = objective(triples, noisy)
        accelerator.backward(losses.total)
        norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        if norm.isfinite():
            optimizer.step()
            ema_update(average, student, args.ema_decay)
        else:
            skipped += 1
        optimizer.zero_grad(set_to_none=True)
        lr_scheduler.step()

        values = {"ctm": losses.consistency.mean().item()}
        if noisy is not None:
            values |= {"dsm": losses.denoising.mean().item(), "balance": losses.balance.item()}
        running = {name: 0.95 * running.get(name, value) + 0.05 * value for name, value in values.items()}
        solver_share = solving / (time.time() - started)
        progress.set_postfix(
            {name: f"{value:.4f}" for name, value in running.items()}, solver=f"{solver_share:.0%}", skipped=skipped
        )
        if (step + 1) % args.checkpointing_steps == 0 and accelerator.is_main_process:
            save_checkpoint(output_dir, step + 1, state, args.checkpoints_total_limit)
            save_model(average, output_dir / "unet")

    if accelerator.is_main_process:
        save_model(average, output_dir / "unet")
        if args.vocoder:
            save_pipeline(args, average, scheduler)
        record = {"arguments": vars(args), "skipped_steps": skipped, "losses": running, "clips": len(data.latents),
                  "seconds": round(time.time() - started), "seconds_in_solver": round(solving)}  # fmt: skip
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    main()
