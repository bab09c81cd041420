"""How often a model wrongly says that it does not know a prompt, and how often it says so of prompts it cannot know.

Known prompts are the captions of the test split that did not set the threshold. Unknown ones are in
unknown_prompts.txt.

    python benchmarks/known_sounds.py --dataset runs/data
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from common import print_command, print_table
from diffusers_soundctm import SoundCTMPipeline
from diffusers_soundctm.evaluation import fraction_interval

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "training"))
BATCH = 64
REPEATS = 200


def main() -> None:
    from assemble_pipeline import captions_by_kind

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="data set with splits train and test")
    parser.add_argument("--pipeline", help="pipeline folder (default: the embedded model)")
    parser.add_argument("--unknown", type=Path, default=HERE / "unknown_prompts.txt", help="one prompt per line")
    args = parser.parse_args()
    pipe = SoundCTMPipeline.from_pretrained(args.pipeline) if args.pipeline else SoundCTMPipeline.from_embedded()
    if pipe.known_sounds is None:
        parser.error("the model does not say what it knows; assemble it with --dataset")
    unknown = [line for line in args.unknown.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    known = [caption for some in captions_by_kind(args.dataset, "test").values() for caption in some[1::2]]

    print_command()
    rows = []
    for name, prompts in (("held-out captions of known kinds", known), ("unknown prompts", unknown)):
        flagged = warned(pipe, prompts)
        low, high = fraction_interval(np.array([prompt in flagged for prompt in prompts]))
        share = sum(prompt in flagged for prompt in prompts) / len(prompts)
        rows.append((name, len(prompts), f"{share:.1%} [{low:.1%}, {high:.1%}]"))
    print_table(["prompts", "n", "said to be unknown"], rows)
    missed = [prompt for prompt in unknown if prompt not in warned(pipe, [prompt])]
    print(f"\nUnknown prompts without a word: {'; '.join(missed)}")
    milliseconds = cost(pipe)
    print(f"The check takes {milliseconds:.2f} ms per call of one prompt.")


def warned(pipe: SoundCTMPipeline, prompts: list[str]) -> dict[str, list[str]]:
    """Those of `prompts` that the model does not know, each with the nearest kinds."""
    found = {}
    for start in range(0, len(prompts), BATCH):
        found |= pipe.unknown_sounds(prompts[start : start + BATCH])
    return found


def cost(pipe: SoundCTMPipeline) -> float:
    """Median time in ms that the check adds to a call, whose prompt is encoded in any case."""
    embeds, mask, _, _ = pipe.encode_prompt("rain on a tin roof", do_nu_sampling=False)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        pipe._warn_unknown("rain on a tin roof", embeds, mask, 1)
        times.append(1000 * (time.perf_counter() - start))
    return float(torch.tensor(times).median())


if __name__ == "__main__":
    main()
