"""Arguments of `learn_sounds.py` and `soundctm learn`, and the checks that need no network."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from .config import add_optimization_arguments, parse_with_config

METHODS = ("teacher", "student")
EMBEDDED_TEACHER = Path(__file__).parents[3] / "training" / "embedded_teacher"


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `learn_sounds.py`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("recordings")
    data.add_argument("--recordings", default=..., help="folder of 5 to 200 recordings, an hour at most")
    data.add_argument("--name", help="name of the adapter, and the caption of all recordings without captions")
    data.add_argument(
        "--caption",
        help="one caption for all recordings; by default those of metadata.csv or metadata.jsonl, else NAME, else the "
        "names of the files",
    )
    data.add_argument("--num_samples", type=int, help="length of a window in samples; by default the model's")
    data.add_argument(
        "--speed_semitones",
        type=float,
        default=0.0,
        help="add a version of each recording whose tape speed differs by up to so many semitones, up or down",
    )
    data.add_argument("--cache_dir", help="folder for latents and prompt embeddings; by default OUTPUT_DIR/cache")
    data.add_argument("--output_dir", default=..., help="folder of the adapter")
    model = parser.add_argument_group("model and method")
    model.add_argument("--model", help="folder or Hub id of the SoundCTM; by default the embedded model")
    model.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="teacher: score matching on the teacher, whose adapter also fits the model; student: score matching and "
        "consistency with the EMA, on the model itself, which needs no teacher",
    )
    model.add_argument("--teacher", help="folder or Hub id of the model's teacher; by default that of the embedded one")
    model.add_argument("--lora_rank", type=int, default=8, help="rank of the adapter")
    model.add_argument(
        "--consistency_weight", type=float, default=1.0, help="weight of the consistency loss of --method student"
    )
    model.add_argument(
        "--prior_prompts", help="text file of prompts whose sounds should stay; by default those that the model knows"
    )
    model.add_argument("--prior_sounds", type=int, default=32, help="the model's own sounds of other prompts")
    model.add_argument("--prior_rate", type=float, default=0.25, help="fraction of such sounds in a batch")
    add_optimization_arguments(parser, precisions=["no", "bf16"])
    parser.set_defaults(
        train_batch_size=8, max_train_steps=300, learning_rate=2e-3, lr_warmup_steps=20, ema_decay=0.98,
        weight_decay=0.0, checkpointing_steps=100, checkpoints_total_limit=1,
    )  # fmt: skip
    keep = parser.add_argument_group("reports and upload")
    keep.add_argument("--validation_steps", type=int, default=100, help="steps between sounds, made with 1 and 4 steps")
    keep.add_argument("--hub_license", help="SPDX id of the license of the recordings and the adapter, for its card")
    keep.add_argument("--push_to_hub", action="store_true", help="upload the adapter at the end")
    keep.add_argument("--hub_model_id", help="name of the repo; by default the last part of OUTPUT_DIR")
    keep.add_argument("--hub_token", help="access token; by default that of `hf auth login`")
    keep.add_argument("--hub_private_repo", action="store_true", help="make the repo private")
    return parser


def parse_args(argv: list[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Parse the arguments, see `parse_with_config`."""
    return parse_with_config(make_parser(description), argv)


def defaults(**given: object) -> argparse.Namespace:
    """Return the arguments of `learn_sounds.py` with its defaults, where `given` does not replace them."""
    parser = make_parser()
    return argparse.Namespace(**{action.dest: parser.get_default(action.dest) for action in parser._actions
                                 if action.dest != "help"} | {"config": None} | given)  # fmt: skip


def caption_of(args: argparse.Namespace) -> str | None:
    """The caption of all recordings: `--caption`, or `--name` if the folder has no captions; None for their own."""
    from ..data.captions import METADATA

    has_table = any((Path(args.recordings) / name).is_file() for name in METADATA)
    return args.caption if args.caption is not None or has_table else args.name


def check(args: argparse.Namespace) -> None:
    """Check the recordings, and what the arguments need.

    Raises:
        ValueError: One sentence that names the remedy.
    """
    from ..data.material import find_recordings

    for name in ("name", "caption"):
        value = getattr(args, name)
        if value is not None and not value.strip():
            raise ValueError(f"--{name} is empty; describe the sounds, as in 'my creature'.")
    find_recordings(Path(args.recordings), caption_of(args))
    if args.push_to_hub and args.hub_license is None:
        raise ValueError("An upload needs the license of your recordings; name it, for example cc-by-4.0.")
    if find_spec("peft") is None:
        raise ValueError("Learning sounds requires peft, which is not installed; run `pip install peft`.")
    if args.method == "teacher":
        teacher_of(args)


def teacher_of(args: argparse.Namespace) -> str:
    """The folder or Hub id of the teacher.

    Raises:
        ValueError: It is not given, and there is no default for the model.
    """
    if args.teacher is not None:
        return args.teacher
    if args.model not in (None, "embedded"):
        raise ValueError(
            f"--method teacher needs the teacher of {args.model}; pass it as --teacher, or choose --method student."
        )
    if not EMBEDDED_TEACHER.is_dir():
        raise ValueError(
            "The teacher of the embedded model is not installed with the package; pass the folder "
            "training/embedded_teacher of a clone as --teacher, or choose --method student, which needs none."
        )
    return str(EMBEDDED_TEACHER)
