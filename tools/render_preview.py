"""Render docs/samples/preview.mp4: sounds in one step and then in four, with their spectrograms.

pip install imageio-ffmpeg     # or ffmpeg on the PATH
python tools/render_preview.py
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.audio import log_mel, write_audio

PROMPTS = (
    "a music box plays a melody",
    "rain on a tin roof",
    "a police siren",
    "church organ chords",
    "birds sing in a tree",
    "a helicopter flies by",
)
STEPS = (1, 4)
SECONDS = 3.4  # of each sound
PEAK = 0.5


def ffmpeg() -> str:
    """The ffmpeg on the PATH, or that of imageio-ffmpeg."""
    found = shutil.which("ffmpeg")
    if found is None:
        import imageio_ffmpeg

        found = imageio_ffmpeg.get_ffmpeg_exe()
    return found


def draw(path: Path, prompt: str, waveforms: list[torch.Tensor], sampling_rate: int, which: int) -> None:
    """A frame: the spectrograms of a prompt's sounds, the playing one in color."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(waveforms), figsize=(6.4, 2.4), dpi=100, layout="constrained")
    for i, (axis, waveform, steps) in enumerate(zip(axes, waveforms, STEPS, strict=True)):
        mel = log_mel(waveform / waveform.abs().max(), sampling_rate=sampling_rate)
        axis.imshow(mel.T, origin="lower", aspect="auto", cmap="magma" if i == which else "gray", vmin=-8, vmax=2)
        axis.set(title=f"{steps} step{'s' * (steps > 1)}", xticks=[], yticks=[])
    figure.suptitle(prompt)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/samples/preview.mp4"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    pipe = SoundCTMPipeline.from_embedded()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sounds, frames = [], []
        for number, prompt in enumerate(PROMPTS):
            waveforms = []
            for steps in STEPS:
                generator = torch.Generator().manual_seed(args.seed + number)
                audio = pipe(prompt, num_inference_steps=steps, generator=generator, output_type="pt").audios[0, 0]
                audio = audio[: round(SECONDS * pipe.sampling_rate)]
                fade = torch.linspace(1, 0, pipe.sampling_rate // 10)
                audio[-len(fade) :] *= fade
                waveforms.append(PEAK * audio / audio.abs().max())
            for which in range(len(STEPS)):
                frames.append(folder / f"{len(frames)}.png")
                draw(frames[-1], prompt, waveforms, pipe.sampling_rate, which)
            sounds += waveforms
        write_audio(folder / "sound.wav", torch.from_numpy(np.concatenate(sounds))[None], pipe.sampling_rate)
        listing = "".join(f"file '{frame}'\nduration {SECONDS}\n" for frame in [*frames, frames[-1]])
        (folder / "frames.txt").write_text(listing)
        inputs = ["-f", "concat", "-safe", "0", "-i", folder / "frames.txt", "-i", folder / "sound.wav"]
        video = ["-c:v", "libx264", "-r", "5", "-pix_fmt", "yuv420p", "-tune", "stillimage", "-crf", "30"]
        sound = ["-c:a", "aac", "-b:a", "96k", "-shortest", "-movflags", "+faststart"]
        subprocess.run([ffmpeg(), "-y", "-loglevel", "error", *inputs, *video, *sound, args.output], check=True)


if __name__ == "__main__":
    main()
