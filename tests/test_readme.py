"""Every command in the README and the pages beside it runs, with a tiny model and phantoms in the place of downloads."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from hub_server import WRITE

from dermgen.data.phantom import PhantomConfig, write_phantoms

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("running", "baselines", "publishing"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
SMALLER = {
    "prepare": "--resolution 32 --num_workers 1 --split 0.4 0.2 0.4",
    "train": "--resolution 32 --max_train_steps 2 --num_class_images 2 --gradient_accumulation_steps 1 "
    "--num_validation_images 1 --validation_steps 2 --checkpointing_steps 2",
    "gan": "--resolution 32 --max_train_steps 2 --validation_steps 1 --generator_channels 8 --discriminator_channels 8",
    "generate": "--num_inference_steps 2 --batch_size 4",
    "generate_gan": "--batch_size 4",
    "evaluate": "--extractor pixels --lpips none",
    "audit": "--max_copy_rate 0.9",
    "filter": "--extractor pixels",
    "study": "--arms real+augment real real+augment+filtered --max_train_steps 2 --num_validations 1 --bootstrap_draws 100",
    "report": "",
    "publish": "",
    "inspect": "",
    "doctor": "",
}


@pytest.fixture(scope="module")
def place(base_dir, manifest_dir, tmp_path_factory):
    """A checkout with phantoms where a user has HAM10000, and a few photographs in photos/melanoma."""
    folder = tmp_path_factory.mktemp("readme")
    write_phantoms(PhantomConfig(output_dir=str(folder / "data" / "raw" / "ham10000"), num_lesions=105, height=96))
    for name in ("train_scripts", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name)
    for recipe in (folder / "train_scripts" / "configs").glob("*.yaml"):
        text = recipe.read_text().replace("stable-diffusion-v1-5/stable-diffusion-v1-5", str(base_dir))
        recipe.write_text(text.replace("resolution: 512", "resolution: 32"))
    tiny = yaml.safe_load((folder / "train_scripts" / "configs" / "classifier_tiny.yaml").read_text())
    small = tiny | {"resolution": 32, "width": 32, "layers": 1, "output_dir": "runs/classifier_vit"}
    (folder / "train_scripts" / "configs" / "classifier_vit.yaml").write_text(yaml.safe_dump(small))
    (folder / "photos" / "melanoma").mkdir(parents=True)
    for path in sorted((manifest_dir / "images").glob("*.png"))[:3]:
        shutil.copy(path, folder / "photos" / "melanoma")
    return folder


def smaller(command: str, base_dir) -> str:
    command = command.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", str(base_dir))
    command = command.replace("accelerate_configs/single_gpu.yaml", "accelerate_configs/cpu.yaml")
    # As many as an audit of a model asks for.
    command = re.sub(r"mel:\d+", "mel:100", re.sub(r"--num_images \d+", "--num_images 2", command))
    command = command.replace("df:200", "df:8")
    kind = "train" if ".py" in command else command.split()[1]
    if "gan" in command:
        kind = {"train": "gan", "generate": "generate_gan"}.get(kind, kind)
    return f"{command} {SMALLER[kind]}"


def test_the_two_first_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in ("demo", "test", "check"))
    assert "pip install --constraint requirements/tested.txt -e ." in COMMANDS


def opens(command: str, place: Path, env: dict) -> None:
    """Start the page, load it, and end it as a person does."""
    process = subprocess.Popen(
        [*shlex.split(command), "--port", "0"],
        cwd=place,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also in the background
    )
    address = re.search(r"http://\S+", process.stdout.readline())[0]
    with urllib.request.urlopen(address) as answer:
        assert b"dermgen" in answer.read()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


@pytest.mark.slow
def test_every_other_command_runs_in_the_order_of_the_pages(place, base_dir, hub_on_loopback):
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DERMGEN_CACHE": str(place / "cache"),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    hub_on_loopback.reset()  # of what other tests sent
    ran = 0
    for command in COMMANDS:
        if command.startswith(("make", "pip")):
            continue
        if command.startswith("tensorboard"):
            logs = shlex.split(command)[-1]
            assert list((place / logs).rglob("events.out.tfevents.*")), f"{logs} has nothing to show"
            continue
        if command.startswith("dermgen app"):
            opens(command, place, env)
            continue
        online = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": WRITE} if " publish " in command else {}
        result = subprocess.run(
            smaller(command, base_dir), shell=True, cwd=place, env=env | online, capture_output=True, text=True
        )
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
        ran += 1
    assert ran >= 15
    assert len(list((place / "data" / "synthetic_mel" / "images").glob("*.png"))) == 100
    assert (place / "results" / "report" / "report.html").read_text().count("<h2>") >= 6
    assert (place / "runs" / "sks" / "pytorch_lora_weights.safetensors").exists()
    assert set(hub_on_loopback.repos) == {("model", "me/lora-melanoma"), ("dataset", "me/synthetic-melanoma")}
    assert all(repo.private and "README.md" in repo.files for repo in hub_on_loopback.repos.values())


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / "docs" / f"{name}.md" for name in ("architecture", "results"))], ids=lambda p: p.stem
)
def test_files_that_a_page_links_to_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_every_command_of_the_table_exists():
    from dermgen.cli import COMMANDS as commands

    table = set(re.findall(r"^\| `dermgen (\w+)", TEXT, re.MULTILINE))
    assert table == set(commands)
    for script in re.findall(r"^\| `(train_scripts/\w+\.py)`", TEXT, re.MULTILINE):
        assert (ROOT / script).exists()
