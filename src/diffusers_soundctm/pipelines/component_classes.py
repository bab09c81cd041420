"""The package's public classes, by a module name for which no model folder holds a loader file."""

import sys
from typing import Any

_package = sys.modules[__name__.partition(".")[0]]


def __getattr__(name: str) -> Any:
    return getattr(_package, name)
