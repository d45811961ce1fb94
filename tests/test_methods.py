"""A method is one row of one table: nothing else names it, and it has all its parts."""

import ast
import importlib
from pathlib import Path

import pytest
from small import SMALL

from dermgen.settings.doctor import DoctorConfig
from dermgen.settings.methods import FROM_SCRATCH, METHODS
from dermgen.settings.training import FromScratchConfig

ROOT = Path(__file__).parent.parent
RECIPES = {path: DoctorConfig(recipe=str(path)).training()[0]
           for path in (ROOT / "train_scripts" / "configs").glob("*.yaml") if not path.stem.startswith("study")}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_its_card_script_recipe_and_row_of_the_readme(name):
    assert (ROOT / "model_cards" / f"{name}.md").exists()
    assert f'train_and_finish("{name}"' in (ROOT / "train_scripts" / f"{name}.py").read_text()
    assert name in RECIPES.values()
    assert f"| `train_scripts/{name}.py` |" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_a_method_trained_from_scratch_has_a_tiny_recipe_small_settings_and_what_its_row_promises(name):
    tiny = DoctorConfig(recipe=str(ROOT / "train_scripts" / "configs" / f"{name}_tiny.yaml")).training()
    assert tiny[0] == name
    assert tiny[1].output_dir == f"demo/{name}"
    assert name in SMALL
    method = METHODS[name]
    assert issubclass(method.settings, FromScratchConfig)
    module = method.load()
    assert callable(module.train)
    assert callable(module.load_generator)
    assert hasattr(module, "load_critic") == method.judges


def test_no_recipe_belongs_to_a_method_whose_name_its_own_only_begins_with():
    names = {path.stem: name for path, name in RECIPES.items()}
    assert names["dreambooth_lora_sd15"] == "dreambooth_lora"
    assert names["dreambooth_sd15"] == "dreambooth"
    assert names["cgan_ham10000_64"] == "dcgan"


def test_no_module_compares_the_name_of_a_method():
    for path in (ROOT / "dermgen").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                values = {part.value for part in (node.left, *node.comparators) if isinstance(part, ast.Constant)}
                assert not values & set(FROM_SCRATCH), f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("name", ["dcgan", "stylegan2", "cyclegan"])
def test_adding_a_method_touches_six_files_of_the_package(name):
    """Its options, its row, its method, its card, its script, its recipe; other names are words of other ideas too."""
    module = importlib.import_module(METHODS[name].module)
    own = Path(module.__file__).parent if hasattr(module, "__path__") else Path(module.__file__)
    places = [*(ROOT / "dermgen").rglob("*.py"), *(ROOT / "train_scripts").glob("*.py")]
    named = set()
    for path in places:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value == name:
                named.add(path)
    assert {p for p in named if p != own and own not in p.parents} == {
        ROOT / "dermgen" / "settings" / "methods.py", ROOT / "train_scripts" / f"{name}.py",
    }  # fmt: skip
