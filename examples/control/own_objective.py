"""Write your own objective in five lines. This one asks for quiet between the beats of a bar.

python examples/control/own_objective.py --prompt "applause"
"""

from collections.abc import Sequence

import torch

from common import load, noise, parse, save
from diffusers_soundctm.control import LossGuidance, Sound


def gated(sound: Sound) -> torch.Tensor:
    """Every second eighth of the duration is 40 dB quieter than the others."""
    beats = sound.mel.tensor_split(8, dim=1)
    loud = torch.stack([beat.mean(dim=(1, 2)) for beat in beats[0::2]]).mean(dim=0)
    quiet = torch.stack([beat.mean(dim=(1, 2)) for beat in beats[1::2]]).mean(dim=0)
    return (loud - quiet - 4.6).square()  # 40 dB are ln(100) = 4.6


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(__doc__, "applause", argv)
    pipe = load(args)
    call = {"latents": noise(pipe, args.seed), "num_inference_steps": args.steps, "output_type": "pt"}
    sounds = {
        "before": pipe(args.prompt, **call).audios[0],
        "after": pipe(args.prompt, callback_on_step_end=LossGuidance(gated), **call).audios[0],
    }
    save(args, "own", sounds, pipe.sampling_rate)


if __name__ == "__main__":
    main()
