"""Arguments of a training script: the command line, over a YAML file, over the defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data import Clips, load_clips

# The published recipes: the 16 kHz UNet (ICLR 2025) and the 44.1 kHz transformer. Batch: 8 GPUs × (6 clips +
# 2 mixtures).
PRESETS: dict[str, dict[str, Any]] = {
    "soundctm-16khz": {
        "omega_min": 2.0,
        "omega_max": 5.0,
        "denoising_weight": 1.0,
    },
    "soundctm-44khz": {
        "omega_min": 1.0,
        "omega_max": 10.0,
        "denoising_weight": 0.2,
    },
}
for _preset in PRESETS.values():
    _preset |= {
        "num_scales": 40,
        "trajectory_reuse": 1,
        "solve_to_target": False,
        "sampler_rate": 0.0,
        "step_count_power": 1.0,
        "target_sigma_min_rate": 0.0,
        "caption_dropout": 0.1,
        "mix_rate": 0.25,
        "feature_distance": "full",
        "match_point": "zs",
        "denoising_target": "data",
        "adaptive_weight": True,
        "branch_init": "reference",
        "train_batch_size": 64,
        "max_train_steps": 30000,
        "optimizer": "radam",
        "learning_rate": 8e-5,
        "lr_scheduler": "constant",
        "max_grad_norm": 1000.0,
        "ema_decay": 0.999,
        "mixed_precision": "bf16",
    }

_AT_LEAST_ONE = ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "max_skipped_steps",
                 "checkpointing_steps", "checkpoints_total_limit", "validation_steps")  # fmt: skip

# What the file may spell out as a mapping, and what it may set to null: keep all checkpoints, report to no tracker.
_MAPPINGS = ("unet_config",)
_NULLABLE = ("checkpoints_total_limit", "report_to")
_KINDS = {int: "a whole number", float: "a number", None: "text"}


def parse_with_config(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, taking what it leaves out from the YAML file that `--config` names (keys are argument names).

    Every argument whose default is `...` is required. Wrong input, in the file too, ends in a usage message and exit
    code 2. Where the parser has a `--preset`, its values come between the file and the defaults.
    """
    import yaml

    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file of arguments; the command line wins")
    first = parser.parse_known_args(argv)[0]
    path, preset = first.config, getattr(first, "preset", None)
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
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
    preset = preset or values.get("preset")
    parser.set_defaults(**{**PRESETS.get(preset, {}), **values})
    arguments = parser.parse_args(argv)
    missing = [f"--{name}" for name, value in vars(arguments).items() if value is ...]
    if missing:
        parser.error(f"these arguments are required: {', '.join(missing)}")
    for name in _AT_LEAST_ONE:
        value = getattr(arguments, name, None)
        if value is not None and value < 1:
            parser.error(f"--{name} {value} must be at least 1")
    return arguments


def _checked(action: argparse.Action, value: Any) -> Any:
    """A value of the YAML file as the command line would give it; `ValueError` says what to give if it does not fit."""
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
        item = (action.type or str)(str(value))  # YAML reads 5e-4 as text, and 1 as no float
    except ValueError:
        raise ValueError(wanted) from None
    if action.choices and item not in action.choices:
        raise ValueError(wanted)
    return item


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `latents.training_data` reads."""
    data = _add_dataset_group(parser, "data and frozen parts", cached="latents and prompt embeddings")
    data.add_argument("--vae", default=..., help="folder of the autoencoder")
    data.add_argument("--text_encoder", default=..., help="folder of the text encoder and its tokenizer")


def add_clip_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The arguments that `clips_of` reads, and `--validation_split`; returns their group."""
    data = _add_dataset_group(parser, "data", cached="decoded clips")
    data.add_argument("--validation_split", help="measure the mel error on this split at the end")
    return data


def clips_of(args: argparse.Namespace, split: str, max_samples: int | None = None) -> Clips:
    """A split of the data set that `args` name, or its first `max_samples` clips."""
    return load_clips(
        args.dataset_name,
        split=split,
        audio_column=args.audio_column,
        caption_column=args.caption_column,
        sampling_rate=args.sampling_rate,
        num_samples=args.num_samples,
        max_samples=max_samples,
        cache_dir=args.cache_dir or Path(args.output_dir) / "cache",
    )


def _add_dataset_group(parser: argparse.ArgumentParser, title: str, cached: str) -> argparse._ArgumentGroup:
    data = parser.add_argument_group(title)
    data.add_argument("--dataset_name", default=..., help="Hub id or folder, see `load_clips`")
    data.add_argument("--audio_column", default="audio")
    data.add_argument("--caption_column", default="caption")
    data.add_argument("--max_train_samples", type=int, help="use the first so many clips only")
    data.add_argument("--sampling_rate", type=int, default=16000)
    data.add_argument("--num_samples", type=int, default=81920, help="length of a clip in samples")
    data.add_argument("--cache_dir", help=f"{cached}; default: OUTPUT_DIR/cache")
    data.add_argument("--output_dir", default=...)
    return data


def add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments beside those that `sources.distillation_data` reads."""
    data = parser.add_argument_group("data at scale")
    data.add_argument("--streaming", action="store_true", help="read clips from the Hub as they are needed")
    data.add_argument("--data_files", nargs="+", help="of the data set builder, for example tar files of webdataset")
    data.add_argument("--stream_buffer_size", type=int, default=1000, help="rows a stream is shuffled in")
    data.add_argument("--mix_rate", type=float, default=0.0, help="share of clips mixed with another, captions joined")


def add_optimisation_arguments(parser: argparse.ArgumentParser, precisions: Sequence[str]) -> None:
    """The optimisation of autoencoder, vocoder or teacher; each script sets the defaults that are its own.

    Args:
        parser: of the script.
        precisions: choices of `--mixed_precision`.
    """
    run = parser.add_argument_group("optimisation")
    run.add_argument("--train_batch_size", type=int, default=..., help="of all processes together")
    run.add_argument("--max_train_steps", type=int, default=...)
    run.add_argument("--learning_rate", type=float, default=...)
    run.add_argument("--lr_scheduler", default="cosine")
    run.add_argument("--lr_warmup_steps", type=int, default=100)
    run.add_argument("--weight_decay", type=float, default=0.01)
    run.add_argument("--max_grad_norm", type=float, default=1.0)
    run.add_argument("--ema_decay", type=float, default=...)
    run.add_argument("--mixed_precision", choices=precisions, default="no")
    add_run_arguments(run, run)


def add_run_arguments(run: argparse._ArgumentGroup, keep: argparse._ArgumentGroup) -> None:
    """The arguments of every run: what ends it, into the group `run`; what it leaves and goes on from, into `keep`."""
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--max_skipped_steps", type=int, default=20, help="steps in a row without finite loss that end it")
    keep.add_argument("--checkpointing_steps", type=int, default=500)
    keep.add_argument("--checkpoints_total_limit", type=int, default=2)
    keep.add_argument("--resume_from_checkpoint", help="folder of a checkpoint, or 'latest'")
