"""Write a Python script that makes a sound again with the library alone, sample for sample.

The script makes the same library calls as `rendering`; a change there needs the same change here.
"""

import torch

from ..lora import parse_lora
from .recipe import CURVE_INNER_STEPS, Noise, Recipe, Upload


def python_code(
    recipe: Recipe,
    model: str = "embedded",
    filename: str = "sound.wav",
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> str:
    """Return a script that makes the sound of a recipe.

    Args:
        recipe: The sound. An uploaded sound that it starts from must lie beside the script as `upload.wav`.
        model: "embedded", a folder or a Hub id.
        filename: Name of the audio file that the script writes.
        dtype: The model's dtype. Another one gives other samples.
        device: The model's device. Another kind of device gives other samples.
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
    lines += _adapters(recipe)
    lines += _sound(recipe)
    if not recipe.loop:
        lines += ["sound = audio.fade_edges(sound, pipe.sampling_rate)"]
    lines += [f"audio.write_audio({filename!r}, sound, pipe.sampling_rate)", ""]
    return "\n".join(lines)


def _adapters(recipe: Recipe) -> list[str]:
    """Return lines that load the adapters."""
    lines, names, weights = [], [], []
    for number, (source, weight) in enumerate(map(parse_lora, recipe.lora)):
        names.append(f"adapter_{number}")
        weights.append(weight)
        lines.append(f"pipe.load_lora_weights({source!r}, adapter_name={names[-1]!r})")
    return [*lines, f"pipe.set_adapters({names!r}, {weights!r})"] if lines else []


def _controls(recipe: Recipe) -> set[str]:
    """Return the names that the script imports from `diffusers_soundctm.control`."""
    names = set()
    if recipe.noise.variations or (recipe.morph and recipe.morph.noise.variations):
        names.add("vary")
    if recipe.morph and recipe.morph.prompt != recipe.prompt:
        names.add("PromptMorph")
    if recipe.curve:
        names |= {"IntensityObjective", "LossGuidance"}
    if recipe.sketch:
        names |= {"LossGuidance", "SketchObjective"}
    if recipe.loop:
        names |= {"CircularTime", "decode_loop"}
    if recipe.source:
        names.add("inpaint")
    return names | (_controls(recipe.source) if isinstance(recipe.source, Recipe) else set())


def _sound(recipe: Recipe) -> list[str]:
    """Return lines that assign the sound, (channels, samples), to `sound`."""
    lines = _source(recipe)
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
        # A model that is conditioned on the length would end the sound there. A loop fills the whole window instead.
        length = f"None if pipe.conditioning.fixed_length else {recipe.duration!r}"
        arguments |= {"audio_length_in_s": length}
        arguments |= {"output_type": '"latent"', "callback_on_step_end": "CircularTime()"}
        lines += _call("z_0 = pipe(", repr(recipe.prompt), arguments, ").audios")
        return [*lines, "sound = audio.leave_headroom(decode_loop(pipe, z_0)[0])"]
    return [*lines, *_from_noise(recipe, arguments)]


def _source(recipe: Recipe) -> list[str]:
    """Return lines that assign the sound to start from to `source`, if there is one."""
    if isinstance(recipe.source, Recipe):
        return [*_sound(recipe.source), "source = sound"]
    if isinstance(recipe.source, Upload):
        read = 'audio.read_audio("upload.wav", pipe.sampling_rate)[0]'
        return [
            "# upload.wav, beside this script, is the sound file that was uploaded to the app.",
            f"source = audio.match_channels({read}, pipe.num_channels)",
        ]
    return []


def _from_noise(recipe: Recipe, arguments: dict[str, str]) -> list[str]:
    """Return lines that make a plain, drawn or morphed sound from `latents`."""
    lines = []
    if recipe.curve:
        lines += [f"curve = {list(recipe.curve)!r}  # dB, evenly spaced over the sound"]
        guidance = (
            f"LossGuidance(IntensityObjective(curve), scale={recipe.strength!r}, inner_steps={CURVE_INNER_STEPS})"
        )
        arguments = arguments | {"callback_on_step_end": guidance}
    if recipe.sketch:
        curves = [f"    {name}={values!r}," for name, values in recipe.sketch.arguments().items()]
        lines += ["sketch = SketchObjective(", *curves, ")"]
        guidance = f"LossGuidance(sketch, scale={recipe.strength!r}, inner_steps={CURVE_INNER_STEPS})"
        arguments = arguments | {"callback_on_step_end": guidance}
    if recipe.morph:
        lines += _noise(recipe.morph.noise, "last", "other")
        lines += ["angle = torch.linspace(0, torch.pi / 2, latents.shape[2]).view(-1, *[1] * (latents.ndim - 3))"]
        lines += ["latents = angle.cos() * latents + angle.sin() * last"]
        if recipe.morph.prompt != recipe.prompt:
            arguments = arguments | {"callback_on_step_end": f"PromptMorph({recipe.morph.prompt!r})"}
    arguments = arguments | {"output_type": '"pt"'}
    lines += _call("sound = pipe(", repr(recipe.prompt), arguments, ").audios[0]")
    return [*lines, "sound = audio.leave_headroom(sound)"]


def _noise(noise: Noise, name: str, generator: str) -> list[str]:
    lines = [f"{generator} = torch.Generator().manual_seed({noise.seed})"]
    lines += [f"{name} = torch.randn(1, *shape, generator={generator})"]
    for amount, seed in noise.variations:
        lines += [f"{name} = vary({name}, {amount!r}, generator=torch.Generator().manual_seed({seed}))"]
    return lines


def _call(start: str, first: str, arguments: dict[str, str], end: str = ")") -> list[str]:
    return [start, f"    {first},", *(f"    {name}={value}," for name, value in arguments.items()), end]
