"""The `soundctm` command: from a sentence to a sound file."""

import argparse
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..version import __version__

# Imports of torch, diffusers and transformers wait until a command needs them: `--help` and bad input answer at once.

# diffusers and transformers import these wherever they are installed; `generate` uses none, and it would cost a second.
NOT_NEEDED = ("librosa", "pandas", "peft", "scipy", "sklearn")

EXTENSIONS = (".wav", ".flac")
DTYPES = ("float32", "bfloat16", "float16")
RELEASES = ("sony-unet", "sony-dit-v1", "sony-dit-v2")
CONVERT_EXAMPLE = "example: soundctm convert --from sony-dit-v2 --output soundctm-dit-v2"
EXAMPLE = 'example: soundctm generate "rain on a tin roof" -o rain.wav --steps 4 --seed 0'
REFINE_EXAMPLE = "example: soundctm refine rain.wav --steps 16 -o rain-final.wav"
# What `generate` writes about a sound, and `refine` needs of it.
SETTINGS = ("prompt", "negative_prompt", "model", "seed", "nu", "omega", "gamma", "duration", "dtype", "noise")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); the exit code, 2 for bad input."""
    is_own_process = argv is None
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parse(argv)
    # Loudness is measured with scipy.
    if is_own_process and arguments.command in (_generate, _refine) and arguments.loudness is None:
        sys.modules.update(dict.fromkeys(NOT_NEEDED))
    try:
        arguments.command(arguments)
        return 0
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"soundctm: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("soundctm: stopped", file=sys.stderr)
        return 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soundctm", description="Text to sound in one step, or a few.", epilog=EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    generate = commands.add_parser("generate", help="write sounds from prompts", epilog=EXAMPLE)
    generate.set_defaults(command=_generate)
    generate.add_argument("prompt", nargs="?", help="what to hear")
    generate.add_argument("--prompts", type=Path, metavar="FILE", help="text file with one prompt a line, instead")
    generate.add_argument(
        "-o", "--output", type=Path, default=Path("sound.wav"), help=".wav or .flac; several are numbered (%(default)s)"
    )
    generate.add_argument("--steps", type=int, help="network steps; more refine the same sound (1)")
    generate.add_argument("--nu", type=float, help="mix with the unconditional student, 1 is none of it (1)")
    generate.add_argument("--omega", type=float, help="guidance scale the student imitates (3.5)")
    generate.add_argument("--gamma", type=float, help="0 deterministic to 1 most noise (0)")
    generate.add_argument("--negative-prompt", help="what the sound is pushed away from when --nu is not 1")
    generate.add_argument("--seed", type=int, help="of the first sound, each further one adds 1 (drawn at random)")
    generate.add_argument(
        "--duration", type=float, metavar="SECONDS", help="up to 30 (what the model was trained with)"
    )
    generate.add_argument("--num", type=int, default=1, help="sounds a prompt (%(default)s)")
    generate.add_argument("--dtype", choices=DTYPES, default="float32")

    refine = commands.add_parser(
        "refine", help="make a draft again, the same sound in more steps", epilog=REFINE_EXAMPLE
    )
    refine.set_defaults(command=_refine)
    refine.add_argument("draft", type=Path, help="a file that soundctm generate wrote")
    refine.add_argument("-o", "--output", type=Path, help=".wav or .flac (the draft's name with -refined)")
    refine.add_argument("--steps", type=int, default=16, help="network steps (%(default)s)")
    refine.add_argument("--dtype", choices=DTYPES, help="(the draft's)")

    for command in (generate, refine):
        command.add_argument("--force", action="store_true", help="replace existing files")
        command.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (cuda if there is one)")
        command.add_argument(
            "--loudness",
            type=float,
            metavar="LUFS",
            help="scale to this loudness, -23 in broadcast, peaks below -1 dBTP",
        )

    convert = commands.add_parser("convert", help="make a model folder of released checkpoints", epilog=CONVERT_EXAMPLE)
    convert.set_defaults(command=_convert)
    convert.add_argument("--from", dest="release", required=True, choices=RELEASES, help="the release")
    convert.add_argument(
        "--checkpoint", nargs="+", metavar="FILE", help="files, folders or Hub ids with it (its repo on the Hub)"
    )
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="new folder for the model")
    convert.add_argument(
        "--variants", nargs="*", default=["fp16"], choices=("fp16", "bf16"), help="half-precision weights too (fp16)"
    )
    convert.add_argument("--text-encoder", metavar="MODEL", help="folder or Hub id of the tokenizer, and of FLAN-T5")
    convert.add_argument("--config", metavar="FILE", help="the network's configuration, if not the released one")

    demo = commands.add_parser("demo", help="open the app in a browser", epilog="example: soundctm demo --open")
    demo.set_defaults(command=_demo)
    demo.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    demo.add_argument("--port", type=int, help="(the first free one from 7860 on)")
    demo.add_argument("--open", action="store_true", help="open a browser window")
    demo.add_argument("--dtype", choices=DTYPES, default="float32")
    demo.add_argument("--device", help="cpu, cuda, cuda:1, mps ... (cuda if there is one)")

    info = commands.add_parser("info", help="say what a model is", epilog="example: soundctm info")
    info.set_defaults(command=_info)
    embedded = "the embedded model"
    for command, default in ((generate, embedded), (refine, "the draft's"), (demo, embedded), (info, embedded)):
        command.add_argument("--model", help=f"folder or Hub id ({default})")

    evaluate = commands.add_parser("evaluate", help="measure sounds")
    if argv[:1] == ["evaluate"]:  # its options come with numpy
        from ..evaluation.comparison import add_arguments, run

        evaluate.set_defaults(command=run)
        add_arguments(evaluate)
    return parser.parse_args(argv)


def _convert(arguments: argparse.Namespace) -> None:
    from ..conversion import convert_release

    convert_release(
        arguments.release,
        arguments.output,
        arguments.checkpoint,
        variants=arguments.variants,
        text_encoder=arguments.text_encoder,
        original_config=arguments.config,
    )
    print(f'{arguments.output} is ready: soundctm generate "rain on a tin roof" --model {arguments.output}')


def _generate(arguments: argparse.Namespace) -> None:
    prompts = _prompts(arguments.prompt, arguments.prompts)
    if arguments.num < 1:
        raise ValueError(f"--num is {arguments.num}; it must be at least 1.")
    paths = _output_paths(arguments.output, len(prompts) * arguments.num, arguments.force)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}; it must be from 0 to 2^63 - 1.")

    pipe = _load(arguments.model, arguments.dtype, arguments.device)

    from tqdm import tqdm

    given = {
        "num_inference_steps": arguments.steps,
        "nu": arguments.nu,
        "guidance_scale": arguments.omega,
        "gamma": arguments.gamma,
        "negative_prompt": arguments.negative_prompt,
        "audio_length_in_s": arguments.duration,
    }
    given = {name: value for name, value in given.items() if value is not None}
    prompts = [prompt for prompt in prompts for _ in range(arguments.num)]
    with _progress(len(paths) * given.get("num_inference_steps", 1)) as progress:
        for i, (prompt, path) in enumerate(zip(prompts, paths, strict=True)):
            start = time.perf_counter()
            waveform, settings = _render(pipe, prompt, seed + i, given, progress)
            seconds = time.perf_counter() - start
            settings |= {"model": arguments.model or "embedded", "dtype": arguments.dtype}
            _write(path, waveform, pipe.sampling_rate, settings, arguments.loudness)
            duration = settings["duration"]
            speed = f"{seconds:.2f} s, {duration / seconds:.1f} times faster than real time"
            tqdm.write(f"{path}: {duration:.2f} s of sound made in {speed}, seed {seed + i}")


def _refine(arguments: argparse.Namespace) -> None:
    draft = arguments.draft
    output = draft.with_stem(f"{draft.stem}-refined") if arguments.output is None else arguments.output
    (path,) = _output_paths(output, 1, arguments.force)
    if arguments.steps < 1:
        raise ValueError(f"--steps is {arguments.steps}; it must be at least 1.")

    from .. import audio

    recorded, rate = audio.read_audio(draft)
    settings = _settings_of(draft)
    model = arguments.model or settings["model"]
    dtype = arguments.dtype or settings["dtype"]
    pipe = _load(None if model == "embedded" else model, dtype, arguments.device)
    given = {
        "num_inference_steps": arguments.steps,
        "nu": settings["nu"],
        "guidance_scale": settings["omega"],
        "negative_prompt": settings["negative_prompt"],
        "audio_length_in_s": settings["duration"],
    }
    with _progress(arguments.steps) as progress:
        waveform, refined = _render(pipe, settings["prompt"], settings["seed"], given, progress, settings["noise"])

    _write(path, waveform, pipe.sampling_rate, refined | {"model": model, "dtype": dtype}, arguments.loudness)

    from ..control import drift

    recorded = audio.resample(recorded.mean(dim=0), rate, pipe.sampling_rate)
    try:
        moved = f"drift {drift(recorded, waveform.mean(dim=0), pipe.sampling_rate).item():.3f} (0 the same sound)"
    except ValueError:
        moved = "too short or silent to measure a drift"
    print(f"{path}: {arguments.steps} steps from the noise of {draft}, {moved}")


def _demo(arguments: argparse.Namespace) -> None:
    try:
        from ..app import build_app, launch
    except ImportError as error:
        raise ValueError('The app needs gradio; install it with: pip install "diffusers-soundctm[demo]"') from error
    pipe = _load(arguments.model, arguments.dtype, arguments.device)
    app = build_app(pipe, arguments.model or "embedded")
    launch(app, server_name=arguments.host, server_port=arguments.port, inbrowser=arguments.open)


def _settings_of(draft: Path) -> dict[str, Any]:
    """What `generate` wrote into a file, all of `SETTINGS`; checked before a model is loaded."""
    from .. import audio

    try:
        settings = json.loads(audio.read_tags(draft).get("comment", ""))
        missing = [name for name in SETTINGS if name not in settings]
    except (TypeError, ValueError):
        missing = SETTINGS
    if missing:
        raise ValueError(
            f"{draft} lacks {', '.join(missing)} in its metadata; give a file that soundctm generate wrote."
        )
    if settings["gamma"] != 0:
        raise ValueError(
            f"{draft} was made with --gamma {settings['gamma']:g}: more steps make another sound of it; only drafts "
            "with --gamma 0 can be refined."
        )
    return settings


def _progress(steps: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=steps, unit="step", disable=None, leave=False)


def _render(
    pipe: Any, prompt: str, seed: int, given: dict[str, Any], progress: Any, noise: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """A sound (channels, samples) and its settings, from the noise of `seed`, whose hash must be `noise` if given."""
    import torch

    from ..control import noise_hash

    hashes = []

    def on_step_end(pipe, step, timestep, tensors):
        if step == 0:
            hashes.append(noise_hash(tensors["previous_latents"]))
            if noise not in (None, hashes[0]):
                raise ValueError(
                    f"Seed {seed} gives the noise {hashes[0]} here, but the draft was made of {noise}; use the "
                    "model and the torch version that made it."
                )
        progress.update()
        return tensors

    waveform = pipe(
        prompt,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        callback_on_step_end=on_step_end,
        callback_on_step_end_tensor_inputs=["latents", "previous_latents"],
        **given,
    ).audios[0]
    settings = {
        "prompt": prompt,
        "negative_prompt": given.get("negative_prompt"),
        "seed": seed,
        "noise": hashes[0],
        "steps": pipe.num_timesteps,
        "nu": pipe.nu,
        "omega": pipe.guidance_scale,
        "gamma": pipe.scheduler.gamma,
        "duration": waveform.shape[-1] / pipe.sampling_rate,
    }
    return waveform.cpu(), settings


def _write(path: Path, waveform: Any, sampling_rate: int, settings: dict[str, Any], loudness: float | None) -> None:
    from .. import audio

    if loudness is not None:
        waveform = audio.normalize_loudness(waveform, sampling_rate, loudness)
        settings = settings | {"loudness": loudness}
    tags = {
        "title": settings["prompt"],
        "software": f"diffusers-soundctm {__version__}",
        "comment": json.dumps(settings, ensure_ascii=False),
    }
    audio.write_audio(path, waveform, sampling_rate, tags)


def _prompts(prompt: str | None, file: Path | None) -> list[str]:
    if (prompt is None) == (file is None):
        raise ValueError(f"Pass a prompt or --prompts FILE, one of the two; {EXAMPLE}")
    if file is None:
        return [prompt]
    try:
        prompts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {file} is not a UTF-8 text file.") from error
    if not prompts:
        raise ValueError(f"--prompts {file} has no prompts; write one a line.")
    return prompts


def _output_paths(output: Path, count: int, force: bool) -> list[Path]:
    """Where `count` sounds go; several get numbers. Checked before a model is loaded."""
    if output.suffix.lower() not in EXTENSIONS:
        raise ValueError(f"--output {output} must end in {' or '.join(EXTENSIONS)}.")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: the folder {output.parent} does not exist; create it or choose another.")
    if not os.access(output.parent, os.W_OK):
        raise ValueError(f"--output {output}: the folder {output.parent} is not writable; choose another.")
    digits = len(str(count))
    paths = [output.with_stem(f"{output.stem}-{i + 1:0{digits}d}") for i in range(count)] if count > 1 else [output]
    for path in paths:
        if path.is_dir() or (path.exists() and not force):
            raise ValueError(f"{path} exists; pass --force to replace it, or choose another --output.")
    return paths


def _load(model: str | None, dtype: str, device: str | None) -> Any:
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"--device {device} cannot be used here ({str(error).splitlines()[0]}); try cpu.") from error

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()

    from ..pipelines.pipeline_soundctm import SoundCTMPipeline

    dtype = getattr(torch, dtype)
    if model is None:
        pipe = SoundCTMPipeline.from_embedded(dtype=dtype)
    else:
        pipe = SoundCTMPipeline.from_pretrained(model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _info(arguments: argparse.Namespace) -> None:
    from .. import hub

    folder = hub.embedded_folder() if arguments.model is None else Path(arguments.model)
    if not folder.is_dir():
        folder = Path(hub.download_model(arguments.model))
    hub.check_folder(folder)
    index = hub.read_json(folder / hub.INDEX)
    print(f"{arguments.model or 'embedded model'} ({folder})")
    total = 0
    for name, (library, kind) in hub.components(folder).items():
        parameters, size = hub.count_parameters(folder / name)
        total += parameters
        weights = f"{parameters / 1e6:8.2f} M parameters {size / 1e6:7.1f} MB" if parameters else ""
        print(f"  {name:13} {f'{library}.{kind}':43} {weights}".rstrip())
    print(f"  {'in all':13} {total / 1e6:.1f} M parameters")
    for label, value in _facts(folder, index).items():
        print(f"  {label:13} {value}")


def _facts(folder: Path, index: dict[str, Any]) -> dict[str, str]:
    def config(component: str, name: str = "config.json") -> dict[str, Any]:
        file = folder / component / name
        return json.loads(file.read_text()) if file.is_file() else {}

    vae, vocoder, scheduler = config("vae"), config("vocoder"), config("scheduler", "scheduler_config.json")
    facts = {}
    if vocoder.get("sampling_rate"):
        facts["sound"] = f"mono, {vocoder['sampling_rate']} Hz, {vocoder.get('model_in_dim')} mel bands"
    elif vae.get("sampling_rate"):
        channels = "stereo" if vae.get("audio_channels") == 2 else "mono"
        facts["sound"] = f"{channels}, {vae['sampling_rate']} Hz, autoencoder of waveforms"
    if scheduler.get("sigma_max"):
        facts["noise levels"] = (
            f"{scheduler['sigma_min']:g} to {scheduler['sigma_max']:g}, {scheduler['prediction_type']}"
        )
    if index.get("guidance_scale_range"):
        low, high = index["guidance_scale_range"]
        facts["omega"] = f"{low:g} to {high:g} in training"
    if (folder / "README.md").is_file():
        facts["model card"] = str(folder / "README.md")
    return facts


if __name__ == "__main__":
    sys.exit(main())
