"""Follow a drawn loudness curve, by guidance and by noise optimization.

python examples/control/draw_loudness.py --prompt "rain on a tin roof" --points 0:-40 2.5:-15 5:-40
"""

from collections.abc import Sequence

from common import load, noise, parse, save
from diffusers_soundctm.control import IntensityObjective, LossGuidance, Sound, optimize_noise


def main(argv: Sequence[str] | None = None) -> None:
    points = {"nargs": "+", "metavar": "SECONDS:DB", "help": "loudness curve (default: a swell)"}
    iterations = {"type": int, "default": 50, "help": "of noise optimization (%(default)s)"}
    args = parse(__doc__, "rain on a tin roof", argv, points=points, iterations=iterations)
    pipe = load(args)
    length = pipe.default_audio_length_in_s
    curve = {0.0: -40.0, length / 2: -15.0, length: -40.0}
    if args.points:
        curve = {float(seconds): float(db) for seconds, db in (point.split(":") for point in args.points)}
    objective, latents = IntensityObjective(curve), noise(pipe, args.seed)

    call = {"num_inference_steps": args.steps, "output_type": "pt"}
    optimized = optimize_noise(pipe, args.prompt, objective, num_iterations=args.iterations, latents=latents)
    sounds = {
        "before": pipe(args.prompt, latents=latents, **call).audios[0],
        "guidance": pipe(args.prompt, latents=latents, callback_on_step_end=LossGuidance(objective), **call).audios[0],
        "noise optimization": pipe(args.prompt, latents=optimized, **call).audios[0],
    }

    truth = IntensityObjective(curve, domain="waveform")
    heard = {name: Sound.of_latents(pipe, latents).of_waveform(sound[None]) for name, sound in sounds.items()}
    for name, sound in heard.items():
        print(f"{name}: {truth.error(sound).item():.1f} dB from the curve")
    curves = {name: truth.measure(sound) for name, sound in heard.items()}
    target = truth.target(next(iter(heard.values())))
    save(args, "loudness", sounds, pipe.sampling_rate, curves | {"target": target.cpu()}, "dB")


if __name__ == "__main__":
    main()
