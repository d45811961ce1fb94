"""The report is one page that opens in a browser without a request or an error, and shows the results of the stages."""

import base64
import html
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import yaml
from conftest import SMALL_CLASSIFIER
from PIL import Image

from dermgen.classify.comparison import intervals
from dermgen.classify.study import StudyConfig, study
from dermgen.config import InputError, parse
from dermgen.data import preparation_report
from dermgen.data.prepared import Prepared, Split
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.filtering import FilterConfig, filter_images
from dermgen.report import ReportConfig, report
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import read, write
from dermgen.results.evaluation import Evaluation
from dermgen.results.filtered import Filtered
from dermgen.results.study import Study

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def stages(tested_dir, synthetic_dir, tmp_path_factory):
    """Stage folders as a user has them: all but the data in one folder."""
    folder = tmp_path_factory.mktemp("stages")
    both = {"real": str(tested_dir), "synthetic": str(synthetic_dir)}
    evaluate(EvaluateConfig(**both, output_dir=str(folder / "scores"), extractor="pixels", lpips="none", min_images=7))
    filter_images(FilterConfig(**both, output_dir=str(folder / "filtered"), extractor="pixels"))
    recipe = folder / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(SMALL_CLASSIFIER))
    study(
        StudyConfig(**both, output_dir=str(folder / "study"), classifier=str(recipe), max_train_steps=2, num_validations=2,
                    bootstrap_draws=100, arms=["real+augment", "real", "real+augment+synthetic:0.4"])
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def page(stages, tested_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "r"
    first_run = stages / "study" / "runs" / "real" / "seed-0"
    return report(ReportConfig(folders=[str(tested_dir), str(stages), str(first_run)], output_dir=str(out)))


def test_sections_follow_the_order_of_the_stages(page):
    titles = re.findall(r"<h2>(.*?)</h2>", page.read_text())
    assert titles == [
        "Summary",
        "Data",
        "Scores",
        "Quality filter",
        "Classifier: seed-0",
        "Do synthetic images help a classifier?",
    ]


def summary_of(page):
    """By question: the sentences of the summary, and the ids that they link to."""
    (text,) = re.findall(r'<dl class="summary">(.*?)</dl>', page.read_text().replace("\u00a0", " "), re.DOTALL)
    answers = re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", text, re.DOTALL)
    assert len(answers) == text.count("<dt>")
    return {
        question: [(html.unescape(re.sub("<.*?>", "", p)), re.findall(r'href="#(\w+)"', p))
                   for p in re.findall("<p.*?</p>", answer)]
        for question, answer in answers
    }  # fmt: skip


def test_the_summary_says_each_result_in_a_sentence_that_links_to_its_section(page, stages, tested_dir):
    summary, text = summary_of(page), page.read_text().replace("\u00a0", " ")
    assert list(summary) == ["Training", "Splits", "Quality", "Copies", "Filter", "Classifier", "Benefit"]
    first = stages / "study" / "runs" / "real" / "seed-0"
    classifier = read(ClassifierResult, first)
    results = {
        "Splits": preparation_report.headline(Prepared.read(tested_dir), Split.of(tested_dir)),
        "Quality": read(Evaluation, stages / "scores").headline(),
        "Filter": read(Filtered, stages / "filtered").headline(),
        "Classifier": classifier.headline(intervals(first / "predictions_test.csv", classifier.classes)),
        "Benefit": read(Study, stages / "study").headline(),
    }
    for question, headline in results.items():
        ((sentence, links),) = summary[question]
        assert sentence.startswith(headline), question
        (section,) = re.findall(rf'<section id="{links[0]}">(.*?)</section>', text, re.DOTALL)
        assert html.escape(headline) in section.replace("&#39;", "&#x27;"), question
    assert summary["Splits"][0][0].startswith("Protected: ")
    assert "KID x 1000 is " in summary["Quality"][0][0]


def test_the_summary_says_what_no_stage_has_answered(page, stages, tested_dir, tmp_path):
    assert summary_of(page)["Copies"] == [("Not audited for copies.", [])]
    assert summary_of(page)["Training"] == [("No training run is part of this report.", [])]
    scores = report(ReportConfig(folders=[str(stages / "scores")], output_dir=str(tmp_path / "scores")))
    assert "cannot tell whether lesions are kept apart" in summary_of(scores)["Splits"][0][0]
    assert summary_of(scores)["Benefit"][0][0] == "Whether the images help a classifier was not studied."
    data = report(ReportConfig(folders=[str(tested_dir)], output_dir=str(tmp_path / "data")))
    assert list(summary_of(data)) == ["Splits"], "a report of real images alone has no synthetic ones to ask about"


def test_the_summary_has_a_sentence_for_each_of_the_first_three_sets_and_counts_the_others(stages, tmp_path):
    folders = [str(shutil.copytree(stages / "scores", tmp_path / name)) for name in "abcde"]
    page = report(ReportConfig(folders=folders, output_dir=str(tmp_path / "r")))
    *sentences, more = summary_of(page)["Quality"]
    assert [re.findall(r"Scores: (\w)", text) for text, _ in sentences] == [["a"], ["b"], ["c"]]
    assert more == ("and 2 more", [])
    assert "<h2>Scores: e</h2>" in page.read_text()


def test_the_summary_counts_the_warnings_of_a_section_and_notes_are_none(stages, tmp_path):
    folder = shutil.copytree(stages / "scores", tmp_path / "s")
    result = read(Evaluation, folder)
    write(replace(result, leaky=True, warnings=[], examples=[], notes=["of few images"]), folder)
    page = report(ReportConfig(folders=[str(folder)], output_dir=str(tmp_path / "r")))
    ((sentence, links),) = summary_of(page)["Quality"]
    assert sentence.endswith("Scores 1 warning")
    assert links == ["s0", "s0"]
    assert '<p class="warning">LEAKY: ' in page.read_text()
    assert '<p class="note">Note: of few images.</p>' in page.read_text()


@pytest.mark.parametrize("base", [True, False])
def test_a_sample_grid_names_its_prompts_and_says_whether_rows_are_the_base_models(base, tmp_path):
    run = tmp_path / "run"
    (run / "samples").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(run / "samples" / "step-3.png")
    (run / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5}\n')
    (run / "config.yaml").write_text(yaml.safe_dump({"validation_prompt": ["a nevus"], "validation_base_rows": base}))
    text = html.unescape(report(ReportConfig(folders=[str(run)], output_dir=str(tmp_path / "r"))).read_text())
    rows = " of the base model above one of the trained model" if base else ""
    assert f"<figcaption>Samples at step 3; for each prompt a row{rows}: a nevus</figcaption>" in text
    assert "A model was trained, not recorded as finished, on images that are not recorded." in text


def test_the_page_loads_nothing_from_elsewhere(page):
    text = page.read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert len(sources) > 10
    assert all(s.startswith(("data:", "#")) for s in sources)
    assert "@import" not in text
    assert "url(" not in text


def test_a_title_cannot_become_markup(stages, tmp_path):
    out = report(
        ReportConfig(folders=[str(stages / "scores")], output_dir=str(tmp_path), title="<script>alert(1)</script>")
    )
    assert "<script>" not in out.read_text()


def test_figures_on_the_page_are_those_of_the_files(page, stages):
    import json

    result = json.loads((stages / "study" / "study.json").read_text())
    text = page.read_text()
    for entry in result["arms"]:
        assert f"{entry['scores']['bma']['value']:.3f}" in text
    assert "against real+augment" in text


def test_plots_on_the_page_are_the_bytes_of_their_files(page, stages):
    text = page.read_text()
    plots = [p for p in (page.parent / "plots").glob("*.png") if p.stem.endswith(("classes", "confusion"))]
    assert {p.stem.rpartition("_")[2] for p in plots} == {"classes", "confusion"}
    for path in [*plots, stages / "scores" / "plots" / "kid.png"]:
        assert base64.b64encode(path.read_bytes()).decode() in text


def test_a_report_changes_no_file_of_the_folders_that_it_reads(tested_dir, tmp_path):
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
def test_a_browser_shows_the_page_without_an_error_or_sideways_scrolling(page, width, tmp_path):
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
    console_lines = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    assert len(console_lines) == 1, console_lines
    scroll, inner = map(int, re.search(r"WIDTH (\d+) (\d+)", console_lines[0]).groups())
    assert scroll <= inner
    with Image.open(shot) as image:
        colors = image.convert("RGB").getcolors(2**24)
    assert len(colors) > 100


def test_a_folder_without_results_a_missing_one_and_none_at_all_are_errors(tmp_path):
    with pytest.raises(InputError, match="no results of dermgen"):
        report(ReportConfig(folders=[str(tmp_path)], output_dir=str(tmp_path / "r")))
    with pytest.raises(InputError, match="no such folder"):
        report(ReportConfig(folders=[str(tmp_path / "x")], output_dir=str(tmp_path / "r")))
    with pytest.raises(InputError, match="--folders is needed, or words before the first flag"):
        parse(ReportConfig, ["--output_dir", str(tmp_path / "r")])
