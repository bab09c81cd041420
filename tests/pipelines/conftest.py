"""Tiny pipelines of every family."""

import pytest

from pipeline_calls import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pipe(family, tiny_pipeline):
    return tiny_pipeline(family)


@pytest.fixture(scope="module")
def embedded(tiny_pipeline):
    return tiny_pipeline("embedded")
