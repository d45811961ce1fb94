"""The package is a stack: a module imports only from its own layer or below, and methods never each other."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dermgen.settings.methods import METHODS
from dermgen.settings.training import TrainConfig

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"config", "job", "installation", "labels", "statistics", "plots", "blocks", "findings", "typed", "watermark"}
    | {"shipped", "builtin"},
    {"data", "settings", "recipes"},
    {"results"},
    {"stages"},
    {"training", "sampling"},
    {"stable_diffusion"},
    {"classify"},
    {"evaluate"},
    {"methods"},
    {"runs"},
    {"generation", "tiny", "filtering", "report", "summary", "inspection"},
    {"app"},
    {"publish"},
    {"trial"},
    {"doctor", "demo"},
    {"launching", "init"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted((ROOT / "dermgen").rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dermgen":
            for alias in node.names:
                yield [*node.module.split("."), alias.name][1:]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_down(path):
    parts = path.relative_to(ROOT / "dermgen").with_suffix("").parts
    for names in imported(path):
        if names[0] not in LEVEL:
            continue  # the package's own __version__
        assert LEVEL[names[0]] <= LEVEL[parts[0]], f"{'/'.join(parts)} must not import {'.'.join(names)}"
        if parts[0] == "methods" and names[0] == "methods" and names[1:2] != [parts[1]]:
            pytest.fail(f"{parts[-1]} imports another method")


def test_the_doctor_knows_no_method():
    """What is peculiar to one is said by its own module."""
    modules = {".".join(names) for names in imported(ROOT / "dermgen" / "doctor.py")}
    named = {method.settings.__module__ for method in METHODS.values()} | {method.module for method in METHODS.values()}
    for name in (name.removeprefix("dermgen.") for name in named - {TrainConfig.__module__}):
        assert not any(module.startswith(name) for module in modules), name


def test_every_module_has_a_place_in_the_stack():
    top = {p.relative_to(ROOT / "dermgen").parts[0].removesuffix(".py") for p in MODULES}
    assert top - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_opens_with_what_it_owns(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_nothing_is_unpickled():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                assert any(k.arg == "weights_only" for k in node.keywords), path


def test_the_folder_picture_names_every_module():
    picture = (ROOT / "docs" / "architecture.md").read_text()
    for path in MODULES:
        if path.name != "__init__.py":
            assert path.name in picture, path


def test_settings_and_the_command_line_import_no_heavy_library():
    """So that `--help`, and a mistake in a flag, take no longer than Python's start."""
    modules = ["dermgen.cli", *(f"dermgen.settings.{p.stem}" for p in (ROOT / "dermgen/settings").glob("[a-z]*.py"))]
    heavy = "torch torchvision diffusers transformers accelerate pandas scipy cv2 PIL matplotlib datasets".split()
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
