"""Train the autoencoder of log-mel spectrograms whose latents the diffusion models work on.

accelerate launch training/train_autoencoder.py --config training/configs/embedded/autoencoder.yaml \
    --dataset_name data --output_dir runs/autoencoder
"""

import argparse
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL
from diffusers.optimization import get_scheduler
from tqdm import tqdm

from diffusers_soundctm.audio import LogMel
from diffusers_soundctm.data import Clips, load_clips
from diffusers_soundctm.distillation.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint, save_model
from diffusers_soundctm.distillation.config import parse_with_config
from diffusers_soundctm.distillation.ema import ema_copy, ema_update, warmed_up_decay
from diffusers_soundctm.distillation.first_stage import cut_segments, draw_starts, kl_divergence
from diffusers_soundctm.distillation.noise_levels import clip_indices, step_generator

SIGMA_DATA = 0.5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset_name", default=..., help="Hub id or folder, see `load_clips`")
    data.add_argument("--audio_column", default="audio")
    data.add_argument("--caption_column", default="caption")
    data.add_argument("--max_train_samples", type=int, help="use the first so many clips only")
    data.add_argument("--validation_split", help="measure the mel error on this split at the end")
    data.add_argument("--num_samples", type=int, default=81920, help="length of a clip in samples")
    data.add_argument("--sampling_rate", type=int, default=16000)
    data.add_argument("--cache_dir", help="decoded clips; default: OUTPUT_DIR/cache")
    data.add_argument("--output_dir", default=...)
    model = parser.add_argument_group("model and objective")
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
    run = parser.add_argument_group("optimisation")
    run.add_argument("--train_batch_size", type=int, default=4, help="of all processes together")
    run.add_argument("--max_train_steps", type=int, default=10000)
    run.add_argument("--learning_rate", type=float, default=1e-3)
    run.add_argument("--lr_scheduler", default="cosine")
    run.add_argument("--lr_warmup_steps", type=int, default=100)
    run.add_argument("--weight_decay", type=float, default=0.01)
    run.add_argument("--max_grad_norm", type=float, default=1.0)
    run.add_argument("--ema_decay", type=float, default=0.995)
    run.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--checkpointing_steps", type=int, default=500)
    run.add_argument("--checkpoints_total_limit", type=int, default=2)
    run.add_argument("--resume_from_checkpoint", help="folder of a checkpoint, or 'latest'")
    return parse_with_config(parser, argv)


def clips_of(args: argparse.Namespace, split: str, max_samples: int | None = None) -> Clips:
    return load_clips(
        args.dataset_name,
        split=split,
        audio_column=args.audio_column,
        caption_column=args.caption_column,
        sampling_rate=args.sampling_rate,
        num_samples=args.num_samples,
        max_samples=max_samples,
        cache_dir=args.cache_dir or Path(args.output_dir) / "cache",
    )


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
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    if args.train_batch_size % accelerator.num_processes:
        raise SystemExit(
            f"--train_batch_size {args.train_batch_size} does not divide by {accelerator.num_processes} processes"
        )
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
    state = {"vae": vae, "ema": average, "optimizer": optimizer, "lr": lr_scheduler}

    first = 0
    if args.resume_from_checkpoint:
        checkpoint = args.resume_from_checkpoint
        checkpoint = latest_checkpoint(output_dir) if checkpoint == "latest" else Path(checkpoint)
        first = load_checkpoint(checkpoint, state) if checkpoint else 0
    share = args.train_batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process, mininterval=5)  # fmt: skip
    running, started = None, time.time()
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
        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        lr_scheduler.step()
        ema_update(average, vae, warmed_up_decay(args.ema_decay, step))

        running = error.item() if running is None else 0.98 * running + 0.02 * error.item()
        progress.set_postfix(mel_l1=f"{running:.4f}", lr=f"{lr_scheduler.get_last_lr()[0]:.1e}", refresh=False)
        if (step + 1) % args.checkpointing_steps == 0 and accelerator.is_main_process:
            save_checkpoint(output_dir, step + 1, state, args.checkpoints_total_limit)

    if accelerator.is_main_process:
        record = {"arguments": vars(args), "steps": args.max_train_steps, "loss": running,
                  "seconds": round(time.time() - started), "clips": len(clips),
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
