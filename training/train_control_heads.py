"""Train the heads that read loudness, brightness, onsets and pitch off noisy latents, for guidance without a decoder.

accelerate launch training/train_control_heads.py --config training/configs/embedded/control_heads.yaml \
    --dataset_name data --output_dir runs/heads

Without a data set, --captions trains on the sounds that the model itself makes of them. Copy OUTPUT_DIR/control_heads
into the model's folder, and guidance uses it from then on.
"""

import argparse
import json
from pathlib import Path

from diffusers_soundctm.training.config import (
    add_clip_arguments,
    add_optimization_arguments,
    begin_script,
    cache_dir,
    clips_of,
    parse_with_config,
    run_script,
)

QUIETEST_DB = -40.0  # of the random envelopes
KNOTS = 5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_clip_arguments(parser)
    model = parser.add_argument_group("model and heads")
    model.add_argument("--pipeline", help="folder or Hub id of the model; by default the embedded one")
    model.add_argument("--captions", help="text file with one caption per line: train on the model's own sounds")
    model.add_argument("--hidden_size", type=int, default=128, help="channels of the hidden layers")
    model.add_argument("--num_layers", type=int, default=4, help="residual layers")
    add_optimization_arguments(parser, precisions=["no"])
    parser.set_defaults(
        dataset_name=None, train_batch_size=16, max_train_steps=2000, learning_rate=2e-3, ema_decay=0.99
    )
    args = parse_with_config(parser, argv)
    if (args.dataset_name is None) == (args.captions is None):
        parser.error("give one of --dataset_name and --captions: the sounds that the heads are trained on")
    return args


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from diffusers_soundctm import SoundCTMPipeline, audio
from diffusers_soundctm.control import LatentHeads, Sound
from diffusers_soundctm.control.heads import CURVES, head_loss, head_targets
from diffusers_soundctm.data.captions import read_captions
from diffusers_soundctm.data.latents import fingerprint, from_int16
from diffusers_soundctm.data.sampling import clip_indices, step_generator
from diffusers_soundctm.preconditioning import karras_sigma
from diffusers_soundctm.training.ema import ema_copy
from diffusers_soundctm.training.loop import Recipe, train
from diffusers_soundctm.training.preflight import make_accelerator
from diffusers_soundctm.training.sharding import process_rows


def own_sounds(pipe: SoundCTMPipeline, captions: list[str], num_samples: int, seed: int) -> torch.Tensor:
    """One sound of each caption, (N, samples)."""
    sounds = []
    for number, caption in enumerate(tqdm(captions, desc="Sounds")):
        generator = torch.Generator().manual_seed(seed + number)
        length = num_samples / pipe.sampling_rate
        made = pipe(caption, num_inference_steps=2, audio_length_in_s=length, generator=generator, output_type="pt")
        sounds.append(made.audios[0].mean(dim=0).cpu())
    return torch.stack(sounds)


def envelopes(count: int, num_samples: int, seed: int) -> torch.Tensor:
    """Random gains (count, num_samples), so that the heads see all loudness curves; every second one is flat."""
    knots = QUIETEST_DB * torch.rand(count, 1, KNOTS, generator=torch.Generator().manual_seed(seed))
    decibels = torch.nn.functional.interpolate(knots, num_samples, mode="linear", align_corners=True)[:, 0]
    return torch.where(torch.arange(count)[:, None] % 2 == 0, 1.0, 10 ** (decibels / 20))


@torch.no_grad()
def latents_and_targets(pipe: SoundCTMPipeline, waveforms: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """The cached data: latents (N, C, time, ...) and the curves of their sounds, see `head_targets`."""
    device, rows = pipe.device, []
    like = Sound.of_latents(pipe, torch.zeros(1, 1, 1, 1, device=device))
    waveforms = waveforms * envelopes(*waveforms.shape, seed)
    for chunk in tqdm(waveforms.split(8), desc="Latents and curves"):
        chunk = audio.peak_normalize(chunk)
        latents = pipe.encode_audio(chunk[:, None].to(device), pipe.sampling_rate, chunk.shape[-1])
        sound = like.of_waveform(chunk.to(device))
        targets = head_targets(sound, frames_per_position(pipe))
        rows.append({"latents": latents, **targets})
    return {name: torch.cat([row[name] for row in rows]).half().cpu().contiguous() for name in rows[0]}


def frames_per_position(pipe: SoundCTMPipeline) -> int:
    """Mel frames per latent position."""
    like = Sound.of_latents(pipe, torch.zeros(1, 1, 1, 1))
    return round(pipe.vae_scale_factor * pipe.hop_length / like.front_end.hop_length)


class HeadsRecipe(Recipe):
    """Regression of the curves, and cross entropy of the pitch, at noise levels on the whole Karras curve."""

    folder = "control_heads"

    def setup(self) -> None:
        args, accelerator = self.args, self.accelerator
        self.rows = process_rows(args.train_batch_size, accelerator)
        load = SoundCTMPipeline.from_pretrained if args.pipeline else lambda _: SoundCTMPipeline.from_embedded()
        pipe = load(args.pipeline).to(accelerator.device)
        pipe.set_progress_bar_config(disable=True)
        with accelerator.main_process_first():
            self.data = self._data(pipe)
        self.sigmas = pipe.scheduler.config.sigma_min, pipe.scheduler.config.sigma_max
        latents = self.data["latents"]
        curves = [self.data[name].float() for name in CURVES]
        self.stds = [curve.std().item() for curve in curves]
        heads = LatentHeads(
            latents[0].numel() // latents.shape[2],
            frames_per_position(pipe),
            args.hidden_size,
            args.num_layers,
            latents.float().std().item(),
            tuple(curve.mean().item() for curve in curves),
            tuple(self.stds),
        )
        optimizer = torch.optim.AdamW(heads.parameters(), args.learning_rate, (0.9, 0.99), weight_decay=1e-3)
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        self.average = ema_copy(heads).to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(heads, optimizer)
        self.network = accelerator.unwrap_model(self.model)

    def _data(self, pipe: SoundCTMPipeline) -> dict[str, torch.Tensor]:
        args = self.args
        if args.captions:
            source = read_captions(args.captions)[: args.max_train_samples]
        else:
            clips = clips_of(args, "train", args.max_train_samples)
            source = [len(clips), str(clips.captions[:100])]
        name = fingerprint(*source, args.pipeline, args.num_samples, args.seed)
        path = Path(cache_dir(args)) / f"heads-{name}.safetensors"
        if not path.exists():
            if args.captions:
                waveforms = own_sounds(pipe, source, args.num_samples, args.seed)
            else:
                waveforms = from_int16(clips.waveforms)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(latents_and_targets(pipe, waveforms, args.seed), path)
        return load_file(path)

    def identity(self) -> dict[str, object]:
        return {"data": fingerprint(*(float(values.float().sum()) for values in self.data.values()))}

    def train_step(self, step: int) -> dict[str, float]:
        args, device = self.args, self.accelerator.device
        generator = step_generator(args.seed, step)
        drawn = clip_indices(len(self.data["latents"]), args.train_batch_size, step, args.seed)
        position = torch.rand(len(drawn), generator=generator)
        sigma = karras_sigma(position, *self.sigmas)
        noise = torch.randn(len(drawn), *self.data["latents"].shape[1:], generator=generator)
        batch = {name: values[drawn[self.rows]].float().to(device) for name, values in self.data.items()}
        sigma, noise = sigma[self.rows].to(device), noise[self.rows].to(device)
        noisy = batch["latents"] + sigma.reshape(-1, *[1] * (noise.ndim - 1)) * noise
        losses = head_loss(self.model(noisy, sigma), batch, self.stds)
        self.accelerator.backward(sum(losses.values()))
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def finish(self) -> dict[str, object]:
        """Measure the loudness error in dB at some noise levels."""
        batch = {name: values[:64].float().to(self.accelerator.device) for name, values in self.data.items()}
        errors = {}
        for level in (0.002, 0.1, 0.5, 2.0, 10.0):
            noise = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(0))
            noisy = batch["latents"] + level * noise.to(batch["latents"].device)
            readings = self.average(noisy, torch.tensor(level))
            frames = batch["loudness"].shape[1]
            errors[str(level)] = (readings["loudness"][:, :frames] - batch["loudness"]).abs().mean().item()
        print(json.dumps({"loudness_error_db": errors}))
        return {"loudness_error_db": errors}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    train(HeadsRecipe(args, make_accelerator(args.mixed_precision)))


if __name__ == "__main__":
    run_script(main)
