"""`soundctm evaluate`: compare generated sounds with real ones."""

import argparse
from pathlib import Path

from .arguments import check_output_folder, check_overwrite


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="compare generated sounds with real ones",
        epilog="example: soundctm evaluate --generated sounds --reference my_dataset",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--generated", required=True, help="folder or data set of generated sounds; names of subfolders are the classes"
    )
    parser.add_argument("--reference", required=True, help="folder or data set of real sounds")
    parser.add_argument(
        "--reference-split", help="split of the reference data set (default: test, or the only one of a folder)"
    )
    parser.add_argument(
        "--probe-train", help="data set with labels; a probe fitted on its split train measures class recognition"
    )
    parser.add_argument("--embedding", default="aisfx", help="aisfx or package.module:factory (default: %(default)s)")
    parser.add_argument("--sampling-rate", type=int, default=16000, help="in Hz (default: %(default)s)")
    parser.add_argument(
        "--duration", type=float, default=5.12, help="length of each compared sound in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=(),
        help="metrics of the papers, between folders: fad-vggish, fd-openl3, kl-passt, clap",
    )
    parser.add_argument("--captions", help="csv file with the captions of the generated sounds, for clap")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("evaluation.json"), help="JSON file to write (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing JSON file")


def run(arguments: argparse.Namespace) -> None:
    """Print the results as a table and write them as JSON.

    Raises:
        ValueError, OSError, ImportError: the message names the argument and the remedy.
    """
    check_overwrite(arguments.output, arguments.force)
    check_output_folder(arguments.output)

    from ..evaluation import compare, format_results
    from ..files import write_json

    options = {name: value for name, value in vars(arguments).items() if name in compare.__kwdefaults__}
    results = compare(arguments.generated, arguments.reference, **options)
    print(format_results(results))
    write_json(arguments.output, results)
    print(f"Wrote {arguments.output}")
