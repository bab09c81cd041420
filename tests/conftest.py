"""Fixtures of all tests."""

import os

# Tiny networks gain nothing from threads, and several processes of tests or training would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

from tiny_pipelines import make_pipeline
from training_inputs import training_inputs  # noqa: F401, a fixture


@pytest.fixture(scope="session")
def embedded_folder(tmp_path_factory) -> Path:
    """A saved pipeline of the embedded model's family."""
    folder = tmp_path_factory.mktemp("models") / "tiny-embedded"
    make_pipeline("embedded").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline():
    """`tiny_pipeline(family)` → a tiny pipeline of that family, made anew each time."""
    return make_pipeline
