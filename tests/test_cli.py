"""The command line lists its commands and describes their options."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from dermgen import recipes
from dermgen.cli import COMMANDS

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "train_scripts" / "configs"


def test_help_lists_the_commands():
    text = subprocess.run([sys.executable, "-m", "dermgen.cli", "--help"], capture_output=True, text=True).stdout
    assert all(name in text for name in COMMANDS)


def test_every_command_describes_its_options():
    """All in one process: each by itself spends seconds on importing torch."""
    described = [c for c in COMMANDS if c not in ("publish", "recipes")]
    commands = [*([c] for c in described), ["publish", "model"], ["publish", "dataset"]]
    code = """
import sys
from dermgen.cli import COMMANDS
for command in eval(sys.argv[1]):
    try:
        COMMANDS[command[0]]([*command[1:], "--help"])
    except SystemExit as end:
        print("=====", " ".join(command), end.code)
"""
    result = subprocess.run([sys.executable, "-c", code, repr(commands)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pages = dict(zip((" ".join(c) for c in commands), result.stdout.split("=====")[:-1], strict=True))
    for command, page in pages.items():
        assert f"===== {command} 0" in result.stdout
        assert command in ("init", "demo") or "--config RECIPE" in page, command
        assert "None" not in page, command
        assert "MISSING" not in page, command
        assert command in ("train", "init", "inspect", "doctor", "app") or "--output_dir" in page, command
    assert pages["evaluate"].count("(required)") == 3
    assert "(default: inception)" in pages["evaluate"]


def test_publish_without_a_kind_lists_both_kinds():
    result = subprocess.run([sys.executable, "-m", "dermgen.cli", "publish"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "dermgen publish model" in result.stdout
    assert "dermgen publish dataset" in result.stdout


def run(*arguments, cwd=None):
    command = [sys.executable, "-m", "dermgen.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)


def test_recipes_are_listed_with_what_their_own_files_say():
    lines = {line.split()[0]: line.split()[1:] for line in run("recipes").stdout.splitlines()[1:] if line}
    assert set(lines) == {path.stem for path in CONFIGS.glob("*.yaml")}
    assert lines["dreambooth_lora_sd15"] == ["dreambooth_lora", "data/ham10000", "512", "GPU,", "8", "GB"]
    assert lines["ddpm_tiny"] == ["ddpm", "demo/manifest", "32", "CPU"]
    assert lines["cgan_ham10000_64"] == ["dcgan", "data/ham10000_64", "64", "GPU"]
    assert lines["study_vit"] == ["study", "data/ham10000", "224", "GPU,", "8", "GB"]


def test_a_shown_recipe_is_its_file():
    assert run("recipes", "show", "vae_tiny").stdout == (CONFIGS / "vae_tiny.yaml").read_text()
    assert run("recipes", "show", "multi_gpu").stdout == (ROOT / "accelerate_configs" / "multi_gpu.yaml").read_text()


def test_a_copied_recipe_has_the_same_settings_says_its_method_and_overwrites_nothing(tmp_path):
    assert run("recipes", "copy", "ddpm_tiny", "mine.yaml", cwd=tmp_path).stdout == "written: mine.yaml\n"
    assert run("recipes", "copy", "ddpm_tiny", cwd=tmp_path).stdout == "written: ddpm_tiny.yaml\n"
    mine, shipped = recipes.read(str(tmp_path / "mine.yaml")), recipes.read("ddpm_tiny")
    assert mine.method == shipped.method == "ddpm"
    assert mine.settings == dataclasses.replace(shipped.settings, method="ddpm")
    text = (tmp_path / "mine.yaml").read_text()
    assert "#   dermgen train mine.yaml\n" in text
    assert "accelerate launch" not in text
    assert "# The network says clean image" in text
    (tmp_path / "mine.yaml").write_text("mine")
    again = run("recipes", "copy", "vae_tiny", "mine.yaml", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "error: mine.yaml is there already: choose another file, or remove it\n"
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_recipes_says_how_it_is_used_where_it_is_used_otherwise():
    for words in (["list"], ["show"], ["copy"], ["copy", "a", "b", "c"]):
        result = run("recipes", *words)
        assert result.returncode == 2
        assert "dermgen recipes copy NAME [FILE]" in result.stdout
