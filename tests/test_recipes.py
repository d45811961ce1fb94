"""Every recipe parses with its script's settings, says how to launch it, and every accelerate config loads."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from dermgen.config import parse
from dermgen.methods.dreambooth import DreamboothConfig, DreamboothLoraConfig

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "train_scripts" / "configs").glob("*.yaml"))
ACCELERATE = sorted((ROOT / "accelerate_configs").glob("*.yaml"))


def kind(path):
    return DreamboothLoraConfig if path.stem.startswith("dreambooth_lora") else DreamboothConfig


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_parses_and_its_header_launches_it(path):
    config = parse(kind(path), ["--config", str(path)])
    assert config.output_dir.startswith(("runs/", "demo/"))
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    script = "dreambooth_lora" if kind(path) is DreamboothLoraConfig else "dreambooth"
    assert f"train_scripts/{script}.py --config train_scripts/configs/{path.name}" in header
    assert "Needs:" in header
    assert "mixed_precision" not in yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.stem)
def test_an_accelerate_config_loads(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == ("no" if path.stem == "cpu" else "bf16")
    assert config.use_cpu == (path.stem == "cpu")


def test_every_accelerate_config_that_is_promised_is_there():
    assert {p.stem for p in ACCELERATE} == {"cpu", "single_gpu", "multi_gpu", "multi_node", "fsdp"}
