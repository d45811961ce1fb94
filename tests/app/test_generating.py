"""The page draws what was asked, shows whom it resembles, lets it be taken away with its provenance, and phones nobody."""

import json
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from dermgen.app.app import launch, private_folder
from dermgen.app.studio import Studio
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.settings.app import AppConfig


@pytest.fixture
def studio(world, tmp_path):
    return Studio(AppConfig(model=str(world.run), audit=str(world.results / "audit")), tmp_path / "generated")


def test_a_click_draws_shows_neighbours_and_gives_it_all_away_with_provenance(studio, browser_page, tmp_path):
    pytest.importorskip("gradio")
    from dermgen.app.generating import build

    page, asked = browser_page
    blocks = build(studio)
    page.goto(launch(blocks))
    page.wait_for_selector("#draw")
    assert "synthetic" in page.inner_text("#banner")
    assert "not for diagnosis" in page.inner_text("#banner")
    page.fill("#seed input", "7")
    page.fill("#steps input[type=number]", "2")
    page.fill("#number input[type=number]", "3")
    page.keyboard.press("Tab")
    page.click("#draw")
    page.wait_for_selector("#gallery img", timeout=60_000)
    page.wait_for_function("document.querySelectorAll('#gallery .gallery-item, #gallery button img').length >= 6")
    words = page.inner_text("#gallery")
    assert all(f"synthetic, seed {seed}" in words for seed in (7, 8, 9))
    assert words.count("real, distance") == 3
    with page.expect_download(timeout=30_000) as started:
        page.click("#download")
    path = tmp_path / "set.zip"
    started.value.save_as(path)
    page.screenshot(path=tmp_path / "page.png")
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "set")
    table = manifest.read_synthetic(tmp_path / "set")
    assert list(table["seed"]) == ["7", "8", "9"]
    assert set(table["model"]) == {"ddpm"}
    with Image.open(tmp_path / "set" / table["file_name"][0]) as image:
        assert json.loads(image.info["dermgen"])["seed"] == 7
    assert {urlsplit(url).hostname for url in asked if url.startswith(("http", "ws"))} == {"127.0.0.1"}
    with Image.open(tmp_path / "page.png") as picture:
        colours = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)[::7]}
    assert (0x7A, 0x1F, 0x1F) in colours, "the banner is not seen"
    blocks.close()


def test_what_it_draws_is_what_dermgen_generate_draws(studio, world):
    folder = studio.generate({"dx": "mel"}, 2, 0, 2, 1.0)
    table = manifest.read(folder)
    assert list(table["dx"]) == ["mel", "mel"]
    for i in range(2):
        ours, theirs = (np.asarray(Image.open(f / "images" / f"mel_{i:05d}.png")) for f in (folder, world.drawn))
        assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_copy_is_called_so(studio, world):
    folder = studio.generate({"dx": "mel"}, 2, 0, 2, 1.0)
    real = manifest.read(world.real)
    source = real[real["split"] == "train"].iloc[3]
    shutil.copy(world.real / source["file_name"], folder / "images" / "mel_00000.png")
    words = [text for _, text in studio.nearest(folder)]
    assert words[0] == f"real, distance 0.00, A COPY?, {source['image_id']}"
    assert "COPY" not in words[1]


def test_attributes_become_the_prompt_and_are_kept(base_dir, tmp_path):
    studio = Studio(AppConfig(model=str(base_dir)), tmp_path)
    assert studio.takes_prompts
    folder = studio.generate({"dx": "nv", "localization": "back", "sex": "", "age": 40}, 1, 0, 2, 1.0)
    row = manifest.read(folder).iloc[0]
    assert (row["dx"], row["localization"], row["age"]) == ("nv", "back", 40)
    assert "melanocytic nevus" in row["prompt"]
    assert "back" in row["prompt"]
    folder = studio.generate({"prompt": "malignant skin lesion"}, 1, 0, 2, 1.0)
    assert manifest.read(folder)["prompt"][0] == "malignant skin lesion"
    assert studio.nearest(folder) is None
    assert "no training images here" in studio.legend()


def test_what_was_generated_and_shown_is_removed_at_the_end():
    gradio = pytest.importorskip("gradio")
    with private_folder() as place:
        shown = Path(gradio.components.Image().GRADIO_CACHE)
        assert shown.is_relative_to(place)
        shown.mkdir(parents=True, exist_ok=True)
        (shown / "real.png").write_bytes(b"")
    assert not place.exists()


def test_wrong_models_are_told_before_the_page_opens(world, tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        Studio(AppConfig(model="/nowhere"), tmp_path)
    with pytest.raises(InputError, match=r"has no audit.json"):
        Studio(AppConfig(model=str(world.run), audit=str(tmp_path)), tmp_path)
    shutil.copytree(world.run, tmp_path / "run")
    provenance = json.loads((world.run / "provenance.json").read_text())
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(provenance | {"method": "cyclegan"}))
    with pytest.raises(InputError, match="translates images"):
        Studio(AppConfig(model=str(tmp_path / "run")), tmp_path)


def ended_early(*argv, hidden=None):
    """The one line with which `dermgen app` refuses its arguments, before torch is imported; `hidden` is a package."""
    code = (
        "import sys\n"
        f"if {hidden!r}: sys.modules[{hidden!r}] = None\n"
        f"sys.argv = ['dermgen', 'app', *{[str(a) for a in argv]!r}]\n"
        "from dermgen.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    (line,) = result.stderr.splitlines()
    assert result.stdout == "2 False\n"
    return line


def test_a_port_that_is_taken_is_reported_before_torch_is_imported(world):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = ended_early("--model", world.run, "--port", port)
    assert line == f"error: port {port} cannot be used (Address already in use): choose another --port"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["{tmp}/nowhere"], "no such folder: {tmp}/nowhere"),
        (["{tmp}"], "no run or set of dermgen in {tmp}: give a folder that holds runs"),
        ([], "give either RUNS, a folder of runs, or --model, a model to generate from"),
        (["{tmp}", "--model", "m"], "give either RUNS, a folder of runs, or --model, a model to generate from"),
        (["{tmp}", "--audit", "a"], "--audit is for --model, and has no effect on RUNS: leave it out"),
    ],
)
def test_without_runs_it_says_what_is_wrong_before_torch_is_imported(argv, sentence, tmp_path):
    (tmp_path / "notes").mkdir()
    line = ended_early(*(word.format(tmp=tmp_path) for word in argv))
    assert line == f"error: {sentence.format(tmp=tmp_path)}"


def test_without_gradio_it_says_how_to_install_it(world):
    line = ended_early("--model", world.run, hidden="gradio")
    assert line == "error: the app needs Gradio: pip install 'dermgen[app]'"
