"""The README's picture: spectrograms of one seed at 1, 2, 4 and 16 steps, beside the teacher from the same noise.

python benchmarks/steps_figure.py --teacher runs/teacher/unet --figure docs/images/steps.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from common import SAMPLING_RATE
from diffusers_soundctm.audio import log_mel
from quality import TEACHER_STEPS, Setting, SoundMaker

PROMPTS = ("a music box plays a melody", "a dog barks", "a police siren", "church organ chords")
STEPS = (1, 2, 4, 16)
HOP_SECONDS = 0.01
FREQUENCIES = {250: "0.25", 1000: "1", 4000: "4"}


def mel_position(frequency: float) -> float:
    """Row of a frequency in Hz among the 64 Slaney mel bands up to 8 kHz: linear to 1 kHz, logarithmic above."""

    def mel(hertz: float) -> torch.Tensor:
        hertz = torch.tensor(hertz)
        return torch.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * (hertz / 1000).log() / torch.tensor(6.4).log())

    return (64 * mel(frequency) / mel(8000.0)).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder of the teacher network")
    parser.add_argument("--pipeline", help="folder or Hub id (the embedded model)")
    parser.add_argument("--figure", type=Path, required=True, help="image to write")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(unet=None, vae=None, dtype="float32", batch_size=1, output=Path())
    args = parser.parse_args()

    maker = SoundMaker(args)
    columns = {f"{steps} step{'s' * (steps > 1)}": Setting("student", steps) for steps in STEPS}
    columns[f"teacher, {TEACHER_STEPS} Heun steps"] = Setting("teacher", TEACHER_STEPS)
    figure, axes = plt.subplots(
        len(args.prompts), len(columns), figsize=(12, 1.7 * len(args.prompts) + 0.6), sharex=True, sharey=True
    )
    for row, prompt in zip(axes, args.prompts, strict=True):
        for axis, (title, setting) in zip(row, columns.items(), strict=True):
            waveform = torch.from_numpy(maker.waveforms(setting, [prompt], [args.seed])[0])
            mel = log_mel(waveform / waveform.abs().max(), sampling_rate=SAMPLING_RATE)
            extent = (0, len(mel) * HOP_SECONDS, 0, mel.shape[1])
            axis.imshow(mel.T, origin="lower", aspect="auto", cmap="magma", vmin=-8, vmax=2, extent=extent)
            axis.set_yticks([mel_position(float(hertz)) for hertz in FREQUENCIES], FREQUENCIES.values())
            if prompt == args.prompts[0]:
                axis.set_title(title, fontsize=10)
        row[0].set_ylabel(f"{prompt}\n\nkHz", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(args.figure, dpi=90)


if __name__ == "__main__":
    main()
