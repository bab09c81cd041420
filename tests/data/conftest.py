"""Tiny teachers, and a cache of `datasets` for every test."""

import pytest

from tiny_teachers import make_teacher


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture(scope="module", params=["audioldm", "audioldm2"])
def teacher_folder(request, tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teachers") / request.param
    make_teacher(request.param, folder, tiny_pipeline)
    return folder


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory, tiny_pipeline):
    folder = tmp_path_factory.mktemp("teachers") / "teacher"
    make_teacher("audioldm", folder, tiny_pipeline)
    return folder
