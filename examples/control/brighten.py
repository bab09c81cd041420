"""Make a sound brighter over time: its spectral centroid rises from one frequency to another.

python examples/control/brighten.py --prompt "wind" --low 500 --high 3000
"""

from collections.abc import Sequence

from common import load, noise, parse, save
from diffusers_soundctm.control import LossGuidance, Sound, SpectralCentroidObjective


def main(argv: Sequence[str] | None = None) -> None:
    options = {
        "low": {"type": float, "default": 500.0, "help": "Hz at the start (%(default)s)"},
        "high": {"type": float, "default": 3000.0, "help": "Hz at the end (%(default)s)"},
    }
    args = parse(__doc__, "wind", argv, **options)
    pipe = load(args)
    objective, latents = SpectralCentroidObjective([args.low, args.high]), noise(pipe, args.seed)
    call = {"latents": latents, "num_inference_steps": args.steps, "output_type": "pt"}
    sounds = {
        "before": pipe(args.prompt, **call).audios[0],
        "after": pipe(args.prompt, callback_on_step_end=LossGuidance(objective), **call).audios[0],
    }
    heard = {name: Sound.of_latents(pipe, latents).of_waveform(sound[None]) for name, sound in sounds.items()}
    curves = {name: objective.measure(sound) for name, sound in heard.items()}
    curves["target"] = objective.target(heard["after"])
    save(args, "brightness", sounds, pipe.sampling_rate, curves, "octaves above 1 Hz")


if __name__ == "__main__":
    main()
