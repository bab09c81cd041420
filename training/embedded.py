"""Train the embedded model from nothing, from Debian's sound packages to the folder that ships.

python training/embedded.py --output_dir runs/embedded
python training/embedded.py --output_dir runs/small --scale small

The stages are data, autoencoder, vocoder, teacher, student, model and evaluation. Each one has its settings in
training/configs/embedded/NAME.yaml and its results in OUTPUT_DIR/NAME. Finished stages are skipped, and an unfinished
one continues from its last checkpoint: to go on after a stop, run the same command again. OUTPUT_DIR/model is the
pipeline, OUTPUT_DIR/evaluation what was measured.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from diffusers_soundctm.files import atomic, read_json, write_json

TRAINING = Path(__file__).parent
ROOT = TRAINING.parent
CONFIGS = TRAINING / "configs" / "embedded"
PACKAGES = "fluid-soundfont-gm fluid-soundfont-gs sonic-pi-samples openttd-opensfx freedoom endless-sky-data"
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")


@dataclass(frozen=True)
class Stage:
    """One step of the recipe.

    Attributes:
        name: Its folder in OUTPUT_DIR, and its YAML file.
        run: Does the work; called with the recipe.
        result: The file in the stage's folder that is written last.
        needs: Stages whose results it reads.
    """

    name: str
    run: Callable[["EmbeddedRecipe"], None]
    result: str
    needs: tuple[str, ...] = ()


class EmbeddedRecipe:
    """The folders and processes of one run of the recipe.

    Args:
        args: Arguments of this script.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.root = args, Path(args.output_dir)

    def folder(self, name: str) -> Path:
        """The folder of a stage."""
        return self.root / name

    def settings(self, name: str) -> dict[str, object]:
        """The settings of a stage, from its YAML file if it has one."""
        return yaml.safe_load(self.config(name).read_text(encoding="utf-8")) if self.config(name).is_file() else {}

    def config(self, name: str) -> Path:
        """The YAML file of a stage: that of the scale, or the one that all scales share."""
        of_scale = CONFIGS / self.args.scale / f"{name}.yaml"
        return of_scale if of_scale.is_file() else CONFIGS / f"{name}.yaml"

    def done(self, stage: Stage) -> bool:
        """Whether the stage has finished."""
        return (self.folder(stage.name) / stage.result).is_file()

    def identity(self, stage: Stage) -> str:
        """Digest of the settings of a stage and of the stages that it needs."""
        needed = [self.identity(STAGES[name]) for name in stage.needs]
        text = json.dumps([self.settings(stage.name), needed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self) -> None:
        """Refuse folders that were made with other settings.

        Raises:
            ValueError: A stage was begun with other settings.
        """
        for stage in STAGES.values():
            record = self.root / f"{stage.name}.json"
            if record.is_file() and read_json(record)["settings"] != self.identity(stage):
                raise ValueError(
                    f"--output_dir {self.root}: the stage {stage.name} was begun with other settings. Remove "
                    f"{self.folder(stage.name)} and {record} to begin it again, or give another folder."
                )
        if not self.done(STAGES["data"]) and not SOUNDFONT.is_file():
            raise ValueError(f"{SOUNDFONT} is missing. Install the sound packages: apt-get install {PACKAGES}")

    def run(self) -> None:
        """Run the stages that are not done."""
        self.root.mkdir(parents=True, exist_ok=True)
        print(self.plan())
        for stage in STAGES.values():
            if self.done(stage):
                continue
            started = time.time()
            print(f"\n== {stage.name} ==", flush=True)
            write_json(self.root / f"{stage.name}.json", {"settings": self.identity(stage)})
            stage.run(self)
            if not self.done(stage):  # a script that gets a signal writes a checkpoint and ends well
                print(f"The stage {stage.name} was stopped. Run the same command again to continue.")
                return
            print(f"{stage.name}: {(time.time() - started) / 60:.1f} minutes", flush=True)

    def plan(self) -> str:
        """What is left to do, and about how long it takes."""
        minutes = yaml.safe_load((CONFIGS / "costs.yaml").read_text(encoding="utf-8"))[self.args.scale]
        lines = [f"{'stage':12} {'minutes':>8}  on two CPU cores"]
        left = 0
        for stage in STAGES.values():
            done = self.done(stage)
            lines.append(f"{stage.name:12} {minutes[stage.name]:8}  {'done' if done else ''}".rstrip())
            left += 0 if done else minutes[stage.name]
        return "\n".join([*lines, f"{'left':12} {left:8}  {left / 60:.1f} hours"])

    def train(self, script: str, name: str, **arguments: object) -> None:
        """Run a training script with the settings of a stage; it continues from its last checkpoint.

        Args:
            script: File in training/.
            name: The stage.
            arguments: More arguments, as name and value.
        """
        given = {"config": self.config(name), "output_dir": self.folder(name), "resume_from_checkpoint": "latest"}
        if not self.settings(name).get("mixed_precision"):
            given["mixed_precision"] = "bf16" if has_fast_bfloat16(self.args.device) else "no"
        processes = self.args.num_processes
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        self.call([*(launcher if processes > 1 else []), str(TRAINING / script)], {**given, **arguments})

    def call(self, command: list[str], arguments: dict[str, object], output: Path | None = None) -> None:
        """Run a Python script in a process of its own, which gets the signals that this one gets.

        Args:
            command: Script, or module and script.
            arguments: Name and value; a list gives several values.
            output: File for what the script prints, instead of the terminal.

        Raises:
            SystemExit: The script failed; its exit code is this one's.
        """
        argv = [sys.executable, *command]
        for name, value in arguments.items():
            argv += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
        environment = dict(os.environ)
        if self.args.device == "cpu":
            threads = max((os.cpu_count() or 1) // self.args.num_processes, 1)
            # The allocator's defaults return memory after every step, and page faults then take much of the time.
            environment |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads),
                            "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}  # fmt: skip
        if output is None:
            code = forward_signals(subprocess.Popen(argv, env=environment, cwd=ROOT))
        else:
            with atomic(output) as temporary, temporary.open("w", encoding="utf-8") as file:
                code = forward_signals(subprocess.Popen(argv, env=environment, cwd=ROOT, stdout=file))
                if code:
                    raise SystemExit(code)
        if code:
            raise SystemExit(code)


def forward_signals(process: subprocess.Popen) -> int:
    """Wait for a process and forward SIGINT, SIGTERM and SIGUSR1 to it as SIGTERM; returns its exit code."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, lambda *_: process.terminate()) for number in numbers}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def has_fast_bfloat16(device: str) -> bool:
    """Whether bfloat16 is faster than float32: on GPUs, and on CPUs with instructions for it."""
    if device != "cpu":
        return True
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    return "amx_bf16" in flags or "avx512_bf16" in flags


def prepare_data(recipe: EmbeddedRecipe) -> None:
    """Render the clips."""
    recipe.call([str(TRAINING / "prepare_dataset.py")], {"output_dir": recipe.folder("data"),
                                                         **recipe.settings("data")})  # fmt: skip


def prepare_captions(recipe: EmbeddedRecipe) -> None:
    """Write the captions of all training clips, one per line, and put text encoder and tokenizer into one folder."""
    import pyarrow.parquet

    folder = recipe.folder("captions")
    folder.mkdir(exist_ok=True)
    encoder = folder / "text_encoder"
    encoder.mkdir(exist_ok=True)
    for part in ("text_encoder", "tokenizer"):
        for file in (ROOT / "src" / "diffusers_soundctm" / "embedded" / part).iterdir():
            shutil.copyfile(file, encoder / file.name)
    with atomic(folder / "captions.txt") as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in sorted(recipe.folder("data").glob("train-*.parquet")):
            for captions in pyarrow.parquet.read_table(part, columns=["caption"]).column("caption").to_pylist():
                file.writelines(f"{caption}\n" for caption in captions)


def train_autoencoder(recipe: EmbeddedRecipe) -> None:
    """Train the autoencoder of log-mels."""
    recipe.train("train_autoencoder.py", "autoencoder", dataset_name=recipe.folder("data"))


def train_vocoder(recipe: EmbeddedRecipe) -> None:
    """Train the vocoder, on log-mels of clips and on what the autoencoder makes of them."""
    recipe.train("train_vocoder.py", "vocoder", dataset_name=recipe.folder("data"),
                 autoencoder=recipe.folder("autoencoder") / "vae")  # fmt: skip


def train_teacher(recipe: EmbeddedRecipe) -> None:
    """Train the teacher on latents and captions."""
    recipe.train("train_teacher.py", "teacher", dataset_name=recipe.folder("data"),
                 vae=recipe.folder("autoencoder") / "vae", text_encoder=text_encoder(recipe))  # fmt: skip


def train_student(recipe: EmbeddedRecipe) -> None:
    """Distill the student from captions and noise alone."""
    recipe.train("train_ctm.py", "student", teacher_model=recipe.folder("teacher"),
                 captions=recipe.folder("captions") / "captions.txt", vae=recipe.folder("autoencoder") / "vae",
                 vocoder=recipe.folder("vocoder") / "vocoder", text_encoder=text_encoder(recipe))  # fmt: skip


def text_encoder(recipe: EmbeddedRecipe) -> Path:
    return recipe.folder("captions") / "text_encoder"


def assemble(recipe: EmbeddedRecipe) -> None:
    """Put the parts together in half precision."""
    student = recipe.settings("student")
    recipe.call([str(TRAINING / "assemble_pipeline.py")], {
        "vae": recipe.folder("autoencoder") / "vae", "vocoder": recipe.folder("vocoder") / "vocoder",
        "unet": recipe.folder("student") / "unet", "text_encoder": text_encoder(recipe),
        "guidance_scale_range": [student["omega_min"], student["omega_max"]], "dataset": recipe.folder("data"),
        "output": recipe.folder("model"),
    })  # fmt: skip


def evaluate(recipe: EmbeddedRecipe) -> None:
    """Compare student and teacher on unseen captions, and measure how well generated sounds are recognized."""
    folder, settings = recipe.folder("evaluation"), recipe.settings("evaluation")
    folder.mkdir(exist_ok=True)
    data, teacher = recipe.folder("data"), recipe.folder("teacher")
    common = {"dataset": data, "pipeline": recipe.folder("model")}
    recipe.call(["benchmarks/trajectory.py"], {**common, "teacher": teacher, "prompts": settings["prompts"]},
                folder / "trajectory.md")  # fmt: skip
    recipe.call(["benchmarks/quality.py", "recognition"], {
        **common, "teacher": teacher / "unet", "cache": folder / "cache", "output": folder,
        "seeds-per-class": settings["seeds_per_class"], "steps": settings["steps"],
        "teacher-steps": settings["teacher_steps"],
    }, folder / "recognition.md")  # fmt: skip


STAGES = {
    stage.name: stage
    for stage in (
        Stage("data", prepare_data, "README.md"),
        Stage("captions", prepare_captions, "captions.txt", ("data",)),
        Stage("autoencoder", train_autoencoder, "training.json", ("data",)),
        Stage("vocoder", train_vocoder, "training.json", ("data", "autoencoder")),
        Stage("teacher", train_teacher, "training.json", ("data", "captions", "autoencoder")),
        Stage("student", train_student, "training.json", ("captions", "vocoder", "teacher")),
        Stage("model", assemble, "model_index.json", ("student",)),
        Stage("evaluation", evaluate, "recognition.md", ("model",)),
    )
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, help="folder of all stages")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small: a toy in about ten minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the networks are trained")
    parser.add_argument(
        "--num_processes",
        type=int,
        help="training processes; by default one per GPU, one on CPUs with fast bfloat16, and two on other CPUs",
    )
    args = parser.parse_args(argv)
    if args.num_processes is None:
        two = args.device == "cpu" and (os.cpu_count() or 1) > 1 and not has_fast_bfloat16("cpu")
        args.num_processes = 2 if two else 1
    if args.num_processes < 1:
        parser.error(f"--num_processes {args.num_processes} must be at least 1")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    recipe = EmbeddedRecipe(args)
    try:
        recipe.check()
    except ValueError as error:
        print(f"embedded.py: error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    recipe.run()


if __name__ == "__main__":
    main()
