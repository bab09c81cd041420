"""Vary a draft by different amounts, and let its prompt change to another one over time.

python examples/control/variations.py --prompt "church organ chords" --morph "sea waves"
"""

from collections.abc import Sequence

import torch

from common import load, noise, parse, save
from diffusers_soundctm.control import PromptMorph, drift, vary


def main(argv: Sequence[str] | None = None) -> None:
    options = {
        "amounts": {"type": float, "nargs": "+", "default": [0.1, 0.3, 0.6], "help": "from 0 to 1 (%(default)s)"},
        "morph": {"default": "sea waves", "help": "prompt at the end (%(default)s)"},
    }
    args = parse(__doc__, "church organ chords", argv, **options)
    pipe = load(args)
    draft, call = noise(pipe, args.seed), {"num_inference_steps": args.steps, "output_type": "pt"}
    sounds = {"draft": pipe(args.prompt, latents=draft, **call).audios[0]}
    for amount in args.amounts:
        latents = vary(draft, amount, generator=torch.Generator().manual_seed(args.seed + 1))
        sounds[f"variation {amount:g}"] = pipe(args.prompt, latents=latents, **call).audios[0]
    morph = PromptMorph(args.morph)
    sounds["morph"] = pipe(args.prompt, latents=draft, callback_on_step_end=morph, **call).audios[0]
    for name, sound in sounds.items():
        print(f"{name}: drift {drift(sounds['draft'], sound, pipe.sampling_rate).item():.3f}")
    save(args, "variations", sounds, pipe.sampling_rate)


if __name__ == "__main__":
    main()
