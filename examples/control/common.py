"""Options, model and output that the examples share."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from diffusers_soundctm import SoundCTMPipeline, audio


def parse(doc: str, prompt: str, argv: Sequence[str] | None, **options: dict) -> argparse.Namespace:
    """Parse the common options and those of the example, a mapping from names to arguments of `add_argument`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=prompt, help="description of the sound (%(default)s)")
    parser.add_argument("--model", help="folder or Hub id (default: the embedded model)")
    parser.add_argument("--steps", type=int, default=16, help="sampling steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the results (%(default)s)")
    for name, keywords in options.items():
        parser.add_argument(f"--{name}", **keywords)
    return parser.parse_args(argv)


def load(args: argparse.Namespace) -> SoundCTMPipeline:
    """Load the model of --model onto the GPU, if there is one."""
    pipe = SoundCTMPipeline.from_pretrained(args.model) if args.model else SoundCTMPipeline.from_embedded()
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def noise(pipe: SoundCTMPipeline, seed: int) -> torch.Tensor:
    """Starting latents of one waveform of the model's default duration."""
    shape = pipe.latent_shape(round(pipe.default_audio_length_in_s * pipe.sampling_rate))
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def given_or_generated(pipe: SoundCTMPipeline, args: argparse.Namespace) -> torch.Tensor:
    """The waveform of --input, or a generated one, (channels, samples) at the model's sampling rate.

    It is cut to the longest duration of a call.
    """
    if args.input is not None:
        waveform = audio.match_channels(audio.read_audio(args.input, pipe.sampling_rate)[0], pipe.num_channels)
        length = round(pipe.max_audio_length_in_s * pipe.sampling_rate)
        if waveform.shape[1] > length:
            print(f"{args.input}: only the first {pipe.max_audio_length_in_s:g} s are used")
        return waveform[:, :length]
    latents = noise(pipe, args.seed + 1)
    return pipe(args.prompt, latents=latents, num_inference_steps=args.steps, output_type="pt").audios[0].cpu()


def save(
    args: argparse.Namespace,
    name: str,
    sounds: Mapping[str, torch.Tensor],
    sampling_rate: int,
    curves: Mapping[str, torch.Tensor] | None = None,
    unit: str = "",
) -> None:
    """Write the waveforms, and a figure of their spectrograms and of the curves (in frames of 10 ms), if any."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    args.output.mkdir(parents=True, exist_ok=True)
    rows = len(sounds) + (curves is not None)
    figure, axes = plt.subplots(rows, 1, figsize=(8, 2 * rows + 0.5), squeeze=False, layout="constrained")
    for axis, (title, waveform) in zip(axes[:, 0], sounds.items(), strict=False):
        waveform = waveform.detach().reshape(-1, waveform.shape[-1]).float().cpu()
        path = audio.write_audio(args.output / f"{name}-{title.replace(' ', '-')}.wav", waveform, sampling_rate)
        mel = audio.log_mel(waveform.mean(dim=0), sampling_rate=sampling_rate, hop_length=sampling_rate // 100)
        seconds = waveform.shape[1] / sampling_rate
        axis.imshow(mel.T, origin="lower", aspect="auto", cmap="magma", vmin=-9, vmax=1, extent=(0, seconds, 0, 64))
        axis.set(title=title, ylabel="mel band")
        print(path)
    if curves is not None:
        for label, curve in curves.items():
            seconds = torch.arange(curve.shape[-1]) / 100
            axes[-1, 0].plot(
                seconds, curve.detach().reshape(-1).cpu(), "k--" if label == "target" else "-", label=label
            )
        axes[-1, 0].legend()
        axes[-1, 0].set(ylabel=unit, xlim=(0, seconds[-1]))
    axes[-1, 0].set_xlabel("seconds")
    figure.savefig(args.output / f"{name}.png", dpi=90)
    plt.close(figure)
    print(args.output / f"{name}.png")
