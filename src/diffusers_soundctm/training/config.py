"""Arguments of the training scripts: the command line, over a YAML file, over a preset, over the defaults.

Nothing here imports torch, so that wrong arguments are refused at once.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..terminal import print_any_text
from .ranges import CHOICES, range_problems
from .signals import end_at_once, ignore_stops

STOPPED_EARLY = "Stopped by a signal before the first step. Start the same command again."
PRESETS_FOLDER = Path(__file__).parent / "presets"
_MAPPINGS = ("unet_config",)  # arguments that the file may give as a mapping
_NULLABLE = ("checkpoints_total_limit", "report_to")  # arguments with a default that the file may set to null
_KINDS = {int: "a whole number", float: "a number", None: "text"}


def preset_names() -> list[str]:
    """Names of the published recipes that `--preset` accepts."""
    return sorted(file.stem for file in PRESETS_FOLDER.glob("*.yaml"))


def load_preset(name: str) -> dict[str, Any]:
    """Arguments of a published recipe, from the commented file `presets/{name}.yaml`."""
    import yaml

    return yaml.safe_load((PRESETS_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def parse_with_config(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and take what it leaves out from the YAML file of `--config`.

    The keys of the file are names of arguments. Where the parser has a `--preset`, its values come between the file
    and the defaults. An argument with the default `...` is required. All values are checked against `ranges`.

    Args:
        parser: Parser of the script; `--config` is added to it.
        argv: Arguments; by default those of the command line.

    Raises:
        SystemExit: With code 2, after a usage message, if an argument is wrong, also one from the file.
    """
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file of arguments; the command line overrides it")
    known = parser.parse_known_args(argv)[0]
    values = {} if known.config is None else _read_file(parser, known.config)
    preset = getattr(known, "preset", None) or values.get("preset")
    parser.set_defaults(**(load_preset(preset) if preset else {}) | values)
    args = parser.parse_args(argv)
    missing = [f"--{name}" for name, value in vars(args).items() if value is ...]
    if missing:
        parser.error(f"these arguments are required: {', '.join(missing)}")
    problems = list(range_problems(args))
    if problems:
        parser.error("; ".join(problems))
    return args


def begin_script(parse_args: Callable[[], object], stopped: str = STOPPED_EARLY) -> None:
    """Begin a script, before its slow imports: refuse wrong arguments, and honor signals from here on.

    Args:
        parse_args: Parses the command line, and exits with code 2 if an argument is wrong.
        stopped: What to print when a signal arrives before training.
    """
    print_any_text()
    parse_args()
    end_at_once(stopped)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`. Bad input ends in one line and exit code 2, a run that cannot go on in exit code 1.

    Errors of any other kind keep their traceback. Signals that arrive after the work is done are ignored.
    """
    print_any_text()
    try:
        main()
        ignore_stops()
    except FloatingPointError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not _raised_here(error):
            raise
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        sys.exit(130)


def missing_packages(args: argparse.Namespace) -> str | None:
    """Packages that the arguments need and this machine lacks, as one sentence with the remedy."""
    for name in [] if args.report_to in (None, "none") else args.report_to.split(","):
        if name not in CHOICES["report_to"]:
            return f"--report_to {name} is unknown; choose from none, {', '.join(CHOICES['report_to'])}"
        if find_spec(name) is None:
            return f"--report_to {name} needs a package that is missing: pip install {name}"
    if args.validation_prompts and find_spec("matplotlib") is None:
        return "--validation_prompts draws spectrograms and needs matplotlib: pip install matplotlib"
    return None


def add_data_arguments(parser: argparse.ArgumentParser, from_teacher: bool = False) -> None:
    """Add the arguments for a data set and the frozen networks that encode it.

    Args:
        parser: Parser of the script.
        from_teacher: Whether the networks, the sampling rate and the length are the teacher's by default.
    """
    data = _add_dataset_group(parser, "data and frozen networks", cached="latents and prompt embeddings")
    data.add_argument("--vae", default=..., help="folder of the autoencoder")
    data.add_argument("--text_encoder", default=..., help="folder of the text encoder and its tokenizer")
    if from_teacher:
        for action in data._group_actions:
            if action.dest in ("vae", "text_encoder", "sampling_rate", "num_samples"):
                action.default, action.help = None, f"{action.help}; by default the teacher's"


def data_settings(args: argparse.Namespace) -> Any:
    """The data that the arguments of `add_data_arguments`, and of `add_stream_arguments` where present, describe.

    Returns:
        `data.sources.DataSettings`.
    """
    from ..data.sources import DataSettings

    names = ("streaming", "data_files", "stream_buffer_size", "mix_rate", "sample_posterior", "captions")
    return DataSettings(
        args.dataset_name,
        args.num_samples,
        cache_dir(args),
        audio_column=args.audio_column,
        caption_column=args.caption_column,
        max_samples=args.max_train_samples,
        seed=args.seed,
        **{name: getattr(args, name) for name in names if hasattr(args, name)},
    )


def cache_dir(args: argparse.Namespace) -> Path:
    """The folder of the cache: `--cache_dir`, or that of the run."""
    return Path(args.cache_dir or Path(args.output_dir) / "cache")


def add_clip_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the arguments that `clips_of` reads, and `--validation_split`; returns their group."""
    data = _add_dataset_group(parser, "data", cached="decoded clips")
    data.add_argument("--validation_split", help="split on which the mel error is measured at the end")
    return data


def clips_of(args: argparse.Namespace, split: str, max_samples: int | None = None) -> Any:
    """Load a split of the data set that `args` name, or its first `max_samples` clips.

    Returns:
        `data.Clips`.
    """
    from ..data import load_clips

    return load_clips(
        args.dataset_name,
        split=split,
        audio_column=args.audio_column,
        caption_column=args.caption_column,
        sampling_rate=args.sampling_rate,
        num_samples=args.num_samples,
        max_samples=max_samples,
        cache_dir=cache_dir(args),
    )


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for streamed and mixed data."""
    data = parser.add_argument_group("data at scale")
    data.add_argument("--streaming", action="store_true", help="read clips from the Hub as they are needed")
    data.add_argument(
        "--data_files", nargs="+", help="files of the data set builder, for example the tar files of webdataset"
    )
    data.add_argument("--stream_buffer_size", type=int, default=1000, help="rows in the buffer that shuffles a stream")
    data.add_argument(
        "--sample_posterior",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="encode clips to samples of the autoencoder's posterior, drawn for every batch, instead of its mode",
    )
    data.add_argument(
        "--mix_rate", type=float, default=0.0, help="fraction of clips that are mixed with another; captions are joined"
    )


def add_optimization_arguments(parser: argparse.ArgumentParser, precisions: Sequence[str]) -> None:
    """Add the optimization arguments of autoencoder, vocoder and teacher; each script sets its own defaults.

    Args:
        parser: Parser of the script.
        precisions: Choices of `--mixed_precision`.
    """
    run = parser.add_argument_group("optimization")
    run.add_argument("--train_batch_size", type=int, default=..., help="clips per step, over all processes")
    run.add_argument("--max_train_steps", type=int, default=..., help="optimization steps")
    run.add_argument("--learning_rate", type=float, default=..., help="learning rate after the warmup")
    add_scheduler_arguments(run, schedule="cosine", warmup=100)
    run.add_argument("--weight_decay", type=float, default=0.01, help="weight decay of AdamW")
    run.add_argument("--max_grad_norm", type=float, default=1.0, help="gradient norm above which gradients are scaled")
    run.add_argument("--ema_decay", type=float, default=..., help="decay of the EMA, which is the resulting model")
    run.add_argument("--mixed_precision", choices=precisions, default="no", help="precision of the forward pass")
    add_run_arguments(run, run)


def add_scheduler_arguments(run: argparse._ArgumentGroup, schedule: str, warmup: int) -> None:
    """Add the arguments of the learning rate schedule, with these defaults."""
    run.add_argument(
        "--lr_scheduler", default=schedule, choices=CHOICES["lr_scheduler"], help="schedule of the learning rate"
    )
    run.add_argument("--lr_warmup_steps", type=int, default=warmup, help="steps over which the learning rate rises")


def add_run_arguments(run: argparse._ArgumentGroup, keep: argparse._ArgumentGroup) -> None:
    """Add the arguments of every run: seed and limits to the group `run`, checkpoints to the group `keep`."""
    run.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    run.add_argument(
        "--max_skipped_steps", type=int, default=20, help="consecutive steps without a finite gradient that end the run"
    )
    keep.add_argument("--checkpointing_steps", type=int, default=500, help="steps between checkpoints")
    keep.add_argument("--checkpoints_total_limit", type=int, default=2, help="number of checkpoints that are kept")
    keep.add_argument(
        "--resume_from_checkpoint", help="folder of a checkpoint, or 'latest' for the newest one in OUTPUT_DIR"
    )


def add_report_arguments(parser: argparse.ArgumentParser, run: argparse._ArgumentGroup) -> None:
    """Add the arguments of every run, to the group `run`, and those of reports, validation and upload."""
    keep = parser.add_argument_group("checkpoints and reports")
    add_run_arguments(run, keep)
    trackers = ", ".join(CHOICES["report_to"])
    keep.add_argument("--report_to", default="none", help=f"trackers, joined by commas: {trackers}; or none")
    keep.add_argument("--logging_dir", default="logs", help="folder of the trackers inside OUTPUT_DIR")
    keep.add_argument("--tracker_project_name", default="soundctm", help="project name in the trackers")
    keep.add_argument(
        "--validation_prompts", nargs="+", help="prompts to generate during training, into OUTPUT_DIR/samples"
    )
    keep.add_argument(
        "--validation_trajectory_prompts",
        nargs="+",
        help="prompts for which the student is compared with the teacher's own solutions during training: the distance "
        "at 1, 4 and 16 steps and the effective guidance, printed and sent to the trackers",
    )
    keep.add_argument("--validation_steps", type=int, default=500, help="optimization steps between validations")
    keep.add_argument(
        "--validation_num_inference_steps", type=int, nargs="+", default=[1, 4, 16], help="sampling steps to compare"
    )
    keep.add_argument("--push_to_hub", action="store_true", help="upload the model at the end")
    keep.add_argument("--hub_model_id", help="name of the repo; by default the last part of OUTPUT_DIR")
    keep.add_argument("--hub_token", help="access token; by default that of `hf auth login`")
    keep.add_argument("--hub_private_repo", action="store_true", help="make the repo private")
    keep.add_argument("--hub_license", help="SPDX id of the license; by default that of the teacher's card")


def _add_dataset_group(parser: argparse.ArgumentParser, title: str, cached: str) -> argparse._ArgumentGroup:
    data = parser.add_argument_group(title)
    data.add_argument("--dataset_name", default=..., help="Hub id or folder of an audio data set")
    data.add_argument("--audio_column", default="audio", help="column of the audio")
    data.add_argument("--caption_column", default="caption", help="column of the captions")
    data.add_argument("--max_train_samples", type=int, help="number of clips to use; by default all")
    data.add_argument("--sampling_rate", type=int, default=16000, help="sampling rate in Hz")
    data.add_argument("--num_samples", type=int, default=81920, help="length of a clip in samples")
    data.add_argument("--cache_dir", help=f"folder for {cached}; by default OUTPUT_DIR/cache")
    data.add_argument("--output_dir", default=..., help="folder of the run")
    return data


def _read_file(parser: argparse.ArgumentParser, path: str) -> dict[str, Any]:
    """Values of the YAML file `path`, as the command line would give them."""
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig")) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        parser.error(f"--config {path}: {error}")
    actions = {action.dest: action for action in parser._actions}
    unknown = sorted(map(str, set(values) - set(actions))) if isinstance(values, dict) else ["(not a mapping)"]
    if unknown:
        parser.error(f"--config {path} has unknown keys: {', '.join(unknown)}")
    for name, value in values.items():
        try:
            values[name] = _checked(actions[name], value)
        except ValueError as error:
            parser.error(f"--config {path}: {name} is {value!r}; give {error}")
    return values


def _checked(action: argparse.Action, value: Any) -> Any:
    """A value of the file as the command line would give it. `ValueError` says what to give if it does not fit."""
    if value is None and (action.default is None or action.dest in _NULLABLE):
        return None
    if isinstance(value, dict) and action.dest in _MAPPINGS:
        return value
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if action.nargs == "+":
        if not isinstance(value, list) or not value:
            raise ValueError("a list, [a, b]")
        return [_checked_item(action, item) for item in value]
    return _checked_item(action, value)


def _checked_item(action: argparse.Action, value: Any) -> Any:
    wanted = f"one of {', '.join(map(repr, action.choices))}" if action.choices else _KINDS[action.type]
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(f"{wanted}, in quotes" if isinstance(value, bool) and action.type is None else wanted)
    try:
        item = (action.type or str)(str(value))  # YAML reads 5e-4 as text, and 1 as an integer
    except ValueError:
        raise ValueError(wanted) from None
    if action.choices and item not in action.choices:
        raise ValueError(wanted)
    return item


def _raised_here(error: BaseException) -> bool:
    """Whether this library or one of its scripts raised `error`, with a message for the user."""
    file = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(file).is_relative_to(Path(__file__).parents[1]) or Path(file) == Path(sys.argv[0]).resolve()
