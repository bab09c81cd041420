"""`soundctm convert`: turn released checkpoints into a model folder."""

import argparse
from pathlib import Path

EXAMPLE = "example: soundctm convert --from sony-dit-v2 --output soundctm-dit-v2"
# Names of `conversion.RELEASES`, which imports torch.
RELEASES = ("sony-unet", "sony-dit-v1", "sony-dit-v2")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser("convert", help="turn released checkpoints into a model folder", epilog=EXAMPLE)
    parser.set_defaults(run=run)
    parser.add_argument("--from", dest="release", required=True, choices=RELEASES, help="name of the release")
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="FILE",
        help="files, folders or Hub ids that hold the checkpoints (default: the release's repo on the Hub)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--variants",
        nargs="*",
        default=["fp16"],
        choices=("fp16", "bf16"),
        help="half-precision weights to write besides the released ones (default: fp16)",
    )
    parser.add_argument(
        "--text-encoder", metavar="MODEL", help="folder or Hub id of the tokenizer, and of FLAN-T5 for sony-unet"
    )
    parser.add_argument(
        "--config", metavar="FILE", help="JSON file with the network's configuration (default: the released one)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the model folder.

    Raises:
        ValueError, OSError: the message names the argument and the remedy.
    """
    from ..conversion import convert_release

    convert_release(
        arguments.release,
        arguments.output,
        arguments.checkpoint,
        variants=arguments.variants,
        text_encoder=arguments.text_encoder,
        original_config=arguments.config,
    )
    print(f'Wrote {arguments.output}. Try: soundctm generate "rain on a tin roof" --model {arguments.output}')
