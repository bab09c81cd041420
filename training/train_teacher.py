"""Train a text-conditional denoiser of audio latents, the teacher that `train_ctm.py` distills.

accelerate launch training/train_teacher.py --config training/configs/embedded/teacher.yaml \
    --dataset_name data --vae runs/autoencoder/vae --text_encoder text_encoder --output_dir runs/teacher

SIGTERM or SIGUSR1, sent to the script and not to its launcher, writes a checkpoint and ends the run with exit code 0.
"""

import argparse
from inspect import signature
from pathlib import Path

from diffusers_soundctm.training.config import (
    add_data_arguments,
    add_optimization_arguments,
    begin_script,
    data_settings,
    parse_with_config,
    run_script,
)
from diffusers_soundctm.training.ranges import CHOICES

SAMPLING_RATE = 16000  # of `LogMel`'s defaults, with which latents are encoded


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    parser.add_argument(
        "--unet_config", help="JSON file (or YAML mapping) of UNet2DConditionModel arguments, for a new network"
    )
    parser.add_argument("--initial_unet", help="folder of a trained network to start from, instead of UNET_CONFIG")
    loss = parser.add_argument_group("objective")
    loss.add_argument(
        "--prediction_type",
        choices=CHOICES["prediction_type"],
        default="edm",
        help="what the network predicts: EDM's mixture of latents and noise, or the velocity of a rectified flow",
    )
    loss.add_argument("--sigma_data", type=float, default=0.5, help="standard deviation of the latents, for edm")
    loss.add_argument("--sigma_min", type=float, default=0.002, help="smallest noise level of sampling")
    loss.add_argument("--sigma_max", type=float, default=80.0, help="largest noise level of sampling")
    loss.add_argument("--p_mean", type=float, default=-1.2, help="mean of ln sigma in training")
    loss.add_argument("--p_std", type=float, default=1.2, help="standard deviation of ln sigma in training")
    loss.add_argument("--caption_dropout", type=float, default=0.1, help="probability of an empty prompt")
    add_optimization_arguments(parser, precisions=["no", "bf16"])
    parser.set_defaults(
        train_batch_size=16, max_train_steps=10000, learning_rate=4e-4, lr_warmup_steps=200, ema_decay=0.999
    )
    args = parse_with_config(parser, argv)
    if args.initial_unet is None and args.unet_config is None:
        parser.error("--unet_config or --initial_unet is required")
    if args.sigma_min >= args.sigma_max:
        parser.error(f"--sigma_min {args.sigma_min} is not below --sigma_max {args.sigma_max}")
    if args.sampling_rate != SAMPLING_RATE:
        parser.error(f"--sampling_rate is {args.sampling_rate}; latents are encoded from {SAMPLING_RATE} Hz log-mels")
    return args


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoTokenizer

from diffusers_soundctm import CTMScheduler
from diffusers_soundctm.data.encoders import AutoTextEncoder, Encoders
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.data.sources import training_data
from diffusers_soundctm.distillation.denoisers import Denoiser, Preconditioning
from diffusers_soundctm.distillation.losses import denoising_loss
from diffusers_soundctm.distillation.noise_levels import lognormal_sigmas
from diffusers_soundctm.files import reading
from diffusers_soundctm.hub.folders import read_config
from diffusers_soundctm.pipelines.conditioning import conditioning_for
from diffusers_soundctm.training.ema import ema_copy
from diffusers_soundctm.training.identity import data_fingerprint
from diffusers_soundctm.training.loop import Recipe, train
from diffusers_soundctm.training.preflight import make_accelerator
from diffusers_soundctm.training.sharding import process_rows


def initial_unet(args: argparse.Namespace) -> UNet2DConditionModel:
    """A trained network, or a new one with random weights."""
    if args.initial_unet:
        with reading(f"--initial_unet {args.initial_unet}"):
            return UNet2DConditionModel.from_pretrained(args.initial_unet, torch_dtype=torch.float32)
    config = args.unet_config if isinstance(args.unet_config, dict) else read_config(Path(args.unet_config))
    # diffusers ignores unknown keys, and a misspelled one would give its large default.
    unknown = [name for name in config if name[:1] != "_" and name not in signature(UNet2DConditionModel).parameters]
    if unknown:
        raise ValueError(f"--unet_config has the keys {unknown}; pass arguments of UNet2DConditionModel alone.")
    with reading(f"--unet_config {args.unet_config}"):
        return UNet2DConditionModel.from_config(config)


class TeacherRecipe(Recipe):
    """Denoising score matching on latents, with caption dropout. For a flow, it is flow matching."""

    folder = "unet"

    def setup(self) -> None:
        args, accelerator = self.args, self.accelerator
        self.rows = process_rows(args.train_batch_size, accelerator)
        unet = initial_unet(args)
        with accelerator.main_process_first():
            with reading(f"--text_encoder {args.text_encoder}"):
                text_encoder = AutoTextEncoder.from_pretrained(args.text_encoder)
                tokenizer = AutoTokenizer.from_pretrained(args.text_encoder)
            with reading(f"--vae {args.vae}"):
                vae = AutoencoderKL.from_pretrained(args.vae)
            encoders = Encoders(vae, conditioning_for(unet, text_encoder, tokenizer))
            self.data = training_data(data_settings(args), encoders, accelerator.device)
        self.scheduler = CTMScheduler(
            sigma_min=args.sigma_min,
            sigma_max=args.sigma_max,
            sigma_data=args.sigma_data,
            prediction_type=args.prediction_type,
        )
        optimizer = torch.optim.AdamW(
            unet.parameters(), args.learning_rate, (0.9, 0.99), weight_decay=args.weight_decay
        )
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        self.average = ema_copy(unet).to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(unet, optimizer)
        self.network = accelerator.unwrap_model(self.model)
        self.denoise = Denoiser(self.model, Preconditioning.from_scheduler(self.scheduler))

    def identity(self) -> dict[str, object]:
        return {"clips": len(self.data), "data": data_fingerprint(self.data)}

    def started(self) -> None:
        if self.accelerator.is_main_process:
            self.scheduler.save_pretrained(self.output_dir / "scheduler")

    def train_step(self, step: int) -> dict[str, float]:
        args, data, device = self.args, self.data, self.accelerator.device
        generator = step_generator(args.seed, step)
        clips = clip_indices(len(data.latents), args.train_batch_size, step, args.seed)
        captions = data.prompts.draw(clips, args.caption_dropout, generator)
        sigma = lognormal_sigmas(len(clips), generator, args.p_mean, args.p_std)
        noise = torch.randn(len(clips), *data.latents.shape[1:], generator=generator)

        clean = data.latents[clips[self.rows]].to(device, torch.float32)
        sigma, noise = sigma[self.rows].to(device), noise[self.rows].to(device)
        condition = data.network_kwargs(captions[self.rows], device)
        denoised = self.denoise(clean + sigma[:, None, None, None] * noise, sigma, **condition)
        loss = denoising_loss(denoised, clean, sigma, args.sigma_data, args.prediction_type).mean()
        self.accelerator.backward(loss)
        return {"loss": loss.item()}

    def finish(self) -> dict[str, object]:
        return {"clips": len(self.data)}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train(TeacherRecipe(args, make_accelerator(args.mixed_precision)))


if __name__ == "__main__":
    run_script(main)
