"""A wheel, installed into an environment of its own, goes from an empty folder to the report without the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SOURCES = "dermgen train_scripts accelerate_configs model_cards pyproject.toml README.md LICENSE".split()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """`bin` of an environment with the wheel, which finds all other packages in that of the tests."""
    place = tmp_path_factory.mktemp("wheel")
    (place / "sources").mkdir()
    for name in SOURCES:  # a copy, since setuptools builds beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / "sources" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", place, place / "sources"]
    subprocess.run([*pip, *build], check=True, cwd=place)
    shutil.rmtree(place / "sources")
    (wheel,) = place.glob("dermgen-*.whl")
    python = place / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True, cwd=place)
    (packages,) = (place / "env" / "lib").glob("python*/site-packages")
    # Only the path: an editable dermgen there would need its own .pth file to be read.
    (packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return python.parent


@pytest.mark.slow
def test_an_installed_wheel_goes_from_phantoms_to_the_report_without_the_repository(installed, tmp_path):
    def run(command, status=0):
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
            "PATH": f"{installed}:{os.environ['PATH']}", "DERMGEN_CACHE": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        done = subprocess.run(command, shell=True, cwd=work, env=env, capture_output=True, text=True)
        assert done.returncode == status, f"{command}\n{done.stderr[-2000:]}"
        return done.stdout + done.stderr

    work = tmp_path / "empty"
    work.mkdir()
    env = installed.parent
    where = run(
        "python -c 'import dermgen; from dermgen import recipes; print(dermgen.__file__, recipes.find(\"vae_tiny\"))'"
    )
    assert all(Path(path).is_relative_to(env) for path in where.split())
    assert "ddpm_tiny" in run("dermgen recipes")
    # A recipe of a study names that of its classifier by its path in the repository.
    assert "classifier_vit" in run("dermgen recipes show study_vit")
    assert run("python -c 'from dermgen import recipes; print(recipes.read(\"study_vit\").resolution)'") == "224\n"
    run("dermgen recipes copy ddpm_tiny mine.yaml")
    run("dermgen phantom --output_dir phantoms --num_lesions 28 --height 96")
    run("dermgen prepare ham10000 --data_dir phantoms --output_dir manifest --resolution 32 --num_workers 1")
    small = "--max_train_steps 2 --validation_steps 2 --validation_images 8 --num_sample_images 8"
    run(f"dermgen train mine.yaml --data_dir manifest --output_dir runs/ddpm {small}")
    assert yaml.safe_load((work / "runs" / "ddpm" / "config.yaml").read_text())["method"] == "ddpm"
    assert (
        "A denoising diffusion model" in (work / "runs" / "ddpm" / "README.md").read_text()
    )  # the card, by a template of the wheel
    run("dermgen generate --model runs/ddpm --classes mel:2 --num_inference_steps 2 --output_dir synthetic")
    assert len(list((work / "synthetic" / "images").glob("*.png"))) == 2
    run("dermgen report manifest runs synthetic --output_dir report")
    assert (work / "report" / "report.html").read_text().count("<h2") >= 3
    shutil.rmtree(env / "share" / "dermgen")
    error = run("dermgen recipes", status=2)
    assert error.startswith("error: dermgen's own files are missing")
    assert error.count("\n") == 1
