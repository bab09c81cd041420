"""Train the vocoder, from log-mel spectrograms, of clips or through the autoencoder, to waveforms.

accelerate launch training/train_vocoder.py --config training/configs/embedded/vocoder.yaml \
    --dataset_name data --output_dir runs/vocoder

SIGTERM or SIGUSR1, sent to the script and not to its launcher, writes a checkpoint and ends the run with exit code 0.
"""

import argparse
import json
import math

from diffusers_soundctm.training.config import (
    add_clip_arguments,
    add_optimization_arguments,
    begin_script,
    clips_of,
    parse_with_config,
    run_script,
)

MEASURED_CLIPS = 256
DISCRIMINATOR_RATE = 0.3  # of the vocoder's learning rate


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = add_clip_arguments(parser)
    data.add_argument("--autoencoder", help="folder of a VAE whose reconstructions are training inputs too")
    data.add_argument("--autoencoder_clips", type=int, default=2000, help="number of clips to reconstruct, once")
    data.add_argument("--autoencoder_share", type=float, default=0.5, help="fraction of batches of reconstructions")
    model = parser.add_argument_group("model", "train_teacher.py supports only the mel defaults")
    model.add_argument(
        "--initial_vocoder", help="folder of a trained vocoder to start from; its sizes replace the ones below"
    )
    model.add_argument("--n_fft", type=int, default=1024, help="window of the mel front end and synthesis in samples")
    model.add_argument("--hop_length", type=int, default=160, help="samples per mel frame")
    model.add_argument("--n_mels", type=int, default=64, help="mel bands")
    model.add_argument("--hidden_size", type=int, default=256, help="width of the network")
    model.add_argument("--num_layers", type=int, default=8, help="layers of the network")
    model.add_argument("--intermediate_size", type=int, default=512, help="width inside each layer")
    model.add_argument(
        "--mel_iterations",
        type=int,
        default=4,
        help="iterations that refine the waveform to match the mel, in training and after; also of INITIAL_VOCODER",
    )
    add_loss_arguments(parser)
    add_optimization_arguments(parser, precisions=["no", "bf16", "fp16"])
    parser.set_defaults(
        train_batch_size=8, max_train_steps=20000, learning_rate=1e-3, ema_decay=0.998, checkpointing_steps=1000
    )
    return parse_with_config(parser, argv)


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    loss = parser.add_argument_group("objective")
    loss.add_argument("--num_frames", type=int, default=64, help="mel frames of a training segment")
    loss.add_argument("--candidates", type=int, default=2, help="segments drawn per clip; the loudest one is used")
    loss.add_argument("--mel_weight", type=float, default=1.0, help="weight of the log-mel loss")
    loss.add_argument("--stft_weight", type=float, default=0.5, help="weight of the multi-resolution STFT loss")
    loss.add_argument("--frequency_weight", type=float, default=1.0, help="weight of the frequency loss")
    loss.add_argument("--adversarial_weight", type=float, default=0.05, help="weight of the adversarial loss")
    loss.add_argument("--feature_weight", type=float, default=0.1, help="weight of the feature matching loss")
    loss.add_argument(
        "--adversarial_start", type=int, help="first step with the discriminator; by default it is not used"
    )


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from diffusers_soundctm import ISTFTVocoder
from diffusers_soundctm.audio import LogMel
from diffusers_soundctm.data import Clips
from diffusers_soundctm.data.latents import fingerprint
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.files import reading
from diffusers_soundctm.training.ema import ema_copy
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
from diffusers_soundctm.training.identity import data_fingerprint
from diffusers_soundctm.training.loop import Recipe, train
from diffusers_soundctm.training.optimizers import step_if_finite
from diffusers_soundctm.training.preflight import make_accelerator
from diffusers_soundctm.training.sharding import process_rows


def initial_vocoder(args: argparse.Namespace) -> ISTFTVocoder:
    """A new vocoder, or the one of `--initial_vocoder`.

    Raises:
        ValueError: The sampling rate of that vocoder is not the clips'.
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
    with reading(f"--initial_vocoder {args.initial_vocoder}"):
        vocoder = ISTFTVocoder.from_pretrained(
            args.initial_vocoder, torch_dtype=torch.float32, use_safetensors=True, mel_iterations=args.mel_iterations
        ).train()
    if vocoder.config.sampling_rate != args.sampling_rate:
        raise ValueError(
            f"--initial_vocoder {args.initial_vocoder} is for {vocoder.config.sampling_rate} Hz, but --sampling_rate "
            f"is {args.sampling_rate}; pass --sampling_rate {vocoder.config.sampling_rate}."
        )
    return vocoder


class Prediction(torch.nn.Module):
    """The part that runs in mixed precision: the network without the synthesis."""

    def __init__(self, vocoder: ISTFTVocoder):
        super().__init__()
        self.vocoder = vocoder

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.vocoder.predict(mel)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, mel: LogMel, clips: Clips, indices: torch.Tensor) -> torch.Tensor:
    """Log-mels (len(indices), frames, mels) of whole clips after the autoencoder, float16 on the CPU."""
    num_frames = clips.waveforms.shape[1] // mel.hop_length
    reconstructed = []
    for chosen in tqdm(indices.split(8), desc="reconstructing clips", unit="batch", mininterval=5):
        waveforms = cut_segments(
            clips.waveforms, chosen, torch.zeros_like(chosen), num_frames, mel.n_fft, mel.hop_length
        )
        target = mel(waveforms.to(vae.device), center=False)[:, None]
        decoded = vae.decode(vae.encode(target).latent_dist.mode()).sample
        reconstructed.append(decoded[:, 0].half().cpu())
    return torch.cat(reconstructed)


@torch.no_grad()
def measure(vocoder: ISTFTVocoder, mel: LogMel, clips: Clips, num_clips: int, device: torch.device) -> float:
    """Measure the mean |log-mel error| of `num_clips` whole clips, spread evenly over the data set."""
    indices = torch.linspace(0, len(clips) - 1, min(num_clips, len(clips))).long()
    num_frames = clips.waveforms.shape[1] // mel.hop_length
    errors = []
    for chosen in indices.split(8):
        padded = cut_segments(clips.waveforms, chosen, torch.zeros_like(chosen), num_frames, mel.n_fft, mel.hop_length)
        target = mel(padded.to(device), center=False)
        errors.append((mel(vocoder(target)) - target).abs().mean(dim=(1, 2)))
    return torch.cat(errors).mean().item()


class VocoderRecipe(Recipe):
    """Spectral losses, a frequency loss, and later a discriminator with losses of its own."""

    folder = "vocoder"
    loss_weight = 0.01

    def setup(self) -> None:
        args, accelerator = self.args, self.accelerator
        self.rows = process_rows(args.train_batch_size, accelerator)
        vocoder = initial_vocoder(args)
        with accelerator.main_process_first():
            self.clips = clips_of(args, "train", args.max_train_samples)
            self.validation = clips_of(args, args.validation_split) if args.validation_split else None
        sizes = self.sizes = vocoder.config
        self.mel = LogMel(sizes.sampling_rate, sizes.n_fft, sizes.hop_length, sizes.model_in_dim).to(accelerator.device)
        self.mel_loss, self.stft_loss = MelLoss(self.mel), MultiResolutionSTFTLoss().to(accelerator.device)
        self._check_num_frames()
        self._reconstruct()
        discriminator = SpectrogramDiscriminator()
        settings = {"betas": (0.8, 0.99), "weight_decay": args.weight_decay}
        optimizer = torch.optim.AdamW(vocoder.parameters(), args.learning_rate, **settings)
        discriminator_optimizer = torch.optim.AdamW(
            discriminator.parameters(), DISCRIMINATOR_RATE * args.learning_rate, **settings
        )
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        self.average, self.network = ema_copy(vocoder).to(accelerator.device), vocoder
        self.model, self.discriminator, self.optimizer, self.discriminator_optimizer = accelerator.prepare(
            Prediction(vocoder), discriminator, optimizer, discriminator_optimizer
        )

    def _check_num_frames(self) -> None:
        fewest = (self.sizes.n_fft + max(self.stft_loss.n_ffts) // 2) // self.sizes.hop_length + 1
        if self.args.num_frames < fewest:
            raise ValueError(
                f"--num_frames is {self.args.num_frames}; the windows of the losses need at least {fewest} frames."
            )

    def _reconstruct(self) -> None:
        """Reconstruct some clips, spread evenly over the data set, with the autoencoder."""
        args, self.reconstructed, self.vae_fingerprint = self.args, None, None
        self.spread = torch.linspace(0, len(self.clips) - 1, min(args.autoencoder_clips, len(self.clips))).long()
        if args.autoencoder:
            with reading(f"--autoencoder {args.autoencoder}"):
                vae = AutoencoderKL.from_pretrained(args.autoencoder).to(self.accelerator.device).eval()
            self.vae_fingerprint = fingerprint(vae)
            self.reconstructed = reconstruct(vae, self.mel, self.clips, self.spread)

    def state(self) -> dict[str, object]:
        return super().state() | {
            "discriminator": self.accelerator.unwrap_model(self.discriminator),
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def identity(self) -> dict[str, object]:
        data = data_fingerprint(self.clips)
        return {"clips": len(self.clips), "data": data, "autoencoder": self.vae_fingerprint}

    def started(self) -> None:
        # The discriminator's learning rate has no schedule. A checkpoint brings the rate of the run before.
        self.discriminator_optimizer.param_groups[0]["lr"] = DISCRIMINATOR_RATE * self.args.learning_rate

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a batch: waveforms with the context of their mel frames, (B, samples), and the mels to vocode."""
        args, sizes, device = self.args, self.sizes, self.accelerator.device
        generator = step_generator(args.seed, step)
        through_vae = self.reconstructed is not None and torch.rand((), generator=generator) < args.autoencoder_share
        num_clips = len(self.spread) if through_vae else len(self.clips)
        clips = clip_indices(num_clips, args.train_batch_size, step, args.seed)
        drawn = self.spread[clips] if through_vae else clips
        waveforms = self.clips.waveforms
        starts = draw_starts(waveforms, drawn, args.num_frames, sizes.hop_length, generator, args.candidates)
        rows = self.rows
        padded = cut_segments(waveforms, drawn[rows], starts[rows], args.num_frames, sizes.n_fft, sizes.hop_length)
        padded = padded.to(device)
        if not through_vae:
            return padded, self.mel(padded, center=False)
        positions = starts[rows, None] + torch.arange(args.num_frames)
        return padded, self.reconstructed[clips[rows, None], positions].float().to(device)

    def train_step(self, step: int) -> dict[str, float]:
        args, sizes, vocoder = self.args, self.sizes, self.network
        padded, condition = self.draw(step)
        log_magnitude, retention, offset, drive = self.model(condition)
        # Only the frequency loss trains the offsets. Spectral losses, through many turns of a resonator, spoil them.
        fake = vocoder.match(vocoder.synthesize(log_magnitude, retention, offset.detach(), drive), condition)
        real = padded[:, sizes.n_fft // 2 :][:, : args.num_frames * sizes.hop_length]
        # At its ends the segment lacks the context that its mel frames had.
        fake, real = (waveform[:, sizes.n_fft // 2 : -sizes.n_fft // 2] for waveform in (fake, real))
        losses = {
            "mel": args.mel_weight * self.mel_loss(fake, real),
            "stft": args.stft_weight * self.stft_loss(fake, real),
            "frequency": args.frequency_weight * frequency_loss(offset, padded, self.mel.window, sizes.hop_length),
        }
        values = {}
        if args.adversarial_start is not None and step >= args.adversarial_start:
            values["discriminator"], real_features = self.train_discriminator(fake.detach(), real)
            losses |= self.adversarial_losses(fake, real_features)
        self.accelerator.backward(sum(losses.values()))
        return {name: loss.item() for name, loss in losses.items()} | values

    def train_discriminator(self, fake: torch.Tensor, real: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
        """Update the discriminator. Returns its loss (NaN if the update was skipped) and its features of `real`."""
        self.discriminator.requires_grad_(True)
        real_logits, real_features = self.discriminator(real)
        loss = discriminator_loss(real_logits, self.discriminator(fake)[0])
        self.accelerator.backward(loss)
        finite = step_if_finite(self.accelerator, self.discriminator_optimizer, self.discriminator.parameters())
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        return loss.item() if finite else math.nan, [feature.detach() for feature in real_features]

    def adversarial_losses(self, fake: torch.Tensor, real_features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses that the discriminator gives the vocoder."""
        self.discriminator.requires_grad_(False)
        logits, features = self.discriminator(fake)
        return {
            "adversarial": self.args.adversarial_weight * generator_loss(logits),
            "features": self.args.feature_weight * feature_matching_loss(real_features, features),
        }

    def finish(self) -> dict[str, object]:
        measured = {}
        if self.validation is not None:
            measured["mel_l1"] = measure(
                self.average, self.mel, self.validation, MEASURED_CLIPS, self.accelerator.device
            )
            print(json.dumps(measured))
        return {"clips": len(self.clips), **measured}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train(VocoderRecipe(args, make_accelerator(args.mixed_precision)))


if __name__ == "__main__":
    run_script(main)
