"""Teach a SoundCTM new sounds from a folder of recordings.

python training/learn_sounds.py --recordings my_sounds --name "my creature" --output_dir my-creature

OUTPUT_DIR holds a LoRA adapter of a few MB and its card, for `pipe.load_lora_weights`. `soundctm learn` runs the same
from the command line. SIGTERM or SIGUSR1 writes a checkpoint and ends the run with exit code 0.
"""

import argparse

from diffusers_soundctm.training import learning_arguments
from diffusers_soundctm.training.config import begin_script, run_script


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    return learning_arguments.parse_args(argv, __doc__)


if __name__ == "__main__":
    begin_script(parse_args)  # before the slow imports

from diffusers_soundctm.training.learning import learn


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    learning_arguments.check(args)
    learn(args)


if __name__ == "__main__":
    run_script(main)
