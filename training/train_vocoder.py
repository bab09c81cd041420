"""Train the vocoder: log-mel spectrograms, real or through the autoencoder, back to waveforms.

accelerate launch training/train_vocoder.py --config training/configs/embedded/vocoder.yaml \
    --dataset_name data --output_dir runs/vocoder
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

from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import LogMel
from diffusers_soundctm.data import Clips, load_clips
from diffusers_soundctm.distillation.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint, save_model
from diffusers_soundctm.distillation.config import parse_with_config
from diffusers_soundctm.distillation.ema import ema_copy, ema_update, warmed_up_decay
from diffusers_soundctm.distillation.first_stage import (
    MelLoss,
    MultiResolutionSTFTLoss,
    SpectrogramDiscriminator,
    cut_segments,
    discriminator_loss,
    draw_starts,
    feature_matching_loss,
    frequency_loss,
    generator_loss,
)
from diffusers_soundctm.distillation.noise_levels import clip_indices, step_generator


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
    data.add_argument("--autoencoder", help="folder of the VAE whose reconstructions are vocoded too")
    data.add_argument("--autoencoder_clips", type=int, default=2000, help="how many clips are reconstructed, once")
    data.add_argument("--autoencoder_share", type=float, default=0.5, help="share of batches made of reconstructions")
    model = parser.add_argument_group("model and objective")
    model.add_argument("--n_fft", type=int, default=1024)
    model.add_argument("--hop_length", type=int, default=160)
    model.add_argument("--n_mels", type=int, default=64)
    model.add_argument("--hidden_size", type=int, default=256)
    model.add_argument("--num_layers", type=int, default=8)
    model.add_argument("--intermediate_size", type=int, default=512)
    model.add_argument("--num_frames", type=int, default=64, help="mel frames of a training segment")
    model.add_argument(
        "--candidates", type=int, default=2, help="segments drawn in a clip, of which the loudest is used"
    )
    model.add_argument("--mel_weight", type=float, default=1.0)
    model.add_argument("--stft_weight", type=float, default=0.5)
    model.add_argument("--frequency_weight", type=float, default=1.0)
    model.add_argument("--adversarial_weight", type=float, default=0.05)
    model.add_argument("--feature_weight", type=float, default=0.1)
    model.add_argument("--adversarial_start", type=int, help="first step with the discriminator; default: never")
    run = parser.add_argument_group("optimisation")
    run.add_argument("--train_batch_size", type=int, default=8, help="of all processes together")
    run.add_argument("--max_train_steps", type=int, default=20000)
    run.add_argument("--learning_rate", type=float, default=1e-3)
    run.add_argument("--lr_scheduler", default="cosine")
    run.add_argument("--lr_warmup_steps", type=int, default=100)
    run.add_argument("--weight_decay", type=float, default=0.01)
    run.add_argument("--max_grad_norm", type=float, default=1.0)
    run.add_argument("--ema_decay", type=float, default=0.998)
    run.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--checkpointing_steps", type=int, default=1000)
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


class Prediction(torch.nn.Module):
    """What the mixed precision is for: the network without the synthesis."""

    def __init__(self, vocoder: ISTFTVocoder):
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.vocoder.predict(mel)


@torch.no_grad()
def reconstruct(folder: str, mel: LogMel, clips: Clips, indices: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Log-mels (len(indices), frames, mels) of whole clips after the autoencoder, float16."""
    vae = AutoencoderKL.from_pretrained(folder).to(device).eval()
    num_frames = clips.waveforms.shape[1] // mel.hop_length
    reconstructed = []
    for chosen in tqdm(indices.split(8), desc="reconstructing clips", unit="batch", mininterval=5):
        waveforms = cut_segments(
            clips.waveforms, chosen, torch.zeros_like(chosen), num_frames, mel.n_fft, mel.hop_length
        )
        target = mel(waveforms.to(device), center=False)[:, None]
        decoded = vae.decode(vae.encode(target).latent_dist.mode()).sample
        reconstructed.append(decoded[:, 0].half().cpu())
    return torch.cat(reconstructed)


@torch.no_grad()
def measure(vocoder: ISTFTVocoder, mel: LogMel, clips: Clips, num_clips: int, device: torch.device) -> float:
    """Mean |log-mel error| of whole clips, spread evenly over the data."""
    indices = torch.linspace(0, len(clips) - 1, min(num_clips, len(clips))).long()
    length = clips.waveforms.shape[1] // mel.hop_length * mel.hop_length
    errors = []
    for chosen in indices.split(8):
        padded = cut_segments(
            clips.waveforms, chosen, torch.zeros_like(chosen), length // mel.hop_length, mel.n_fft, mel.hop_length
        ).to(device)
        target = mel(padded, center=False)
        errors.append((mel(vocoder(target)) - target).abs().mean(dim=(1, 2)))
    return torch.cat(errors).mean().item()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    if args.train_batch_size % accelerator.num_processes:
        raise SystemExit(
            f"--train_batch_size {args.train_batch_size} does not divide by {accelerator.num_processes} processes"
        )
    device, output_dir = accelerator.device, Path(args.output_dir)
    set_seed(args.seed)
    with accelerator.main_process_first():
        clips = clips_of(args, "train", args.max_train_samples)
    mel = LogMel(args.sampling_rate, args.n_fft, args.hop_length, args.n_mels).to(device)
    reconstructed, spread = None, torch.linspace(0, len(clips) - 1, min(args.autoencoder_clips, len(clips))).long()
    if args.autoencoder:
        reconstructed = reconstruct(args.autoencoder, mel, clips, spread, device)
    vocoder = ISTFTVocoder(
        sampling_rate=args.sampling_rate,
        model_in_dim=args.n_mels,
        n_fft=args.n_fft,
        hop_length=args.hop_length,
        hidden_size=args.hidden_size,
        num_layers=args.num_layers,
        intermediate_size=args.intermediate_size,
    )
    judge = SpectrogramDiscriminator()
    settings = {"lr": args.learning_rate, "betas": (0.8, 0.99), "weight_decay": args.weight_decay}
    optimizer = torch.optim.AdamW(vocoder.parameters(), **settings)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), **settings | {"lr": 0.3 * args.learning_rate})
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=args.max_train_steps
    )
    average = ema_copy(vocoder).to(device)
    model, judge, optimizer, judge_optimizer = accelerator.prepare(
        Prediction(vocoder), judge, optimizer, judge_optimizer
    )
    state = {"vocoder": vocoder, "ema": average, "optimizer": optimizer, "lr": lr_scheduler,
             "judge": accelerator.unwrap_model(judge), "judge_optimizer": judge_optimizer}  # fmt: skip
    mel_loss, stft_loss = MelLoss(mel), MultiResolutionSTFTLoss().to(device)

    first = 0
    if args.resume_from_checkpoint:
        checkpoint = args.resume_from_checkpoint
        checkpoint = latest_checkpoint(output_dir) if checkpoint == "latest" else Path(checkpoint)
        first = load_checkpoint(checkpoint, state) if checkpoint else 0
    share = args.train_batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process, mininterval=5)  # fmt: skip
    running: dict[str, float] = {}
    started = time.time()
    for step in progress:
        generator = step_generator(args.seed, step)
        through_vae = reconstructed is not None and torch.rand((), generator=generator) < args.autoencoder_share
        rows = clip_indices(len(spread) if through_vae else len(clips), args.train_batch_size, step, args.seed)
        drawn = spread[rows] if through_vae else rows
        starts = draw_starts(clips.waveforms, drawn, args.num_frames, args.hop_length, generator, args.candidates)
        padded = cut_segments(
            clips.waveforms, drawn[mine], starts[mine], args.num_frames, args.n_fft, args.hop_length
        ).to(device)
        real = padded[:, args.n_fft // 2 :][:, : args.num_frames * args.hop_length]
        condition = mel(padded, center=False)
        if through_vae:
            positions = starts[mine, None] + torch.arange(args.num_frames)
            condition = reconstructed[rows[mine, None], positions].float().to(device)

        log_magnitude, retention, offset, drive = model(condition)
        # The offsets learn from the sound's own frequencies alone: through many turns of a resonator the spectral
        # losses say nothing useful about them, and spoil them.
        fake = vocoder.synthesize(log_magnitude, retention, offset.detach(), drive)
        losses = {
            "mel": args.mel_weight * mel_loss(fake, real),
            "stft": args.stft_weight * stft_loss(fake, real),
            "frequency": args.frequency_weight * frequency_loss(offset, padded, mel.window, args.hop_length),
        }
        if args.adversarial_start is not None and step >= args.adversarial_start:
            judge.requires_grad_(True)
            real_verdicts, real_features = judge(real)
            fake_verdicts, _ = judge(fake.detach())
            judged = discriminator_loss(real_verdicts, fake_verdicts)
            accelerator.backward(judged)
            judge_optimizer.step()
            judge_optimizer.zero_grad(set_to_none=True)
            judge.requires_grad_(False)
            verdicts, features = judge(fake)
            losses["adversarial"] = args.adversarial_weight * generator_loss(verdicts)
            losses["features"] = args.feature_weight * feature_matching_loss(
                [feature.detach() for feature in real_features], features
            )
            running["judge"] = judged.item()
        accelerator.backward(sum(losses.values()))
        norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        if norm.isfinite():
            optimizer.step()
            ema_update(average, vocoder, warmed_up_decay(args.ema_decay, step))
        optimizer.zero_grad(set_to_none=True)
        lr_scheduler.step()

        for name, loss in losses.items():
            running[name] = loss.item() if name not in running else 0.99 * running[name] + 0.01 * loss.item()
        progress.set_postfix({name: f"{value:.3f}" for name, value in running.items()}, refresh=False)
        if (step + 1) % args.checkpointing_steps == 0 and accelerator.is_main_process:
            save_checkpoint(output_dir, step + 1, state, args.checkpoints_total_limit)
            save_model(average, output_dir / "vocoder")

    if accelerator.is_main_process:
        save_model(average, output_dir / "vocoder")
        record = {"arguments": vars(args), "steps": args.max_train_steps, "losses": running, "clips": len(clips),
                  "seconds": round(time.time() - started)}  # fmt: skip
        if args.validation_split:
            record["mel_l1"] = measure(average, mel, clips_of(args, args.validation_split), 256, device)
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({name: record[name] for name in ("losses", "mel_l1") if name in record}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
