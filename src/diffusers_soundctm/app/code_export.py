"""Python that makes a sound again with the library alone, sample for sample."""

import torch

from .recipe import CURVE_INNER_STEPS, Noise, Recipe, Upload


def python_code(
    recipe: Recipe,
    model: str = "embedded",
    filename: str = "sound.wav",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> str:
    """A script that writes the sound to `filename`; a sound that was brought must lie beside it as `upload.wav`.

    `dtype` and `device` are the model's: with others the samples differ.
    """
    lines = ["import torch", "", "from diffusers_soundctm import SoundCTMPipeline, audio"]
    names = sorted(_controls(recipe))
    if names:
        lines.append(f"from diffusers_soundctm.control import {', '.join(names)}")
    loader, arguments = ("embedded", []) if model == "embedded" else ("pretrained", [repr(model)])
    if dtype != torch.float32:
        arguments.append(f"torch_dtype={dtype}")
    lines += ["", f"pipe = SoundCTMPipeline.from_{loader}({', '.join(arguments)})"]
    if torch.device(device).type != "cpu":
        lines.append(f"pipe.to({torch.device(device).type!r})")
    lines += _sound(recipe)
    lines += [f"audio.write_audio({filename!r}, sound, pipe.sampling_rate)", ""]
    return "\n".join(lines)


def _controls(recipe: Recipe) -> set[str]:
    names = set()
    if recipe.noise.variations or (recipe.morph and recipe.morph.noise.variations):
        names.add("vary")
    if recipe.morph and recipe.morph.prompt != recipe.prompt:
        names.add("PromptMorph")
    if recipe.curve:
        names |= {"IntensityObjective", "LossGuidance"}
    if recipe.loop:
        names |= {"CircularTime", "decode_loop"}
    if recipe.source:
        names.add("inpaint")
    return names | (_controls(recipe.source) if isinstance(recipe.source, Recipe) else set())


def _sound(recipe: Recipe) -> list[str]:
    """Lines that leave the sound, (channels, samples), in `sound`."""
    lines = []
    if isinstance(recipe.source, Recipe):
        lines += [*_sound(recipe.source), "source = sound"]
    elif isinstance(recipe.source, Upload):
        lines += ["# upload.wav, beside this script, is the sound file that was brought to the app."]
        lines += [
            'source = audio.match_channels(audio.read_audio("upload.wav", pipe.sampling_rate)[0], pipe.num_channels)'
        ]
    lines += ["", f"shape = pipe.latent_shape(round({recipe.duration!r} * pipe.sampling_rate))"]
    lines += _noise(recipe.noise, "latents", "generator")
    arguments = {
        "audio_length_in_s": recipe.duration,
        "num_inference_steps": recipe.steps,
        "guidance_scale": recipe.omega,
        "nu": recipe.nu,
        "gamma": recipe.gamma,
    }
    if recipe.negative_prompt:
        arguments["negative_prompt"] = recipe.negative_prompt
    arguments = {name: repr(value) for name, value in arguments.items()}
    arguments |= {"generator": "generator", "latents": "latents"}

    if recipe.source:
        arguments |= {"spans": repr(list(recipe.spans) or None)}
        lines += _call("sound = inpaint(", f"pipe, {recipe.prompt!r}, source[None], pipe.sampling_rate", arguments)
        return [*lines, "sound = sound[0]"]
    if recipe.loop:
        # What is told when a sound ends has to know that this one does not: the loop is the model's whole window.
        length = f"None if pipe.conditioning.needs_audio_length else {recipe.duration!r}"
        arguments |= {"audio_length_in_s": length}
        arguments |= {"output_type": '"latent"', "callback_on_step_end": "CircularTime()"}
        lines += _call("z_0 = pipe(", repr(recipe.prompt), arguments, ").audios")
        return [*lines, "sound = decode_loop(pipe, z_0)[0]"]
    if recipe.curve:
        lines += [f"curve = {list(recipe.curve)!r}  # dB, evenly spread over the sound"]
        guidance = (
            f"LossGuidance(IntensityObjective(curve), scale={recipe.strength!r}, inner_steps={CURVE_INNER_STEPS})"
        )
        arguments |= {"callback_on_step_end": guidance}
    if recipe.morph:
        lines += _noise(recipe.morph.noise, "last", "other")
        lines += ["angle = torch.linspace(0, torch.pi / 2, latents.shape[2]).view(-1, *[1] * (latents.ndim - 3))"]
        lines += ["latents = angle.cos() * latents + angle.sin() * last"]
        if recipe.morph.prompt != recipe.prompt:
            arguments |= {"callback_on_step_end": f"PromptMorph({recipe.morph.prompt!r})"}
    arguments |= {"output_type": '"pt"'}
    lines += _call("sound = pipe(", repr(recipe.prompt), arguments, ").audios[0]")
    return lines


def _noise(noise: Noise, name: str, generator: str) -> list[str]:
    lines = [f"{generator} = torch.Generator().manual_seed({noise.seed})"]
    lines += [f"{name} = torch.randn(1, *shape, generator={generator})"]
    for amount, seed in noise.variations:
        lines += [f"{name} = vary({name}, {amount!r}, generator=torch.Generator().manual_seed({seed}))"]
    return lines


def _call(start: str, first: str, arguments: dict[str, str], end: str = ")") -> list[str]:
    return [start, f"    {first},", *(f"    {name}={value}," for name, value in arguments.items()), end]
