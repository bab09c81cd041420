"""`soundctm export`: write a model in a format that runs without PyTorch."""

import argparse
from pathlib import Path

from ..onnx.settings import PRECISIONS

EXAMPLE = "example: soundctm export embedded -o sounds-onnx --dtype int8"


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("export", help="write a model that runs without PyTorch", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("model", help='folder or Hub id of a model, or "embedded"')
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="format to write (default: %(default)s)")
    parser.add_argument(
        "--dtype", choices=PRECISIONS, default="fp32", help="how weights are stored (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the folder if it exists")


def run(arguments: argparse.Namespace) -> None:
    """Write the folder.

    Raises:
        ValueError, OSError, ImportError: the message names the argument and the remedy.
    """
    output = arguments.output
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; choose the name of a folder.")
    if output.is_dir() and any(output.iterdir()) and not arguments.force:
        raise ValueError(f"--output {output} is not empty; pass --force to replace it, or choose another name.")

    from .rendering import load_pipeline

    pipe = load_pipeline(arguments.model, "float32", "cpu")
    pipe.export_onnx(output, arguments.dtype, overwrite=arguments.force)
    size = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    print(f'Wrote {output}, {size:.0f} MB. Try: soundctm generate "rain on a tin roof" --runtime onnx --model {output}')
