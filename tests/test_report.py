"""The report is one page that opens in a browser without a request or an error, and says what the stages found."""

import base64
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import SMALL_CLASSIFIER
from PIL import Image

from dermgen.classify.study import StudyConfig, study
from dermgen.config import InputError, parse
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.filtering import FilterConfig, filter_images
from dermgen.report import ReportConfig, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def stages(tested_dir, synthetic_dir, tmp_path_factory):
    """Stage folders as a user has them: all but the data in one place."""
    place = tmp_path_factory.mktemp("stages")
    both = {"real": str(tested_dir), "synthetic": str(synthetic_dir)}
    evaluate(EvaluateConfig(**both, output_dir=str(place / "scores"), extractor="pixels", lpips="none", min_images=7))
    filter_images(FilterConfig(**both, output_dir=str(place / "filtered"), extractor="pixels"))
    recipe = place / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(SMALL_CLASSIFIER))
    study(
        StudyConfig(**both, output_dir=str(place / "study"), classifier=str(recipe), max_train_steps=2, num_validations=2,
                    bootstrap_draws=100, arms=["real+augment", "real", "real+augment+synthetic:0.4"])
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def page(stages, tested_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "r"
    first_run = stages / "study" / "runs" / "real" / "seed-0"
    return report(ReportConfig(folders=[str(tested_dir), str(stages), str(first_run)], output_dir=str(out)))


def test_every_stage_has_its_section_in_order(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page.read_text())
    assert titles == [
        "Data",
        "Scores",
        "Quality filter",
        "Classifier: seed-0",
        "Do synthetic images help a classifier?",
    ]


def test_the_page_asks_for_nothing_outside_itself(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert len(sources) > 10
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "@import" not in text
    assert "url(" not in text


def test_what_a_user_named_cannot_become_markup(stages, tmp_path):
    out = report(
        ReportConfig(folders=[str(stages / "scores")], output_dir=str(tmp_path), title="<script>alert(1)</script>")
    )
    assert "<script>" not in out.read_text()


def test_figures_on_the_page_are_those_of_the_files(page, stages):
    import json

    found = json.loads((stages / "study" / "study.json").read_text())
    text = page.read_text()
    for entry in found["arms"]:
        assert f"{entry['scores']['bma']['value']:.3f}" in text
    assert "against real+augment" in text


def test_the_plots_on_the_page_are_files_beside_it(page, stages):
    text = page.read_text()
    plots = [p for p in (page.parent / "plots").glob("*.png") if p.stem.endswith(("classes", "confusion"))]
    assert {p.stem.rpartition("_")[2] for p in plots} == {"classes", "confusion"}
    for path in [*plots, stages / "scores" / "plots" / "kid.png"]:
        assert base64.b64encode(path.read_bytes()).decode() in text


def test_a_report_changes_no_file_of_what_it_is_about(tested_dir, tmp_path):
    folder = shutil.copytree(tested_dir, tmp_path / "m")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    report(ReportConfig(folders=[str(folder)], output_dir=str(tmp_path / "r")))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_report_over_a_missing_image_names_it(tested_dir, tmp_path):
    folder = shutil.copytree(tested_dir, tmp_path / "m")
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"images/.*, an image of .*m, cannot be shown: missing from disk"):
        report(ReportConfig(folders=[str(folder)], output_dir=str(tmp_path / "r")))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1200], ids=["phone", "desk"])
def test_a_browser_shows_it_without_an_error_and_nothing_sticks_out_sideways(page, width, tmp_path):
    shot = tmp_path / "shot.png"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    probe = tmp_path / "probe.html"
    script = "<script>console.log('WIDTH', document.documentElement.scrollWidth, innerWidth)</script></body>"
    probe.write_text(page.read_text().replace("</body>", script))
    result = subprocess.run(
        [*command, f"--screenshot={shot}", f"--window-size={width},1600", probe.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    assert len(said) == 1, said
    scroll, inner = map(int, re.search(r"WIDTH (\d+) (\d+)", said[0]).groups())
    assert scroll <= inner
    with Image.open(shot) as image:
        colors = image.convert("RGB").getcolors(2**24)
    assert len(colors) > 100


def test_a_folder_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no stage of dermgen"):
        report(ReportConfig(folders=[str(tmp_path)], output_dir=str(tmp_path / "r")))
    with pytest.raises(InputError, match="no such folder"):
        report(ReportConfig(folders=[str(tmp_path / "x")], output_dir=str(tmp_path / "r")))
    with pytest.raises(InputError, match="--folders is needed, or words before the first flag"):
        parse(ReportConfig, ["--output_dir", str(tmp_path / "r")])
