"""Train a text-conditional EDM denoiser of sound latents, the teacher that `train_ctm.py` distils.

accelerate launch training/train_teacher.py --config training/configs/embedded/teacher.yaml \
    --dataset_name data --vae runs/autoencoder/vae --text_encoder text_encoder --output_dir runs/teacher

SIGTERM and SIGUSR1, sent to the script and not to its launcher, write a checkpoint and end the run with exit code 0.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import UNet2DConditionModel
from diffusers.optimization import get_scheduler
from tqdm import tqdm

from diffusers_soundctm import CTMScheduler
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.data.sources import training_data
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.losses import denoising_loss
from diffusers_soundctm.distillation.noise_levels import lognormal_sigmas
from diffusers_soundctm.training.checkpoints import (
    resume,
    run_identity,
    save_checkpoint,
    save_model,
    set_learning_rate,
)
from diffusers_soundctm.training.config import add_data_arguments, add_optimisation_arguments, parse_with_config
from diffusers_soundctm.training.ema import ema_copy, ema_update, warmed_up_decay
from diffusers_soundctm.training.optimizers import scaler_state, step_if_finite
from diffusers_soundctm.training.preflight import check_output_dir, make_accelerator
from diffusers_soundctm.training.sharding import process_rows
from diffusers_soundctm.training.signals import RunningLosses, SkippedSteps, StopSignal

SAMPLING_RATE = 16000  # of `LogMel`'s defaults, which latents are encoded with


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    parser.add_argument(
        "--unet_config", help="JSON file (or YAML mapping) of UNet2DConditionModel arguments, to start from nothing"
    )
    parser.add_argument("--initial_unet", help="folder of a trained network to go on from, in place of UNET_CONFIG")
    loss = parser.add_argument_group("objective")
    loss.add_argument("--sigma_data", type=float, default=0.5)
    loss.add_argument("--sigma_min", type=float, default=0.002)
    loss.add_argument("--sigma_max", type=float, default=80.0)
    loss.add_argument("--p_mean", type=float, default=-1.2, help="mean of ln sigma in training")
    loss.add_argument("--p_std", type=float, default=1.2, help="standard deviation of ln sigma in training")
    loss.add_argument("--caption_dropout", type=float, default=0.1, help="share of empty prompts")
    add_optimisation_arguments(parser, precisions=["no", "bf16"])
    parser.set_defaults(
        train_batch_size=16, max_train_steps=10000, learning_rate=4e-4, lr_warmup_steps=200, ema_decay=0.999
    )
    args = parse_with_config(parser, argv)
    if args.initial_unet is None and args.unet_config is None:
        parser.error("--unet_config or --initial_unet is required")
    if args.sampling_rate != SAMPLING_RATE:
        parser.error(f"--sampling_rate {args.sampling_rate}: latents are made of log-mels at {SAMPLING_RATE} Hz alone")
    return args


def new_unet(config: dict | str) -> UNet2DConditionModel:
    """A network with random weights."""
    if not isinstance(config, dict):
        config = json.loads(Path(config).read_text(encoding="utf-8"))
    return UNet2DConditionModel.from_config(config)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_output_dir(args)
    accelerator = make_accelerator(mixed_precision=args.mixed_precision)
    mine = process_rows(args.train_batch_size, accelerator)
    output_dir = Path(args.output_dir)
    set_seed(args.seed)
    unet = (
        UNet2DConditionModel.from_pretrained(args.initial_unet, torch_dtype=torch.float32)
        if args.initial_unet
        else new_unet(args.unet_config)
    )
    with accelerator.main_process_first():
        data = training_data(args, unet, accelerator.device)
    scheduler = CTMScheduler(sigma_min=args.sigma_min, sigma_max=args.sigma_max, sigma_data=args.sigma_data)
    optimizer = torch.optim.AdamW(unet.parameters(), args.learning_rate, (0.9, 0.99), weight_decay=args.weight_decay)
    lr_scheduler = get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps,
        num_training_steps=args.max_train_steps,
    )
    average = ema_copy(unet).to(accelerator.device)
    model, optimizer = accelerator.prepare(unet, optimizer)
    skips, running = SkippedSteps(args.max_skipped_steps), RunningLosses()
    state = {"unet": accelerator.unwrap_model(model), "ema": average, "optimizer": optimizer, "lr": lr_scheduler,
             "skips": skips, "losses": running, **scaler_state(accelerator)}  # fmt: skip
    names = ("train_batch_size", "seed", "sigma_data", "p_mean", "p_std", "caption_dropout")
    identity = run_identity(args, names, clips=len(data))

    def checkpoint_now(done: int) -> None:
        save_checkpoint(output_dir, done, state, args.checkpoints_total_limit, identity)
        save_model(average, output_dir / "unet")

    first = resume(args.resume_from_checkpoint, output_dir, state, identity)
    set_learning_rate(lr_scheduler, args.learning_rate)
    if accelerator.is_main_process:
        scheduler.save_pretrained(output_dir / "scheduler")
    denoise = Denoiser(model, Preconditioning.from_scheduler(scheduler))
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process)  # fmt: skip
    started, unfinished = time.time(), False
    with StopSignal() as stop:
        for step in progress:
            generator = step_generator(args.seed, step)
            clips = clip_indices(len(data.latents), args.train_batch_size, step, args.seed)
            captions = data.prompts.draw(clips, args.caption_dropout, generator)
            sigma = lognormal_sigmas(len(clips), generator, args.p_mean, args.p_std)
            noise = torch.randn(len(clips), *data.latents.shape[1:], generator=generator)

            clean = data.latents[clips[mine]].to(accelerator.device, torch.float32)
            sigma, noise = sigma[mine].to(accelerator.device), noise[mine].to(accelerator.device)
            condition = data.network_kwargs(captions[mine], accelerator.device)
            denoised = denoise(clean + sigma[:, None, None, None] * noise, sigma, **condition)
            loss = denoising_loss(denoised, clean, sigma, args.sigma_data).mean()
            accelerator.backward(loss)
            finite = step_if_finite(accelerator, optimizer, model.parameters(), args.max_grad_norm)
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()
            skips.record(not finite)

            if finite:
                ema_update(average, accelerator.unwrap_model(model), warmed_up_decay(args.ema_decay, step))
                running.record({"loss": loss.item()}, 0.02)
                progress.set_postfix(
                    loss=f"{running['loss']:.4f}", lr=f"{lr_scheduler.get_last_lr()[0]:.1e}", skipped=skips.total
                )
            unfinished = stop.checkpoint(accelerator, step + 1, args, checkpoint_now)
            if unfinished:
                break

    if accelerator.is_main_process and not unfinished:
        save_model(average, output_dir / "unet")
        record = {"arguments": vars(args), "steps": args.max_train_steps, "skipped_steps": skips.total,
                  "loss": running.get("loss"), "processes": accelerator.num_processes,
                  "seconds": round(time.time() - started), "clips": len(data)}  # fmt: skip
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    main()
