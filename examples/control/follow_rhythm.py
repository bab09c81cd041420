"""Give a sound the rhythm of a recording.

python examples/control/follow_rhythm.py --prompt "a dog barks" --input drums.wav
"""

from collections.abc import Sequence

import torch

from common import load, noise, parse, save
from diffusers_soundctm import audio
from diffusers_soundctm.control import LossGuidance, OnsetObjective, Sound


def clicks(seconds: float, sampling_rate: int) -> torch.Tensor:
    """Noise bursts in a 3-3-2 rhythm, (1, samples)."""
    samples = round(seconds * sampling_rate)
    sound, eighth = torch.zeros(samples), samples / 16
    for start in (0, 3, 6, 8, 11, 14):
        burst = torch.exp(-torch.arange(samples - round(start * eighth)) / (0.03 * sampling_rate))
        sound[round(start * eighth) :] += (
            0.2 * burst * torch.randn(len(burst), generator=torch.Generator().manual_seed(0))
        )
    return sound[None]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(__doc__, "a dog barks", argv, input={"help": "recording with a rhythm (default: clicks)"})
    pipe = load(args)
    rate, latents = pipe.sampling_rate, noise(pipe, args.seed)
    reference = clicks(pipe.default_audio_length_in_s, rate)
    if args.input:
        reference = audio.read_audio(args.input, rate)[0].mean(dim=0, keepdim=True)
    objective = OnsetObjective((reference, rate))
    call = {"latents": latents, "num_inference_steps": args.steps, "output_type": "pt"}
    sounds = {
        "before": pipe(args.prompt, **call).audios[0],
        "after": pipe(args.prompt, callback_on_step_end=LossGuidance(objective), **call).audios[0],
    }
    heard = {name: Sound.of_latents(pipe, latents).of_waveform(sound[None]) for name, sound in sounds.items()}
    curves = {name: objective.measure(sound) for name, sound in heard.items()}
    curves["target"] = objective.target(heard["after"])
    save(args, "rhythm", sounds | {"reference": reference}, rate, curves, "onset strength")


if __name__ == "__main__":
    main()
