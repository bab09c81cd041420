"""Train the vocoder: log-mel spectrograms, real or through the autoencoder, back to waveforms.

accelerate launch training/train_vocoder.py --config training/configs/embedded/vocoder.yaml \
    --dataset_name data --output_dir runs/vocoder

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

from diffusers_soundctm import ISTFTVocoder
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
from diffusers_soundctm.training.first_stage_losses import (
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
from diffusers_soundctm.training.optimizers import scaler_state, step_if_finite
from diffusers_soundctm.training.preflight import check_output_dir, make_accelerator
from diffusers_soundctm.training.sharding import process_rows
from diffusers_soundctm.training.signals import RunningLosses, SkippedSteps, StopSignal


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = add_clip_arguments(parser)
    data.add_argument("--autoencoder", help="folder of the VAE whose reconstructions are vocoded too")
    data.add_argument("--autoencoder_clips", type=int, default=2000, help="how many clips are reconstructed, once")
    data.add_argument("--autoencoder_share", type=float, default=0.5, help="share of batches made of reconstructions")
    model = parser.add_argument_group(
        "model and objective", "train_teacher.py and train_ctm.py know the mels of the defaults alone"
    )
    model.add_argument(
        "--initial_vocoder", help="folder of a finished vocoder to go on from; its sizes are used, not the ones below"
    )
    model.add_argument("--n_fft", type=int, default=1024)
    model.add_argument("--hop_length", type=int, default=160)
    model.add_argument("--n_mels", type=int, default=64)
    model.add_argument("--hidden_size", type=int, default=256)
    model.add_argument("--num_layers", type=int, default=8)
    model.add_argument("--intermediate_size", type=int, default=512)
    model.add_argument(
        "--mel_iterations",
        type=int,
        default=4,
        help="how often a sound is brought nearer to its mel, in training and after; of a finished vocoder, too",
    )
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
    add_optimisation_arguments(parser, precisions=["no", "bf16", "fp16"])
    parser.set_defaults(
        train_batch_size=8, max_train_steps=20000, learning_rate=1e-3, ema_decay=0.998, checkpointing_steps=1000
    )
    return parse_with_config(parser, argv)


def build(args: argparse.Namespace) -> ISTFTVocoder:
    """A new vocoder, or the one to go on from.

    Raises:
        ValueError: it is made for another sampling rate than the clips have.
    """
    if args.initial_vocoder is None:
        return ISTFTVocoder(
            sampling_rate=args.sampling_rate,
            model_in_dim=args.n_mels,
            n_fft=args.n_fft,
            hop_length=args.hop_length,
            hidden_size=args.hidden_size,
            num_layers=args.num_layers,
            intermediate_size=args.intermediate_size,
            mel_iterations=args.mel_iterations,
        )
    vocoder = ISTFTVocoder.from_pretrained(
        args.initial_vocoder, torch_dtype=torch.float32, use_safetensors=True, mel_iterations=args.mel_iterations
    ).train()
    if vocoder.config.sampling_rate != args.sampling_rate:
        raise ValueError(
            f"--initial_vocoder {args.initial_vocoder} is for {vocoder.config.sampling_rate} Hz and --sampling_rate is "
            f"{args.sampling_rate}. Give the vocoder's own rate."
        )
    return vocoder


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
    check_output_dir(args)
    accelerator = make_accelerator(mixed_precision=args.mixed_precision)
    mine = process_rows(args.train_batch_size, accelerator)
    device, output_dir = accelerator.device, Path(args.output_dir)
    set_seed(args.seed)
    vocoder = build(args)
    with accelerator.main_process_first():
        clips = clips_of(args, "train", args.max_train_samples)
    sizes = vocoder.config
    stft_loss = MultiResolutionSTFTLoss()
    fewest = (sizes.n_fft + max(stft_loss.n_ffts) // 2) // sizes.hop_length + 1
    if args.num_frames < fewest:
        raise ValueError(f"--num_frames is {args.num_frames}; the losses' windows need at least {fewest} frames.")
    mel = LogMel(sizes.sampling_rate, sizes.n_fft, sizes.hop_length, sizes.model_in_dim).to(device)
    reconstructed, spread = None, torch.linspace(0, len(clips) - 1, min(args.autoencoder_clips, len(clips))).long()
    if args.autoencoder:
        reconstructed = reconstruct(args.autoencoder, mel, clips, spread, device)
    judge = SpectrogramDiscriminator()
    settings = {"betas": (0.8, 0.99), "weight_decay": args.weight_decay}
    optimizer = torch.optim.AdamW(vocoder.parameters(), args.learning_rate, **settings)
    judge_rate = 0.3 * args.learning_rate
    judge_optimizer = torch.optim.AdamW(judge.parameters(), judge_rate, **settings)
    lr_scheduler = get_scheduler(
        args.lr_scheduler, optimizer, num_warmup_steps=args.lr_warmup_steps, num_training_steps=args.max_train_steps
    )
    average = ema_copy(vocoder).to(device)
    model, judge, optimizer, judge_optimizer = accelerator.prepare(
        Prediction(vocoder), judge, optimizer, judge_optimizer
    )
    skips, running = SkippedSteps(args.max_skipped_steps), RunningLosses()
    state = {"vocoder": vocoder, "ema": average, "optimizer": optimizer, "lr": lr_scheduler,
             "judge": accelerator.unwrap_model(judge), "judge_optimizer": judge_optimizer,
             "skips": skips, "losses": running, **scaler_state(accelerator)}  # fmt: skip
    names = ("train_batch_size", "seed", "sampling_rate", "num_samples", "num_frames", "candidates")
    identity = run_identity(args, names, clips=len(clips))
    mel_loss, stft_loss = MelLoss(mel), stft_loss.to(device)

    def checkpoint_now(done: int) -> None:
        save_checkpoint(output_dir, done, state, args.checkpoints_total_limit, identity)
        save_model(average, output_dir / "vocoder")

    first = resume(args.resume_from_checkpoint, output_dir, state, identity)
    set_learning_rate(lr_scheduler, args.learning_rate)
    judge_optimizer.param_groups[0]["lr"] = judge_rate  # it has no schedule
    progress = tqdm(range(first, args.max_train_steps), initial=first, total=args.max_train_steps, unit="step",
                    disable=not accelerator.is_main_process, mininterval=5)  # fmt: skip
    started, unfinished = time.time(), False
    with StopSignal() as stop:
        for step in progress:
            generator = step_generator(args.seed, step)
            through_vae = reconstructed is not None and torch.rand((), generator=generator) < args.autoencoder_share
            rows = clip_indices(len(spread) if through_vae else len(clips), args.train_batch_size, step, args.seed)
            drawn = spread[rows] if through_vae else rows
            starts = draw_starts(clips.waveforms, drawn, args.num_frames, sizes.hop_length, generator, args.candidates)
            padded = cut_segments(
                clips.waveforms, drawn[mine], starts[mine], args.num_frames, sizes.n_fft, sizes.hop_length
            ).to(device)
            real = padded[:, sizes.n_fft // 2 :][:, : args.num_frames * sizes.hop_length]
            condition = mel(padded, center=False)
            if through_vae:
                positions = starts[mine, None] + torch.arange(args.num_frames)
                condition = reconstructed[rows[mine, None], positions].float().to(device)

            log_magnitude, retention, offset, drive = model(condition)
            # The offsets learn from the sound's own frequencies alone: through many turns of a resonator the spectral
            # losses say nothing useful about them, and spoil them.
            fake = vocoder.match(vocoder.synthesize(log_magnitude, retention, offset.detach(), drive), condition)
            # At its ends the segment lacks the context that its mel frames had.
            fake, real = (sound[:, sizes.n_fft // 2 : -sizes.n_fft // 2] for sound in (fake, real))
            losses = {
                "mel": args.mel_weight * mel_loss(fake, real),
                "stft": args.stft_weight * stft_loss(fake, real),
                "frequency": args.frequency_weight * frequency_loss(offset, padded, mel.window, sizes.hop_length),
            }
            judge_finite = True
            if args.adversarial_start is not None and step >= args.adversarial_start:
                judge.requires_grad_(True)
                real_verdicts, real_features = judge(real)
                fake_verdicts, _ = judge(fake.detach())
                judged = discriminator_loss(real_verdicts, fake_verdicts)
                accelerator.backward(judged)
                judge_finite = step_if_finite(accelerator, judge_optimizer, judge.parameters())
                judge_optimizer.zero_grad(set_to_none=True)
                judge.requires_grad_(False)
                verdicts, features = judge(fake)
                losses["adversarial"] = args.adversarial_weight * generator_loss(verdicts)
                losses["features"] = args.feature_weight * feature_matching_loss(
                    [feature.detach() for feature in real_features], features
                )
                if judge_finite:
                    running["judge"] = judged.item()
            accelerator.backward(sum(losses.values()))
            finite = step_if_finite(accelerator, optimizer, model.parameters(), args.max_grad_norm)
            optimizer.zero_grad(set_to_none=True)
            lr_scheduler.step()
            skips.record(not (finite and judge_finite))

            if finite:
                ema_update(average, vocoder, warmed_up_decay(args.ema_decay, step))
                running.record({name: loss.item() for name, loss in losses.items()}, 0.01)
            values = {name: f"{value:.3f}" for name, value in running.items()}
            progress.set_postfix(values, skipped=skips.total, refresh=False)
            unfinished = stop.checkpoint(accelerator, step + 1, args, checkpoint_now)
            if unfinished:
                break

    if accelerator.is_main_process and not unfinished:
        save_model(average, output_dir / "vocoder")
        record = {"arguments": vars(args), "steps": args.max_train_steps, "skipped_steps": skips.total,
                  "losses": running, "clips": len(clips), "seconds": round(time.time() - started)}  # fmt: skip
        if args.validation_split:
            record["mel_l1"] = measure(average, mel, clips_of(args, args.validation_split), 256, device)
        (output_dir / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({name: record[name] for name in ("losses", "mel_l1") if name in record}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
