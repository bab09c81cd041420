"""Generate the upper frequencies of a dull recording.

python examples/control/widen_band.py --prompt "applause" --input telephone.wav --cutoff 3500
"""

from collections.abc import Sequence

import torch

from common import given_or_generated, load, parse, save
from diffusers_soundctm.control import extend_bandwidth
from diffusers_soundctm.control.bandwidth import split_bands


def main(argv: Sequence[str] | None = None) -> None:
    options = {
        "input": {"help": "recording (default: a generated one)"},
        "cutoff": {"type": float, "default": 3500.0, "help": "Hz (%(default)s)"},
    }
    args = parse(__doc__, "applause", argv, **options)
    pipe = load(args)
    rate = pipe.sampling_rate
    dull, _ = split_bands(given_or_generated(pipe, args), rate, args.cutoff)
    generator = torch.Generator().manual_seed(args.seed)
    wide = extend_bandwidth(pipe, args.prompt, dull[None], rate, args.cutoff, args.steps, generator=generator)
    save(args, "band", {"before": dull, "after": wide[0]}, rate)


if __name__ == "__main__":
    main()
