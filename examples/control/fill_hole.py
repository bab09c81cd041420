"""Fill a hole in the middle of a recording.

python examples/control/fill_hole.py --prompt "birds" --input walk.wav --hole 2 3
"""

from collections.abc import Sequence

import torch

from common import given_or_generated, load, parse, save
from diffusers_soundctm.control import inpaint


def main(argv: Sequence[str] | None = None) -> None:
    hole = {"type": float, "nargs": 2, "metavar": ("START", "END"), "help": "seconds (default: the third fifth)"}
    args = parse(__doc__, "birds", argv, input={"help": "recording (default: a generated one)"}, hole=hole)
    pipe = load(args)
    rate, sound = pipe.sampling_rate, given_or_generated(pipe, args)
    fifth = sound.shape[1] / rate / 5
    start, end = args.hole or (2 * fifth, 3 * fifth)
    broken = sound.clone()
    broken[:, round(start * rate) : round(end * rate)] = 0
    generator = torch.Generator().manual_seed(args.seed)
    fixed = inpaint(
        pipe, args.prompt, broken[None], rate, [(start, end)], num_inference_steps=args.steps, generator=generator
    )
    save(args, "hole", {"before": broken, "after": fixed[0], "original": sound}, rate)


if __name__ == "__main__":
    main()
