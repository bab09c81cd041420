"""Make `AutoModel` and `AutoPipelineForText2Audio` of diffusers find the classes of this package.

diffusers has no function to register classes. Its modules are imported slowly, so nothing is imported here: what a
module needs is added when it is imported, or at once if it is already.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_package = sys.modules[__name__.partition(".")[0]]


def register(models: Sequence[str]) -> None:
    """Add models to diffusers, and the pipeline to its auto pipelines.

    Args:
        models: names of the package's model classes.
    """

    def add_models(module: ModuleType) -> None:
        # `AutoModel` looks up the class that a model's configuration names as an attribute of diffusers.
        for name in models:
            setattr(sys.modules["diffusers"], name, getattr(_package, name))

    additions = {"diffusers.models.auto_model": add_models, "diffusers.pipelines.auto_pipeline": _add_pipeline}
    for name in additions.keys() & sys.modules.keys():
        additions.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _AfterImport(additions))


def _add_pipeline(module: ModuleType) -> None:
    pipeline = _package.SoundCTMPipeline
    auto = module.AutoPipelineForText2Audio
    module.AUTO_TEXT2AUDIO_PIPELINES_MAPPING["soundctm"] = pipeline

    def load_config(cls: type, *args: Any, **kwargs: Any) -> Any:
        # A saved pipeline's class is ["pipeline", name], which the stock `DiffusionPipeline` requires.
        config = super(auto, cls).load_config(*args, **kwargs)
        if isinstance(config, dict) and config.get("_class_name") == ["pipeline", pipeline.__name__]:
            config = config | {"_class_name": pipeline.__name__}
        return config

    auto.load_config = classmethod(load_config)


class _AfterImport(MetaPathFinder):
    """Calls a function with a module after its import."""

    def __init__(self, additions: dict[str, Callable[[ModuleType], None]]):
        self.additions = additions

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in self.additions:
            return None
        add = self.additions.pop(fullname)
        spec = importlib.util.find_spec(fullname)
        execute: Callable[[ModuleType], None] = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            add(module)

        spec.loader.exec_module = exec_module
        return spec
