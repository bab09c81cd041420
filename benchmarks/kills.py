"""Kill every training stage at random moments, resume it, and compare the result with that of a run never killed.

python benchmarks/kills.py --kills 50

Each chain begins one run of a tiny model, ends it up to five times with SIGKILL or SIGTERM, starts the same command
again each time, and then lets it finish. Runs are forked from this process, which has imported the libraries, so that
a signal hits the work and not the imports. A chain is equal if all its tensors have the same bits as those of a run
never killed, every SIGTERM ended with exit code 0, and no temporary file is left.
"""

import argparse
import io
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import numpy as np
import pyarrow as pa
import soundfile
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizer

from common import print_command, print_table

SCRIPTS = Path(__file__).parents[1] / "training"
SAMPLES, CLIPS = 5120, 24
KILLS_PER_CHAIN = 5
BEGIN = 0.2  # seconds after which a script handles signals
WORDS = ["a", "bark", "dog", "drum", "loud", "on", "piano", "quiet", "rain", "roof", "tin", "wind"]
UNET = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 16,
}
STEPS = {"max_train_steps": 8, "checkpointing_steps": 2, "train_batch_size": 2, "learning_rate": 1e-3}
RESUMED = {**STEPS, "resume_from_checkpoint": "latest"}


@dataclass
class Stage:
    """A script, its arguments, and the file that it writes last."""

    script: str
    result: str
    arguments: dict[str, object]


def stages(root: Path) -> dict[str, Stage]:
    """All stages. The later ones read what runs of the earlier ones left in `root`, see `finish`."""
    data = {"dataset_name": root / "data", "num_samples": SAMPLES}
    vae, text_encoder = root / "autoencoder" / "vae", root / "text_encoder"
    student = {"teacher_model": root / "teacher", "vae": vae, "text_encoder": text_encoder}
    small = {"block_out_channels": [8, 8, 8], "norm_num_groups": 4, "latent_channels": 4, "num_frames": 16}
    vocoder = {"hidden_size": 8, "num_layers": 1, "intermediate_size": 16, "num_frames": 16, "adversarial_start": 4}
    return {
        "autoencoder": Stage("train_autoencoder", "training.json", {**data, **RESUMED, **small}),
        "vocoder": Stage("train_vocoder", "training.json", {**data, **RESUMED, **vocoder}),
        "teacher": Stage("train_teacher", "training.json", {
            **data, **RESUMED, "vae": vae, "text_encoder": text_encoder, "unet_config": root / "unet.json"}),
        "student": Stage("train_ctm", "training.json", {
            **data, **RESUMED, **student, "num_scales": 4, "mixed_precision": "no", "trajectory_reuse": 2}),
        "precompute": Stage("precompute", "latents.json", {**data, **student, "shard_size": 3, "batch_size": 2}),
    }  # fmt: skip


def write_inputs(root: Path) -> None:
    """Write a data set of noises, a text encoder, and the configuration of a UNet."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(CLIPS):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal(SAMPLES), 16000, format="FLAC")
        caption = " ".join(rng.choice(WORDS, 3))
        rows.append({"audio": {"bytes": file.getvalue(), "path": f"{number}.flac"}, "caption": caption})
    (root / "data").mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), root / "data" / "train-00000.parquet")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    torch.manual_seed(0)
    encoder = BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1,
                                   num_attention_heads=2, intermediate_size=32))  # fmt: skip
    encoder.save_pretrained(root / "text_encoder")
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(root / "text_encoder")
    (root / "unet.json").write_text(json.dumps(UNET))


def start(stage: Stage, output_dir: Path, log: Path) -> int:
    """Fork a process that runs the stage's script, and return its id."""
    argv = [f"{stage.script}.py", f"--output_dir={output_dir}"]
    for name, value in stage.arguments.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = argv
        runpy.run_path(str(SCRIPTS / f"{stage.script}.py"), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else ended.code is not None
    except Exception:
        traceback.print_exc()  # the process ends before Python would print it
    finally:
        sys.stdout.flush()
        os._exit(code)


def end_of(process: int, timeout: float = 600) -> int:
    """Wait for a process and return its exit code, negative for a signal."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    raise RuntimeError(f"A run did not end within {timeout:g} s.")


def finish(stage: Stage, output_dir: Path) -> float:
    """Run a stage without interruption and return its seconds."""
    log, started = output_dir.with_suffix(".log"), time.monotonic()
    code = end_of(start(stage, output_dir, log))
    if code or not (output_dir / stage.result).is_file():
        raise RuntimeError(f"{stage.script} ended with {code}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started


@dataclass
class Count:
    """What happened in the chains of a stage."""

    kills: int = 0
    terminations: int = 0
    chains: int = 0
    faults: list[str] = field(default_factory=list)


def run_chain(stage: Stage, whole: Path, output_dir: Path, kills: int, seconds: float, rng: random.Random,
              count: Count) -> float:  # fmt: skip
    """End one run up to `kills` times, let it finish, and compare it with `whole`; returns the seconds of its end."""
    log, faults = output_dir.with_suffix(".log"), []
    for _ in range(kills):
        process = start(stage, output_dir, log)
        time.sleep(BEGIN + rng.uniform(0, seconds))
        number = rng.choice([signal.SIGKILL, signal.SIGTERM])
        os.kill(process, number)
        code = end_of(process)
        if code == -signal.SIGKILL:
            count.kills += 1
        elif number == signal.SIGTERM:
            count.terminations += 1
        if code not in (0, -signal.SIGKILL):
            faults.append(f"{number.name}: exit code {code}:\n{log.read_text()[-1500:]}")
        if (output_dir / stage.result).is_file():
            break
    if not (output_dir / stage.result).is_file():
        seconds = finish(stage, output_dir)
    faults += differences(whole, output_dir)
    count.chains += 1
    if faults:
        count.faults.append(f"chain {count.chains} of {stage.script}: " + "; ".join(faults))
    return seconds


def differences(whole: Path, other: Path) -> list[str]:
    """What two finished runs do not share, and what one should not have left."""
    found = []
    names = [path.relative_to(whole) for path in whole.rglob("*.safetensors") if "cache" not in path.parts]
    for name in names:
        if not (other / name).is_file():
            found.append(f"{name} is missing")
            continue
        ours, theirs = load_file(whole / name), load_file(other / name)
        same = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
        found += [] if same else [f"{name} differs"]
    left = [path.name for path in other.rglob(".*") if path.name == ".lock" or path.suffix == ".unfinished"]
    return found + [f"{name} is left" for name in left] + ([] if names else ["there are no weights"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="signals per stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the signals")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for script in ("train_ctm", "train_vocoder", "precompute"):  # imports what all runs need, before they are forked
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="imported")
    rows, faults = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_inputs(root)
        whole = {name: finish(stage, root / name) for name, stage in stages(root).items()}
        for name, stage in stages(root).items():
            rng, count, seconds = random.Random(f"{name} {arguments.seed}"), Count(), whole[name]
            while count.kills + count.terminations < arguments.kills:
                left = arguments.kills - count.kills - count.terminations
                output_dir = root / "chain"
                seconds = run_chain(stage, root / name, output_dir, min(left, KILLS_PER_CHAIN), seconds, rng, count)
                shutil.rmtree(output_dir)
            equal = count.chains - len(count.faults)
            rows.append([name, count.kills, count.terminations, f"{equal}/{count.chains}"])
            print(*rows[-1], f"{seconds:.1f} s", sep="\t", file=sys.stderr, flush=True)
            faults += count.faults
    print_command()
    print_table(["stage", "SIGKILL", "SIGTERM", "chains equal"], rows)
    if faults:
        sys.exit("\n\n".join(faults))


if __name__ == "__main__":
    main()
