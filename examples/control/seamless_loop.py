"""Generate a sound that loops seamlessly.

python examples/control/seamless_loop.py --prompt "bubbles"
"""

from collections.abc import Sequence

from common import load, noise, parse, save
from diffusers_soundctm.control import CircularTime, decode_loop


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(__doc__, "bubbles", argv)
    pipe = load(args)
    call = {"latents": noise(pipe, args.seed), "num_inference_steps": args.steps}
    before = pipe(args.prompt, output_type="pt", **call).audios[0]
    z_0 = pipe(args.prompt, output_type="latent", callback_on_step_end=CircularTime(), **call).audios
    after = decode_loop(pipe, z_0)[0]
    # Each is repeated three times, so the seams are at one third and two thirds.
    save(args, "loop", {"before": before.repeat(1, 3), "after": after.repeat(1, 3)}, pipe.sampling_rate)


if __name__ == "__main__":
    main()
