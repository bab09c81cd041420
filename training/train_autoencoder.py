"""Train the autoencoder of log-mel spectrograms. Diffusion models work on its latents.

accelerate launch training/train_autoencoder.py --config training/configs/embedded/autoencoder.yaml \
    --dataset_name data --output_dir runs/autoencoder

SIGTERM or SIGUSR1, sent to the script and not to its launcher, writes a checkpoint and ends the run with exit code 0.
"""

import argparse
import json

from diffusers_soundctm.training.config import (
    add_clip_arguments,
    add_optimization_arguments,
    begin_script,
    clips_of,
    parse_with_config,
    run_script,
)

SIGMA_DATA = 0.5  # standard deviation of the scaled latents
MEASURED_CLIPS = 512


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clip_arguments(parser)
    model = parser.add_argument_group("model and objective", "train_teacher.py supports only the mel defaults")
    model.add_argument("--n_fft", type=int, default=1024, help="window of the mel front end in samples")
    model.add_argument("--hop_length", type=int, default=160, help="samples per mel frame")
    model.add_argument("--n_mels", type=int, default=64, help="mel bands")
    model.add_argument(
        "--block_out_channels", type=int, nargs="+", default=[32, 64, 96], help="channels of each resolution"
    )
    model.add_argument("--layers_per_block", type=int, default=1, help="residual layers per resolution")
    model.add_argument("--latent_channels", type=int, default=8, help="channels of the latents")
    model.add_argument("--norm_num_groups", type=int, default=8, help="groups of group normalization")
    model.add_argument("--num_frames", type=int, default=512, help="mel frames of a training segment")
    model.add_argument(
        "--decoder_of", help="folder of a finished VAE: train only its decoder, so that existing latents stay valid"
    )
    model.add_argument(
        "--kl_weight", type=float, default=1e-3, help="weight of the KL per latent element, beside L1 per mel element"
    )
    add_optimization_arguments(parser, precisions=["no", "bf16", "fp16"])
    parser.set_defaults(train_batch_size=4, max_train_steps=10000, learning_rate=1e-3, ema_decay=0.995)
    return parse_with_config(parser, argv)


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

import torch
from diffusers import AutoencoderKL

from diffusers_soundctm.audio import LogMel
from diffusers_soundctm.data import Clips
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.files import reading
from diffusers_soundctm.training.checkpoints import save_model
from diffusers_soundctm.training.ema import ema_copy
from diffusers_soundctm.training.first_stage_losses import cut_segments, draw_starts, kl_divergence
from diffusers_soundctm.training.identity import data_fingerprint
from diffusers_soundctm.training.loop import Recipe, train
from diffusers_soundctm.training.preflight import make_accelerator
from diffusers_soundctm.training.sharding import process_rows


def initial_vae(args: argparse.Namespace) -> AutoencoderKL:
    """A new autoencoder, or the one of `--decoder_of` with its encoder frozen."""
    if args.decoder_of:
        with reading(f"--decoder_of {args.decoder_of}"):
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
        # The cost of attention over all latent positions grows with the square of the duration.
        mid_block_add_attention=False,
    )
    # The mean of typical log-mels: the decoder does not start with loud noise.
    torch.nn.init.constant_(vae.decoder.conv_out.bias, -6.0)
    return vae


class Reconstruction(torch.nn.Module):
    """The differentiated part as one module: encode, sample the posterior with the given noise, decode."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae

    def forward(self, mel: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        posterior = self.vae.encode(mel).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return self.vae.decode(mean + (0.5 * logvar).exp() * noise).sample.float(), mean, logvar


@torch.no_grad()
def measure(vae: AutoencoderKL, mel: LogMel, clips: Clips, num_clips: int, device: torch.device) -> dict[str, float]:
    """Measure the mean |log-mel error| of whole clips through the posterior's mode, and the deviation of raw latents.

    Args:
        vae: The autoencoder.
        mel: Its mel front end.
        clips: The data set.
        num_clips: Number of clips, spread evenly over the data set.
        device: Device of `vae` and `mel`.

    Returns:
        `mel_l1` and `latent_std`.
    """
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


class AutoencoderRecipe(Recipe):
    """L1 on log-mels plus a KL to the standard normal distribution."""

    folder = "vae"

    def setup(self) -> None:
        args, accelerator = self.args, self.accelerator
        self.rows = process_rows(args.train_batch_size, accelerator)
        with accelerator.main_process_first():
            self.clips = clips_of(args, "train", args.max_train_samples)
            self.validation = clips_of(args, args.validation_split) if args.validation_split else None
        self.mel = LogMel(args.sampling_rate, args.n_fft, args.hop_length, args.n_mels).to(accelerator.device)
        vae = initial_vae(args)
        trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, args.learning_rate, (0.9, 0.99), weight_decay=args.weight_decay)
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        self.average = ema_copy(vae).to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(Reconstruction(vae), optimizer)
        self.network = accelerator.unwrap_model(self.model).vae

    def identity(self) -> dict[str, object]:
        return {"clips": len(self.clips), "data": data_fingerprint(self.clips)}

    def train_step(self, step: int) -> dict[str, float]:
        args, device, config = self.args, self.accelerator.device, self.network.config
        generator = step_generator(args.seed, step)
        drawn = clip_indices(len(self.clips), args.train_batch_size, step, args.seed)
        starts = draw_starts(self.clips.waveforms, drawn, args.num_frames, args.hop_length, generator)
        waveforms = cut_segments(
            self.clips.waveforms, drawn[self.rows], starts[self.rows], args.num_frames, args.n_fft, args.hop_length
        )
        target = self.mel(waveforms.to(device), center=False)[:, None]
        scale = 2 ** (len(config.block_out_channels) - 1)
        size = (len(drawn), config.latent_channels, args.num_frames // scale, args.n_mels // scale)
        noise = torch.randn(size, generator=generator)[self.rows].to(device)
        reconstructed, mean, logvar = self.model(target, noise)
        error = (reconstructed - target).abs().mean()
        self.accelerator.backward(error + args.kl_weight * kl_divergence(mean, logvar))
        return {"loss": error.item()}

    def save(self) -> None:
        """Nothing before the end: the model's scaling factor is measured there."""

    def finish(self) -> dict[str, object]:
        args, device = self.args, self.accelerator.device
        measured = {"train": measure(self.average, self.mel, self.clips, MEASURED_CLIPS, device)}
        if self.validation is not None:
            measured[args.validation_split] = measure(self.average, self.mel, self.validation, MEASURED_CLIPS, device)
        if not args.decoder_of:
            self.average.register_to_config(scaling_factor=SIGMA_DATA / measured["train"]["latent_std"])
        save_model(self.average, self.output_dir / self.folder)
        print(json.dumps(measured))
        return {"clips": len(self.clips), **measured}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train(AutoencoderRecipe(args, make_accelerator(args.mixed_precision)))


if __name__ == "__main__":
    run_script(main)
