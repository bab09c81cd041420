"""Generate a long sound with a model of five seconds. Several prompts follow each other.

python examples/control/long_sound.py --prompts "rain" "thunder" "wind" --seconds 30
"""

from collections.abc import Sequence

import torch

from common import load, parse, save
from diffusers_soundctm.control import generate_long


def main(argv: Sequence[str] | None = None) -> None:
    options = {
        "prompts": {"nargs": "+", "help": "several prompts in place of --prompt"},
        "seconds": {"type": float, "default": 30.0, "help": "duration (%(default)s)"},
    }
    args = parse(__doc__, "sea waves", argv, **options)
    pipe = load(args)
    call = {"num_inference_steps": args.steps, "generator": torch.Generator().manual_seed(args.seed)}
    prompts, overlap = args.prompts or args.prompt, min(1.0, pipe.default_audio_length_in_s / 4)
    long = generate_long(pipe, prompts, args.seconds, overlap, **call)[0]
    first = prompts if isinstance(prompts, str) else prompts[0]
    short = pipe(first, output_type="pt", **call | {"generator": torch.Generator().manual_seed(args.seed)}).audios[0]
    save(args, "long", {"before": short, "after": long}, pipe.sampling_rate)


if __name__ == "__main__":
    main()
