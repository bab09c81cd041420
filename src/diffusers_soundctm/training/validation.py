"""Validation during training: generated audio, and how close the student is to its teacher's trajectories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import audio
from ..data.prompts import embed_captions
from ..distillation.denoisers import Denoiser
from ..distillation.diagnostics import TrajectoryComparison, solve_teacher


class TrajectoryValidation:
    """Compares a student with its teacher's own solutions for a few prompts. The teacher solves them once.

    Args:
        teacher: The `Teacher`, its network on `device`.
        prompts: Prompts, preferably ones that training does not draw.
        latent_shape: Shape of one latent, such as (C, time, width).
        guidance_scale: ω.
        audio_length_in_s: Length of the waveforms in seconds, for a conditioning that needs it.
        cache_dir: Folder for the embeddings of the prompts.
        seed: Seed of the noise.
        device: Where the networks run.
    """

    def __init__(
        self,
        teacher: Any,
        prompts: Sequence[str],
        latent_shape: Sequence[int],
        guidance_scale: float,
        audio_length_in_s: float,
        cache_dir: Path,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        table = embed_captions(
            teacher.conditioning,
            [[prompt] for prompt in prompts],
            cache_dir,
            device=device,
            audio_length_in_s=audio_length_in_s,
        )
        indices = torch.tensor([caption for (caption,) in table.captions])
        pairs = torch.cat([indices, torch.zeros_like(indices)])
        noise = torch.randn(len(prompts), *latent_shape, generator=torch.Generator().manual_seed(seed))
        settings = teacher.scheduler.config
        self.preconditioning = teacher.preconditioning
        self.guidance_scale = guidance_scale
        self.solution = solve_teacher(
            teacher.network,
            teacher.preconditioning,
            noise.to(device),
            teacher.conditioning.network_kwargs(*table.embeds(indices, device)),
            teacher.conditioning.guided_kwargs(*table.embeds(pairs, device)),
            guidance_scale,
            settings.sigma_min,
            settings.sigma_max,
            settings.rho,
        )

    def __call__(self, student: torch.nn.Module, step_counts: Sequence[int] = (1, 4, 16)) -> dict[str, float]:
        """Return the distances to the solutions by number of steps, and the effective guidance by noise level."""
        comparison = TrajectoryComparison(step_counts, (self.guidance_scale,))
        comparison.add(Denoiser(student, self.preconditioning), self.solution)
        guidance = comparison.effective_guidance.items()
        return {
            **{f"distance/{count} steps": value for count, value in comparison.distance.items()},
            **{f"effective_guidance/sigma {sigma:.3g}": value for (_, sigma), value in guidance},
        }


def make_samples(
    pipe: Any,
    prompts: Sequence[str],
    folder: Path,
    guidance_scale: float,
    steps: Sequence[int],
    seed: int = 0,
) -> dict[str, tuple[torch.Tensor, int]]:
    """Generate as `generate_samples` does, and draw `folder/spectrograms.png`."""
    samples = generate_samples(pipe, prompts, folder, guidance_scale, steps, seed)
    draw_spectrograms(samples, prompts, steps, folder / "spectrograms.png")
    return samples


def generate_samples(
    pipe: Any,
    prompts: Sequence[str],
    folder: Path,
    guidance_scale: float,
    steps: Sequence[int],
    seed: int = 0,
    audio_length_in_s: float | None = None,
) -> dict[str, tuple[torch.Tensor, int]]:
    """Generate every prompt with every number of steps, from the same noise.

    Writes `folder/{prompt number}-{steps}steps.wav`.

    Args:
        pipe: A `SoundCTMPipeline`.
        prompts: What to generate.
        folder: Folder of the files; it is made if it is missing.
        guidance_scale: ω.
        steps: Numbers of sampling steps.
        seed: Seed of the first prompt's noise.
        audio_length_in_s: Length of the waveforms; by default the model's.

    Returns:
        Name of the file to waveform (channels, samples) and sampling rate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(disable=True)
    samples = {}
    for number, prompt in enumerate(prompts):
        for count in steps:
            generator = torch.Generator().manual_seed(seed + number)
            waveform = pipe(
                prompt,
                num_inference_steps=count,
                guidance_scale=guidance_scale,
                generator=generator,
                audio_length_in_s=audio_length_in_s,
                output_type="pt",
            ).audios[0]
            waveform = waveform.cpu()
            if not waveform.isfinite().all():
                waveform = torch.zeros_like(waveform)
            name = f"{number}-{count}steps.wav"
            audio.write_audio(folder / name, waveform, pipe.sampling_rate, {"title": prompt})
            samples[name] = (waveform, pipe.sampling_rate)
    return samples


def draw_spectrograms(
    samples: dict[str, tuple[torch.Tensor, int]], prompts: Sequence[str], steps: Sequence[int], path: Path
) -> None:
    """Draw log-mels, one row per prompt and one column per number of steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((4 * len(steps), 2.2 * len(prompts)), layout="constrained")
    axes = figure.subplots(len(prompts), len(steps), squeeze=False)
    for number, prompt in enumerate(prompts):
        for column, count in enumerate(steps):
            waveform, rate = samples[f"{number}-{count}steps.wav"]
            n_fft = 1024 if rate <= 24000 else 2048
            mono = torch.nn.functional.pad(waveform.float().mean(dim=0), (0, n_fft))
            mel = audio.log_mel(mono, sampling_rate=rate, n_fft=n_fft, hop_length=n_fft // 4)
            axis = axes[number][column]
            axis.imshow(mel.T, origin="lower", aspect="auto", vmin=-11.5, vmax=2, extent=(0, len(mono) / rate, 0, 64))
            axis.set_title(f"{prompt[:40]}, {count} steps", fontsize=8)
            axis.set_xlabel("s", fontsize=7)
    FigureCanvasAgg(figure).print_png(path)


def log_samples(
    trackers: Sequence[Any], samples: dict[str, tuple[torch.Tensor, int]], picture: Path, step: int
) -> None:
    """Send audio and picture, which lies beside the audio files, to the accelerate trackers that support them."""
    for tracker in trackers:
        if tracker.name == "tensorboard":
            for name, (waveform, rate) in samples.items():
                tracker.writer.add_audio(name, audio.limit_peak(waveform.mean(dim=0))[None], step, sample_rate=rate)
            tracker.log_images({"spectrograms": _pixels(picture)}, step=step, dataformats="NHWC")
        elif tracker.name in ("wandb", "trackio"):
            # Files keep their level. From arrays, trackio scales the peak to full scale, and wandb clips it.
            library = __import__(tracker.name)
            media = {name: library.Audio(str(picture.with_name(name))) for name in samples}
            tracker.log({**media, "spectrograms": library.Image(str(picture))}, step=step)


def _pixels(path: Path):
    from matplotlib.image import imread

    return imread(path)[None, ..., :3]
