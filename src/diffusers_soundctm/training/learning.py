"""Teach a SoundCTM new sounds from a folder of recordings; the result is a LoRA adapter of a few MB."""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from ..data.batches import TrainingData
from ..data.captions import read_captions
from ..data.devices import moved
from ..data.latents import encode_latents, fingerprint
from ..data.material import find_recordings, read_material
from ..data.prompts import embed_captions
from ..data.sampling import clip_indices, step_generator
from ..distillation.adaptation import AdaptationBatch, StudentAdaptation, TeacherAdaptation
from ..distillation.denoisers import Denoiser
from ..distillation.noise_levels import denoising_sigmas, sampler_step
from ..distillation.teachers import Teacher, TeacherFamily, recognize
from ..distillation.teachers import teacher_folder as folder_of
from ..distillation.teachers.base import load_component
from ..files import save_safetensors
from ..lora import WEIGHTS, add_lora, block_layers, save_lora, without_adapters
from ..pipelines.pipeline_soundctm import SoundCTMPipeline
from ..preconditioning import karras_sigmas
from .checkpoints import latest_checkpoint
from .config import cache_dir
from .ema import ema_copy
from .identity import data_fingerprint, weights_fingerprint
from .learning_arguments import caption_of, teacher_of
from .learning_card import publish_adapter, write_card
from .loop import Recipe, train
from .preflight import make_accelerator
from .publish import publishing_problems
from .validation import generate_samples

INTERVALS = 16  # of the grid of noise levels, which holds those of 1-, 2-, 4-, 8- and 16-step samplers
PRIOR_STEPS = 4
PRIOR_DROPOUT = 0.1  # of the prior sounds' captions
OMEGA = 3.5  # of a model that does not record its range
PRIOR_PROMPTS = (
    "rain", "wind", "thunder", "ocean waves", "a dog barks", "birds sing", "a cat meows", "a crowd talks",
    "a person speaks", "applause", "footsteps", "a door closes", "glass breaks", "a car passes by", "an engine idles",
    "a siren", "a bell rings", "a clock ticks", "a phone rings", "a drum beat", "a piano plays", "a guitar plays",
    "water drips", "a fire crackles", "an explosion", "a gunshot", "keyboard typing", "white noise", "a low hum",
    "a train passes by", "an airplane flies over", "insects chirp",
)  # fmt: skip


def learn(args: argparse.Namespace) -> None:
    """Train an adapter as the arguments of `learn_sounds.py` say.

    Raises:
        ValueError, OSError: The arguments do not fit the recordings, the model or the output folder.
        FloatingPointError: Training diverged.
    """
    problems = publishing_problems(args)
    if problems:
        raise ValueError(" ".join(problems))
    accelerator = make_accelerator(args.mixed_precision)
    if accelerator.num_processes > 1:
        raise ValueError("Learning sounds runs in one process; start it with python or `soundctm learn`.")
    train(LearningRecipe(args, accelerator))


class LearningRecipe(Recipe):
    """A LoRA on the student, or on its teacher, with prior preservation."""

    folder = "adapter"
    loss_weight = 0.05
    seconds_per_step = 0.0

    def setup(self) -> None:
        args, device = self.args, self.accelerator.device
        self.pipe = load_model(args.model)
        student: Any = self.pipe.denoiser
        self.component = "unet" if self.pipe.transformer is None else "transformer"
        self.parts = {name: part for name, part in self.pipe.components.items() if part is not None}
        around = {name: part for name, part in self.parts.items() if name not in (self.component, "scheduler")}
        # Everything around the network is read from it as from a teacher.
        self.reader = Teacher(TeacherFamily, student, self.pipe.scheduler, around)
        self.data, self.num_new = self.read_data()
        network, scheduler = student, self.pipe.scheduler
        targets = block_layers(student)
        if args.method == "teacher":
            network, scheduler = load_network(teacher_of(args), student)
            add_lora(student, args.lora_rank, targets=targets, new_parameters=False)
            student.requires_grad_(False)
        trained = add_lora(network, args.lora_rank, targets=targets, new_parameters=False)
        config = scheduler.config
        self.sigmas = karras_sigmas(INTERVALS, config.sigma_min, config.sigma_max, config.rho)
        optimizer = torch.optim.AdamW(trained, args.learning_rate, (0.9, 0.99), weight_decay=args.weight_decay)
        self.lr_scheduler = self.make_lr_scheduler(optimizer)
        self.average = ema_copy(network).to(device)
        self.model, self.optimizer = self.accelerator.prepare(network.train(), optimizer)
        self.network = network
        settings = Teacher(TeacherFamily, network, scheduler, around).preconditioning
        trained_network = Denoiser(self.model, settings)

        def frozen():
            return without_adapters(network)

        self.objective: TeacherAdaptation | StudentAdaptation = (
            TeacherAdaptation(trained_network, frozen)
            if args.method == "teacher"
            else StudentAdaptation(trained_network, Denoiser(self.average, settings), frozen, args.consistency_weight)
        )

    def read_data(self) -> tuple[TrainingData, int]:
        """Latents and captions of the windows, then of the model's own sounds; and the number of windows."""
        args, reader, device = self.args, self.reader, self.accelerator.device
        num_samples = args.num_samples or reader.default_num_samples
        if reader.latent_positions(num_samples)[0] is None:
            unit = reader.latent_positions(num_samples)[2] * reader.latent_positions(num_samples)[1]
            raise ValueError(f"--num_samples {num_samples} is not a multiple of {unit}, as this model needs.")
        recordings = find_recordings(Path(args.recordings), caption_of(args))
        self.material = read_material(
            recordings, reader.sampling_rate, num_samples, reader.num_channels, args.speed_semitones, args.seed
        )
        self.seconds = sum(recording.seconds for recording in recordings)
        self.num_recordings = len(recordings)
        self.window_seconds = num_samples / reader.sampling_rate
        clips, encoders, cache = self.material.clips, reader.encoders, cache_dir(args)
        latents = encode_latents(encoders.vae, clips, cache, front_end=encoders.front_end, device=device)
        prompts, prior = self.prior(num_samples / reader.sampling_rate)
        table = embed_captions(
            reader.conditioning,
            [*clips.captions, *([prompt] for prompt in prompts)],
            cache,
            device=device,
            audio_length_in_s=num_samples / reader.sampling_rate,
        )
        return TrainingData(torch.cat([latents, prior]), table, reader.conditioning), len(latents)

    @torch.no_grad()
    def prior(self, seconds: float) -> tuple[list[str], torch.Tensor]:
        """Prompts of other sounds, and the latents of what the model makes of them, bfloat16."""
        args, pipe = self.args, self.pipe
        prompts, count = prior_prompts(args.prior_prompts, pipe), args.prior_sounds if args.prior_rate else 0
        order = torch.randperm(len(prompts), generator=step_generator(args.seed, 0, stream=6)).tolist()
        chosen = [prompts[order[index % len(order)]] for index in range(count)]
        name = fingerprint(weights_fingerprint(pipe.denoiser), chosen, seconds, args.seed)
        path = cache_dir(args) / f"prior-{name}.safetensors"
        if not path.exists():
            made = [torch.empty(0, *self.reader.encoders.latent_shape(round(seconds * self.reader.sampling_rate)))]
            pipe.set_progress_bar_config(disable=True)
            with moved([part for part in self.parts.values() if isinstance(part, torch.nn.Module)],
                       self.accelerator.device):  # fmt: skip
                for index, prompt in enumerate(tqdm(chosen, desc="the model's own sounds", unit="sound")):
                    made += torch.as_tensor(pipe(
                        prompt,
                        num_inference_steps=PRIOR_STEPS,
                        guidance_scale=sum(omega_range(pipe)) / 2,
                        audio_length_in_s=seconds,
                        generator=torch.Generator().manual_seed(args.seed + index),
                        output_type="latent",
                    ).audios).cpu().split(1)  # fmt: skip
            save_safetensors({"latents": torch.cat(made).to(torch.bfloat16)}, path)
        return chosen, load_file(path)["latents"]

    def identity(self) -> dict[str, object]:
        return {"data": data_fingerprint(self.data), "network": weights_fingerprint(self.average)}

    def state(self) -> dict[str, Any]:
        return {"adapter": Adapter(self.network), "ema": Adapter(self.average), "optimizer": self.optimizer}

    def started(self) -> None:
        for note in self.material.notes:
            print(f"Note: {note}")
        begun = time.time()
        self.train_step(0)
        self.model.zero_grad(set_to_none=True)
        left = self.args.max_train_steps - self.lr_scheduler.last_epoch
        minutes = (time.time() - begun) * left / 60
        size = sum(parameter.numel() for parameter in self.network.parameters() if parameter.requires_grad) * 4 / 1e6
        updates = "1 update" if left == 1 else f"{left} updates"
        print(
            f"{self.num_recordings} recordings of {self.seconds:.0f} s in all make {self.num_new} windows. {updates} "
            f"will take about {max(minutes, 0.1):.1f} minutes here; the adapter will have {size:.1f} MB. Sounds on "
            f"the way: {self.output_dir / 'samples'}"
        )

    def train_step(self, step: int) -> dict[str, float]:
        batch = self.batch(step)
        with self.accelerator.autocast():
            total, parts = self.objective(batch)
        self.accelerator.backward(total)
        return {name: value.item() for name, value in parts.items()}

    def batch(self, step: int) -> AdaptationBatch:
        """Draw the batch of a step."""
        args, data, device = self.args, self.data, self.accelerator.device
        generator, size = step_generator(args.seed, step), args.train_batch_size
        num_prior = min(round(size * args.prior_rate), size - 1) if len(data) > self.num_new else 0
        n = size - num_prior
        new = clip_indices(self.num_new, n, step, args.seed)
        rows = new
        captions = data.prompts.draw(new, 0.0, generator)
        if num_prior:
            prior = self.num_new + clip_indices(len(data) - self.num_new, num_prior, step, args.seed)
            rows = torch.cat([new, prior])
            captions = torch.cat([captions, data.prompts.draw(prior, PRIOR_DROPOUT, generator)])
        grid, levels = self.sigmas, len(self.sigmas)
        sigma = denoising_sigmas(size, generator, grid[-1].item(), grid[0].item()).clamp(grid[-1], grid[0])
        sigma = sigma[torch.randperm(size, generator=generator)]
        start, end = sampler_step(size, levels, generator)
        sigma[n:] = grid[start[n:]]
        low, high = omega_range(self.pipe)
        return AdaptationBatch(
            clean=data.latents[rows].to(device, torch.float32),
            noise=torch.randn(size, *data.latent_shape, generator=generator).to(device),
            sigma=sigma.to(device),
            target_sigma=grid[end].to(device),
            jumps=torch.stack([grid[start], grid[start + 1], grid[end]])[:, :n].to(device),
            guidance_scale=(low + (high - low) * torch.rand(size, generator=generator)).to(device),
            network_kwargs=data.network_kwargs(captions, device),
            num_new=n,
        )

    def save(self) -> None:
        save_lora(self.average, self.output_dir, new_parameters=False)

    def after_step(self, done: int) -> None:
        if done % self.args.validation_steps and done != self.args.max_train_steps:
            return
        pipe, folder = self.adapted(), self.output_dir / "samples" / f"step-{done}"
        prompts = list(dict.fromkeys(options[0] for options in self.material.clips.captions))[:4]
        models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
        with moved(models, self.accelerator.device):
            omega = sum(omega_range(self.pipe)) / 2
            generate_samples(pipe, prompts, folder, omega, (1, 4), self.args.seed, self.window_seconds)

    def adapted(self) -> SoundCTMPipeline:
        """The model with the adapter as it is now."""
        student = self.average
        if self.args.method == "teacher":
            student = self.pipe.denoiser
            Adapter(student).load_state_dict(Adapter(self.average).state_dict())
        return SoundCTMPipeline.from_components({**self.parts, self.component: student}, omega_range(self.pipe))

    def finish(self) -> dict[str, Any]:
        record = {
            "recordings": self.num_recordings,
            "seconds_of_audio": round(self.seconds, 1),
            "windows": self.num_new,
            "captions": sorted({caption for options in self.material.clips.captions for caption in options}),
            "notes": self.material.notes,
            "adapter_bytes": (self.output_dir / WEIGHTS).stat().st_size,
        }
        write_card(self.args, self.pipe, record)
        return record

    def publish(self, record: dict[str, Any]) -> None:
        for leftover in (latest_checkpoint(self.output_dir), self.output_dir / "cache"):
            if leftover is not None:
                shutil.rmtree(leftover, ignore_errors=True)
        print(f"Saved: {self.output_dir}. Try it: soundctm generate {record['captions'][0]!r} --lora {self.output_dir}")
        if self.args.push_to_hub:
            print(f"Uploaded: {publish_adapter(self.args)}")


class Adapter:
    """The LoRA of a network, as an entry of a checkpoint."""

    def __init__(self, network: torch.nn.Module):
        self.network = network

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The low-rank factors by name."""
        return {name: value.detach() for name, value in self.network.named_parameters() if ".lora_" in name}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Set the factors. `KeyError`, `RuntimeError`: they are those of another network or rank."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])


def load_model(model: str | None) -> SoundCTMPipeline:
    """Load the SoundCTM to teach, in float32 on the CPU."""
    if model in (None, "embedded"):
        return SoundCTMPipeline.from_embedded(dtype=torch.float32)
    return SoundCTMPipeline.from_pretrained(model, dtype=torch.float32)


def load_network(teacher: str, student: torch.nn.Module) -> tuple[torch.nn.Module, Any]:
    """Load the network and the scheduler of a teacher.

    Raises:
        ValueError: It is not the teacher of `student`.
    """
    folder = folder_of(teacher)
    family = recognize(folder)
    network = load_component(family.network, family.network_class, family.network_folder(folder))
    ours, theirs = ({name: module.weight.shape for name, module in net.named_modules() if name in names}
                    for net, names in ((student, block_layers(student)), (network, block_layers(network))))  # fmt: skip
    if ours != theirs:
        raise ValueError(f"--teacher {teacher} is not the teacher of this model: their layers differ.")
    return network.requires_grad_(False), family.load_scheduler(folder)


def prior_prompts(file: str | None, pipe: SoundCTMPipeline) -> list[str]:
    """Prompts of a file, or of the kinds that the model knows, or general ones."""
    if file is not None:
        return read_captions(file)
    if pipe.known_sounds is not None:
        return [prompts[0] for prompts in pipe.known_sounds.kinds.values()]
    return list(PRIOR_PROMPTS)


def omega_range(pipe: SoundCTMPipeline) -> tuple[float, float]:
    """Smallest and largest ω of the model's training."""
    low, high = pipe.config.guidance_scale_range or (OMEGA, OMEGA)
    return float(low), float(high)
