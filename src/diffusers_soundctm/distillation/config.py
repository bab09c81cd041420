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
