"""Train the autoencoder of log-mel spectrograms whose latents the diffusion models work on.

accelerate launch training/train_autoencoder.py --config training/configs/embedded/autoencoder.yaml \
    --dataset_name data --output_dir runs/autoencoder

SIGTERM and SIGUSR1, sent to the script and not to its launcher, write a checkpoint and end the run with exit code 0.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from accelerate.utils import set_seed
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from tqdm import tqdm

from diffusers_soundctm.audio import LogMel
from diffusers_soundctm.data import Clips
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.training.checkpoints import (
    resume,
    run_identity,
    save_checkpoint,
    save_model,
    set_learning_rate,
)
from diffusers_soundctm.training.config import (
    add_clip_arguments,
    add_optimisation_arguments,
    clips_of,
    parse_with_config,
)
from diffusers_soundctm.training.ema import ema_copy, ema_update, warmed_up_decay
from diffusers_soundctm.training.first_stage_losses import cut_segments, draw_starts, kl_divergence
from diffusers_soundctm.training.optimizers import scaler_state, step_if_finite
from diffusers_soundctm.training.preflight import check_output_dir, make_accelerator
from diffusers_soundctm.training.sharding import process_rows
from diffusers_soundctm.training.signals import RunningLosses, SkippedSteps, StopSignal

SIGMA_DATA = 0.5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clip_arguments(parser)
    model = parser.add_argument_group(
        "model and objective", "train_teacher.py and train_ctm.py know the mels of the defaults alone"
    )
    model.add_argument("--n_fft", type=int, default=1024)
    model.add_argument("--hop_length", type=int, default=160)
    model.add_argument("--n_mels", type=int, default=64)
    model.add_argument("--block_out_channels", type=int, nargs="+", default=[32, 64, 96])
    model.add_argument("--layers_per_block", type=int, default=1)
    model.add_argument("--latent_channels", type=int, default=8)
    model.add_argument("--norm_num_groups", type=int, default=8)
    model.add_argument("--num_frames", type=int, default=512, help="mel frames of a training segment")
    model.add_argument(
        "--decoder_of", help="folder of a finished VAE: train its decoder on, so latents made with it stay"
    )
    model.add_argument("--kl_weight", type=float, default=1e-3, help="per latent element, beside L1 per mel element")
    add_optimisation_arguments(parser, precisions=["no", "bf16", "fp16"])
    parser.set_defaults(train_batch_size=4, max_train_steps=10000, learning_rate=1e-3, ema_decay=0.995)
    return parse_with_config(parser, argv)


def build(args: argparse.Namespace) -> AutoencoderKL:
    """A new autoencoder, or the one to continue with its encoder frozen."""
    if args.decoder_of:
        vae = AutoencoderKL.from_pretrained(args.decoder_of)
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
        return vae
    levels = len(args.block_out_channels)
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=args.block_out_channels,
        layers_per_block=args.layers_per_block,
        latent_channels=args.latent_channels,
        norm_num_groups=args.norm_num_groups,
        sample_size=args.n_mels,
        # Attention over every latent position would cost the square of the sound's length.
        mid_block_add_attention=False,
    )
    torch.nn.init.constant_(
        vae.decoder.conv_out.bias, -6.0
    )  # a typical log-mel: starts at the mean, not at a loud hiss
    return vae


class Reconstruction(torch.nn.Module):
    """What is differentiated: encode, sample the posterior with the given noise, decode."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, mel: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(mel).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return self.vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float(), mean, logvar


@torch.no_grad()
def measure(vae: AutoencoderKL, mel: LogMel, clips: Clips, num_clips: int, device: torch.device) -> dict[str, float]:
    """Mean |log-mel error| of whole clips through the posterior's mode, and the standard deviation of raw latents."""
    indices = torch.linspace(0, len(clips) - 1, min(num_clips, len(clips))).long()
    num_frames = clips.waveforms.shape[1] // mel.hop_length
    errors, latents = [], []
    for chosen in indices.split(8):
        waveforms = cut_segments(
            clips.waveforms, chosen, torch.zeros_like(chosen), num_frames, mel.n_fft, mel.hop_length
        )
        target = mel(waveforms.to(device), center=False)[:, None]
        latents.append(vae.encode(target).latent_dist.mode())
        errors.append((vae.decode(latents[-1]).sample - target).abs().mean(dim=(1, 2, 3)))
    return {"mel_l1": torch.cat(errors).mean().item(), "latent_std": torch.cat(latents).std().item()}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_output_dir(args)
    accelerator = make_accelerator(mixed_precision=args.mixed_precision)
    mine = process_rows(args.train_batch_size, accelerator)
    output_dir = Path(args.output_dir)
    set_seed(args.seed)
    with accelerator.main_process_first():
        clips = clips_of(args, "train", args.max_train_samples)
    mel = LogMel(args.sampling_rate, args.n_fft, args.hop_length, args.n_mels).to(accelerator.device)
    vae = build(args)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in vae.parameters() if parameter.requires_grad],
        args.learning_rate,
        (0.9, 0.99),
        weight_decay=args.weight_decay,
    )
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=args.max_train_steps
    )
    average = ema_copy(vae).to(accelerator.device)
    model, optimizer = accelerator.prepare(Reconstruction(vae), optimizer)
    vae = accelerator.unwrap_model(model).vae
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    skips, running = SkippedSteps(args.max_skipped_steps), RunningLosses()
    state = {"vae": vae, "ema": average, "optimizer": optimizer, "lr": lr_scheduler, "skips": skips, "losses": running,
             **scaler_state(accelerator)}  # fmt: skip
    names = ("train_batch_size", "seed", "sampling_rate", "num_samples", "n_fft", "hop_length", "n_mels", "num_frames")
    identity = run_identity(args, names, clips=len(clips))

    def checkpoint_now(done: int) -> None:
        save_checkpoint(output_dir, done, state, args.checkpoints_total_limit, identity)

    first = resume(args.resume_from_checkpoint, output_dir, state, identity)
    set_learning_rate(lr_scheduler, args.learning_rate)
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process, mininterval=5)  # fmt: skip
    started, unfinished = time.time(), False
    with StopSignal() as stop:
        for step in progress:
            generator = step_generator(args.seed, step)
            drawn = clip_indices(len(clips), args.train_batch_size, step, args.seed)
            starts = draw_starts(clips.waveforms, drawn, args.num_frames, args.hop_length, generator)
            waveforms = cut_segments(
                clips.waveforms, drawn[mine], starts[mine], args.num_frames, args.n_fft, args.hop_length
            )
            target = mel(waveforms.to(accelerator.device), center=False)[:, None]
            size = (len(drawn), vae.config.latent_channels, args.num_frames // scale, args.n_mels // scale)
            noise = torch.randn(size, generator=generator)[mine].to(accelerator.device)
            reconstructed, mean, logvar = model(target, noise)
            error = (reconstructed - target).abs().mean()
            accelerator.backward(error + args.kl_weight * kl_divergence(mean, logvar))
            finite = step_if_finite(accelerator, optimizer, model.parameters(), args.max_grad_norm)
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()
            skips.record(not finite)

            if finite:
                ema_update(average, vae, warmed_up_decay(args.ema_decay, step))
                running.record({"loss": error.item()}, 0.02)
                progress.set_postfix(
                    mel_l1=f"{running['loss']:.4f}",
                    lr=f"{lr_scheduler.get_last_lr()[0]:.1e}",
                    skipped=skips.total,
                    refresh=False,
                )
            unfinished = stop.checkpoint(accelerator, step + 1, args, checkpoint_now)
            if unfinished:
                break

    if accelerator.is_main_process and not unfinished:
        record = {"arguments": vars(args), "steps": args.max_train_steps, "skipped_steps": skips.total,
                  "loss": running.get("loss"), "seconds": round(time.time() - started), "clips": len(clips),
                  "train": measure(average, mel, clips, 512, accelerator.device)}  # fmt: skip
        if args.validation_split:
            validation = clips_of(args, args.validation_split)
            record[args.validation_split] = measure(average, mel, validation, 512, accelerator.device)
        if not args.decoder_of:
            average.register_to_config(scaling_factor=SIGMA_DATA / record["train"]["latent_std"])
        save_model(average, output_dir / "vae")
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({name: record[name] for name in ("train", args.validation_split) if name in record}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
