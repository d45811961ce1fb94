"""`dermgen train` launches a recipe with the method that it is for, and refuses what this machine cannot run at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from small import COMMON, SMALL

from dermgen import recipes
from dermgen.config import InputError, parse_known
from dermgen.launching import check
from dermgen.settings.launch import LaunchConfig

ROOT = Path(__file__).parent.parent
CLI = [sys.executable, "-m", "dermgen.cli"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def checked(recipe="ddpm_tiny", launch="cpu", flags=(), num_gpus=0, cores=2, **options):
    """The number of processes of `dermgen train` on a machine with these GPUs and cores."""
    config = LaunchConfig(recipe=recipe, **options)
    return check(config, recipes.read(recipe, None, flags), LAUNCH[launch], num_gpus, cores)


LAUNCH = {name: yaml.safe_load(path.read_text()) for name, path in recipes.launch_configs().items()}
XFORMERS = "--enable_xformers_memory_efficient_attention"
REFUSED = {
    "a recipe for a GPU": (
        {"recipe": "dreambooth_lora_sd15"},
        "dreambooth_lora_sd15 is for a GPU with 8 GB, and this machine has none",
    ),
    "a recipe in bfloat16": ({"flags": ["--mixed_precision", "bf16"]}, "bf16, and this machine has no GPU"),
    "fp16, the CPU chosen": (
        {"flags": ["--mixed_precision", "fp16"], "launch_config": "cpu"},
        "fp16, which needs a GPU",
    ),
    "xformers": (
        {"recipe": "dreambooth_lora_tiny", "flags": [XFORMERS], "launch_config": "cpu"},
        "xformers, which needs a GPU",
    ),
    "a launch config for a GPU": ({"launch": "single_gpu"}, "for GPUs, and this machine has none: --launch_config cpu"),
    "a launch config for GPUs": ({"launch": "multi_gpu"}, "for GPUs, and this machine has none: --launch_config cpu"),
    "more processes than cores": ({"num_processes": 3}, "3 processes need as many cores, and this machine has 2"),
    "more processes than GPUs": (
        {"launch": "multi_gpu", "num_gpus": 2, "num_processes": 3},
        "3 processes on 1 machine need 3 GPUs on each, and this one has 2",
    ),
    "more processes than GPUs of two machines": (
        {"launch": "multi_node", "num_gpus": 4},
        "16 processes on 2 machines need 8 GPUs on each, and this one has 4",
    ),
    "several processes by a config for one": (
        {"launch": "single_gpu", "num_gpus": 2, "num_processes": 2},
        "is for 1 process, and 2 are asked for",
    ),
    "several machines without GPUs": ({"num_machines": 2}, "several machines train on their GPUs only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_this_machine_cannot_run_is_refused_in_one_sentence(case):
    options, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        checked(**options)


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        ({}, 1),
        ({"num_processes": 2}, 2),
        ({"recipe": "dreambooth_lora_sd15", "launch_config": "cpu"}, 1),
        ({"flags": ["--mixed_precision", "bf16"], "launch_config": "cpu"}, 1),
        ({"recipe": "dreambooth_lora_sd15", "launch": "single_gpu", "num_gpus": 1}, 1),
        ({"launch": "multi_gpu", "num_gpus": 2}, 2),
        ({"launch": "multi_gpu", "num_gpus": 4, "num_processes": 4}, 4),
        ({"launch": "multi_node", "num_gpus": 8}, 16),
    ],
)
def test_what_this_machine_can_run_is_launched_with_the_processes_that_are_asked_for(options, processes):
    assert checked(**options) == processes


def test_flags_of_the_launch_are_told_from_those_of_the_recipe():
    words = ["ddpm_tiny", "--seed", "3", "--num_processes", "2", "--only_classes", "mel", "nv", "--launch_config=cpu"]
    config, flags = parse_known(LaunchConfig, words)
    assert config == LaunchConfig(recipe="ddpm_tiny", num_processes=2, launch_config="cpu")
    assert flags == ["--seed", "3", "--only_classes", "mel", "nv"]


MISTAKES = [
    ("ddpm_tyni", "no such recipe: ddpm_tyni; did you mean ddpm_tiny"),
    ("mine.yaml", "the file name of mine.yaml does not begin with a method's name"),
    ("ddpm_tiny --max_train_step 3", "unknown option '--max_train_step'; did you mean 'max_train_steps'?"),
    ("ddpm_tiny --resolution big", "argument --resolution"),
    ("ddpm_tiny more", "unexpected word 'more'"),
    ("", "--recipe is needed, or words before the first flag"),
    ("ddpm_tiny --launch_config tpu", "no such launch config: tpu: give cpu, "),
    ("ddpm_tiny --launch_config list.yaml", "list.yaml is not a config of accelerate"),
    ("ddpm_tiny --num_processes 10000", "10000 processes need as many cores"),
    ("ddpm_tiny --launch_config multi_gpu", "the launch config is for GPUs, and this machine has none"),
    ("dreambooth_sd15", "dreambooth_sd15 is for a GPU with 16 GB, and this machine has none"),
]


def test_mistakes_are_reported_in_one_line_before_torch_is_imported(tmp_path):
    """All in one process, whose seconds of a core are measured: on a busy machine other seconds say little."""
    (tmp_path / "mine.yaml").write_text("seed: 1")
    (tmp_path / "list.yaml").write_text("[1]")
    code = """
import json, sys, time
from dermgen.cli import main
for words in json.loads(sys.argv[1]):
    start = time.process_time()
    sys.argv[1:] = ["train", *words.split()]
    try:
        main()
    except SystemExit as end:
        print(end.code, "torch" in sys.modules, time.process_time() - start < 2, file=sys.stderr)
"""
    words = json.dumps([words for words, _ in MISTAKES])
    result = subprocess.run([sys.executable, "-c", code, words], capture_output=True, text=True, env=ENV, cwd=tmp_path)
    lines = result.stderr.splitlines()
    assert len(lines) == 2 * len(MISTAKES), result.stderr
    for (command, message), error, state in zip(MISTAKES, lines[::2], lines[1::2], strict=True):
        assert error.startswith(f"error: {message}"), command
        assert state == "2 False True", command


def test_help_after_a_recipe_lists_the_options_of_its_method_and_else_those_of_the_launch():
    for words, option in ((["vae_tiny", "--help"], "--kl_weight"), (["--help"], "--launch_config")):
        result = subprocess.run([*CLI, "train", *words], capture_output=True, text=True, env=ENV)
        assert result.returncode == 0
        assert option in result.stdout


@pytest.fixture
def recipe(manifest_dir, tmp_path):
    """A small DDPM's, in a file whose name says nothing."""
    settings = {**COMMON, **SMALL["ddpm"], "method": "ddpm", "data_dir": str(manifest_dir)}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in settings.items() if v is not None}))
    return path


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_a_recipe_trains_as_its_script_does_and_its_run_says_how(recipe, tmp_path):
    flags = ["--max_train_steps", "3", "--output_dir"]
    done = subprocess.run([*CLI, "train", recipe, *flags, "one"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    script = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file"]
    script += [ROOT / "accelerate_configs" / "cpu.yaml", ROOT / "train_scripts" / "ddpm.py", "--config", recipe]
    subprocess.run([*script, *flags, "other"], cwd=tmp_path, env=ENV, check=True, capture_output=True)
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    assert len(losses(tmp_path / "one")) == 3
    saved = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())
    assert saved["method"] == "ddpm"
    assert recipes.read(str(tmp_path / "one" / "config.yaml")).method == "ddpm"
    assert (tmp_path / "one" / "README.md").exists()
    wrong = subprocess.run(
        [sys.executable, ROOT / "train_scripts" / "vae.py", "--method", "ddpm", "--data_dir", "x"],
        env=ENV, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr == "error: the recipe is for ddpm, not for vae: use `dermgen train RECIPE`\n"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_saves_a_checkpoint_and_ends_it_as_the_training_ends(number, recipe, tmp_path):
    command = [*CLI, "train", recipe, "--max_train_steps", "100000", "--output_dir", tmp_path / "run"]
    process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    assert "Run the same command again to resume." in errors
    assert [p.name for p in (tmp_path / "run").iterdir() if re.fullmatch(r"checkpoint-\d+", p.name)]


@pytest.mark.slow
def test_two_processes_on_a_cpu_train_as_one_does(recipe, tmp_path):
    for name, processes, batch in (("one", "1", "4"), ("two", "2", "2")):
        command = [*CLI, "train", recipe, "--launch_config", "cpu", "--num_processes", processes, "--output_dir", name]
        command += ["--train_batch_size", batch, "--max_train_steps", "3"]
        result = subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        record = json.loads((tmp_path / name / "provenance.json").read_text())
        assert record["processes"] == int(processes)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-3)


@pytest.mark.slow
def test_a_study_trains_by_its_recipe_too(tmp_path):
    (tmp_path / "study_x.yaml").write_text(
        "{real: nowhere, synthetic: nowhere, output_dir: out, classifier: classifier_tiny}"
    )
    result = subprocess.run([*CLI, "train", "study_x.yaml"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "nowhere" in result.stderr.splitlines()[-1]
