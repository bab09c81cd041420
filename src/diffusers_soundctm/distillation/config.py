"""Arguments of a training script: the command line, over a YAML file, over the defaults."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parse_with_config(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse `argv`, taking what it leaves out from the YAML file that `--config` names (keys are argument names).

    Every argument whose default is `...` is required. Wrong input ends in a usage message and exit code 2.
    """
    import yaml

    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file of arguments; the command line wins")
    path = parser.parse_known_args(argv)[0].config
    if path is not None:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            parser.error(f"--config {path}: {error}")
        known = {action.dest for action in parser._actions}
        unknown = sorted(set(values) - known) if isinstance(values, dict) else ["(not a mapping)"]
        if unknown:
            parser.error(f"--config {path} has unknown keys: {', '.join(unknown)}")
        parser.set_defaults(**values)
    arguments = parser.parse_args(argv)
    missing = [f"--{name}" for name, value in vars(arguments).items() if value is ...]
    if missing:
        parser.error(f"these arguments are required: {', '.join(missing)}")
    return arguments


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `latents.training_data` reads."""
    data = parser.add_argument_group("data and frozen parts")
    data.add_argument("--dataset_name", default=..., help="Hub id or folder, see `load_clips`")
    data.add_argument("--audio_column", default="audio")
    data.add_argument("--caption_column", default="caption")
    data.add_argument("--max_train_samples", type=int, help="use the first so many clips only")
    data.add_argument("--sampling_rate", type=int, default=16000)
    data.add_argument("--num_samples", type=int, default=81920, help="length of a clip in samples")
    data.add_argument("--vae", default=..., help="folder of the autoencoder")
    data.add_argument("--text_encoder", default=..., help="folder of the text encoder and its tokenizer")
    data.add_argument("--cache_dir", help="latents and prompt embeddings; default: OUTPUT_DIR/cache")
    data.add_argument("--output_dir", default=...)
