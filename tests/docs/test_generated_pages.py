"""Pages that are generated agree with the docstrings and parsers, and the embedded model's recipe with its scripts."""

import importlib.util
import sys

import pytest
from commands import parse
from pages import ROOT


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_api_and_options_are_up_to_date():
    for path, text in load(ROOT / "tools" / "generate_docs.py").generated().items():
        assert path.read_text(encoding="utf-8") == text, f"run: python tools/generate_docs.py ({path.name})"


def test_every_argument_is_described():
    for path in (ROOT / "docs" / "api").glob("*.md"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.endswith("|  |"), f"{path.name}: no description of {line}"


def test_the_recipe_of_the_embedded_model_fits_its_scripts(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["embedded.py"])
    embedded = load(ROOT / "training" / "embedded.py")
    stages = embedded.load_recipe()["stages"]
    for name, stage in stages.items():
        parse(embedded.command(name, stage, "minilm"))
        earlier = list(stages)[: list(stages).index(name)]
        assert {stage.get("from"), stage.get("teacher"), *stage.get("mean_of", ())} - {None} <= set(earlier)
        assert stage.get("data") in (None, *embedded.load_recipe()["data"])


@pytest.mark.parametrize("name", ["hard_3", "hard_4", "hard_6"])
def test_data_sets_hold_more_of_what_was_missed(name, tmp_path, monkeypatch):
    from datasets import Dataset, load_dataset

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "training"))
    embedded = load(ROOT / "training" / "embedded.py")
    labels = ["oboe", "sheep", "rain"]
    rows = [{"label": labels[i % 3], "caption": [f"{labels[i % 3]} {n}" for n in range(12)]} for i in range(60)]
    (tmp_path / "runs" / "data").mkdir(parents=True)
    Dataset.from_list(rows).to_parquet("runs/data/train-00000.parquet")
    embedded.make_data(name, embedded.load_recipe())
    made = load_dataset(str(tmp_path / "runs" / name), split="train")
    counts = [made["label"].count(label) for label in labels]
    assert counts[0] == 20 and counts[0] >= counts[1] > counts[2]
    assert len(made[0]["caption"]) == {"hard_3": 12, "hard_4": 18, "hard_6": 20}[name]
