"""Imports go one way: a module imports from lower layers and from its own package, and never in a circle."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import diffusers_soundctm

ROOT = Path(diffusers_soundctm.__file__).parent
PACKAGE = diffusers_soundctm.__name__
# From low to high; the longest name that a module's begins with is its package.
LAYERS = (
    ("version", "lazy", "auto_classes", "terminal", "preconditioning", "files"),
    ("call_checks",),
    ("audio_files", "precision"),
    ("audio",),
    ("schedulers", "models"),
    ("hub", "pipelines.conditioning"),
    ("data",),
    ("distillation", "conversion", "lora", "onnx"),
    ("pipelines",),
    ("control", "evaluation"),
    ("training",),
    ("app",),
    ("cli",),
    ("__main__",),
)
LAYER = {name: layer for layer, names in enumerate(LAYERS) for name in names}
# Installed with extras, or slow to import: a function that needs one imports it itself.
NOT_AT_IMPORT_TIME = {"gradio", "datasets", "peft", "onnx", "onnxruntime", "onnxscript", "librosa"}
# The page of the app, which `soundctm demo` imports when it opens one.
PAGE = {f"{PACKAGE}.app.{name}" for name in ("api", "components", "handlers", "launching", "page", "server_limits")}


def module_names() -> list[str]:
    found = pkgutil.walk_packages([str(ROOT)], f"{PACKAGE}.", onerror=lambda name: None)
    return sorted(module.name for module in found if ".embedded" not in module.name)


MODULES = module_names()


def imports_of(module: str, at_import_time: bool = False) -> set[str]:
    """Names of the modules that a module imports, except for type checkers; `at_import_time` leaves out functions."""
    spec = importlib.util.find_spec(module)
    package = module if spec.submodule_search_locations else module.rpartition(".")[0]
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if at_import_time and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            submodules = {f"{base}.{alias.name}" for alias in node.names} & {*MODULES}
            found.update(submodules)
            if len(submodules) < len(node.names):
                found.add(base)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    return found


def package_of(module: str) -> str | None:
    """The entry of `LAYERS` that a module belongs to; None for the package itself and for other libraries."""
    name = module.removeprefix(f"{PACKAGE}.")
    parts = name.split(".") if name != module else []
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in LAYER), None)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_layers_only(module):
    own = package_of(module)
    assert own is not None, f"{module} is in no layer; add its package to LAYERS"
    wrong = []
    for imported in sorted(imports_of(module)):
        package = package_of(imported)
        if package is None:
            # The top level is lazy: what it gives comes from anywhere.
            wrong += [imported] if imported == PACKAGE else []
        elif package != own and LAYER[package] >= LAYER[own]:
            wrong.append(imported)
    assert wrong == [], f"{module} imports from its own layer or a higher one"


def test_there_are_no_circles():
    graph = {module: imports_of(module) & {*MODULES} - {module} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_optional_or_slow_at_import_time(module):
    roots = {name.partition(".")[0] for name in imports_of(module, at_import_time=True)}
    assert roots & NOT_AT_IMPORT_TIME <= ({"gradio"} if module in PAGE else set())


def test_a_fresh_interpreter_imports_everything_without_extras():
    """The other libraries import some of them if they are installed; here they are hidden, as in an install without."""
    modules = [name for name in MODULES if name not in PAGE and not name.endswith("__main__")]
    code = f"""
import importlib, sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {NOT_AT_IMPORT_TIME} else super().find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
for name in {modules}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
