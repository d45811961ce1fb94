"""Folders written before results, runs and what they were trained on had types of their own are still read.

tests/old_folders/ was written by the commands of commit 7c63caa from phantoms of two classes: a manifest, runs of LoRA,
a VAE and a classifier, 16 images of the VAE, and their results. Only the VAE has weights.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dermgen import stages
from dermgen.config import InputError, parse
from dermgen.data import manifest
from dermgen.data.cache import hash_file
from dermgen.data.trained_on import TrainedOn
from dermgen.evaluate.evaluate import evaluate
from dermgen.generation.generate import generate
from dermgen.job import claim_folder
from dermgen.publish.dataset import publish_dataset
from dermgen.publish.model import publish_model
from dermgen.report import report
from dermgen.settings.classifier import ClassifierConfig
from dermgen.settings.dreambooth import DreamboothLoraConfig
from dermgen.settings.evaluate import AuditConfig, EvaluateConfig, FilterConfig
from dermgen.settings.generate import GenerateConfig
from dermgen.settings.prepare import PrepareConfig
from dermgen.settings.publish import PublishDatasetConfig, PublishModelConfig
from dermgen.settings.report import ReportConfig
from dermgen.settings.study import StudyConfig
from dermgen.settings.vae import VaeConfig

# The settings of each folder, and one that its job may not change.
FOLDERS = {
    "manifest": (PrepareConfig, "seed", "5"),
    "lora": (DreamboothLoraConfig, "rank", "2"),
    "vae": (VaeConfig, "latent_dim", "8"),
    "classifier": (ClassifierConfig, "layers", "2"),
    "generated": (GenerateConfig, "seed", "5"),
    "scores": (EvaluateConfig, "seed", "5"),
    "audit": (AuditConfig, "candidates", "9"),
    "filtered": (FilterConfig, "keep", "0.5"),
    "study": (StudyConfig, "max_train_steps", "9"),
}


@pytest.fixture(autouse=True)
def old(tmp_path, monkeypatch):
    """A copy of the folders as the working folder, for commands were given paths relative to it."""
    shutil.copytree(Path(__file__).parent / "old_folders", tmp_path, dirs_exist_ok=True)
    for view in ("audit", "filtered"):
        shutil.copytree(tmp_path / "generated" / "images", tmp_path / view / "images")
    (tmp_path / "raw").mkdir()  # where the photographs were
    monkeypatch.chdir(tmp_path)


def hashes(split: str, dx: str | None = None) -> set[str]:
    """SHA-256 of the manifest's images."""
    table = manifest.read(Path("manifest"))
    chosen = table[(table["split"] == split) & (table["dx"].isin([dx] if dx else ["mel", "nv"]))]
    return {hash_file(Path("manifest", name)) for name in chosen["file_name"]}


def make_leaky(path: str) -> None:
    """Mark the data in a provenance.json as split by image, as that commit did."""
    facts = json.loads(Path(path).read_text())
    facts["data"][0]["leaky"] = facts["leaky"] = True
    Path(path).write_text(json.dumps(facts))


def test_the_stage_of_each_folder_is_known():
    known = {name: stages.of(Path(name)) for name in FOLDERS}
    assert known == {
        "manifest": ["data"], "lora": ["training"], "vae": ["training"], "classifier": ["classifier"],
        "generated": ["generated"], "scores": ["scores"], "audit": ["audit"], "filtered": ["filter"], "study": ["study"],
    }  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_job_resumes_in_its_folder_with_its_old_settings_and_no_others(name):
    kind, option, value = FOLDERS[name]
    recipe = ["--config", f"{name}/config.yaml"]
    claim_folder(Path(name), parse(kind, recipe))
    with pytest.raises(InputError, match=rf"{option} was '?[\w.]+'? and is '?{value}"):
        claim_folder(Path(name), parse(kind, [*recipe, f"--{option}", value]))


@pytest.mark.parametrize("name", ["lora", "vae", "classifier"])
def test_a_run_may_be_trained_for_longer_as_before(name):
    claim_folder(Path(name), parse(FOLDERS[name][0], ["--config", f"{name}/config.yaml", "--max_train_steps", "9"]))
    assert "max_train_steps: 9\n" in Path(name, "config.yaml").read_text()


def test_the_images_that_each_run_was_trained_on_are_known():
    trained_on = {name: TrainedOn.read(name) for name in ("vae", "classifier", "lora")}
    assert trained_on["vae"].sha256 == trained_on["classifier"].sha256 == hashes("train")
    with open("lora/training_set.csv") as file:
        assert {row["sha256"] for row in csv.DictReader(file)} == hashes("train", "mel")
    assert trained_on["lora"].sha256 == hashes("train"), "the base model was trained on both classes"
    lora = trained_on["lora"]
    assert [entry.images_per_class for entry in lora.all_data] == [{"mel": 8}, {"mel": 8, "nv": 8}]
    assert [entry.licenses for entry in lora.all_data] == [["CC0 1.0"]] * 2
    assert all(run.manifests == ("manifest",) and not run.leaky for run in trained_on.values())
    make_leaky("vae/provenance.json")
    assert TrainedOn.read("vae").leaky


def test_the_old_run_generates_the_old_images(tmp_path):
    generate(parse(GenerateConfig, ["--config", "generated/config.yaml", "--output_dir", "again"]))
    before, after = (manifest.read(Path(folder)) for folder in ("generated", "again"))
    assert list(before["model_sha256"]) == list(after["model_sha256"])
    assert len(before) == 16
    for name in before["file_name"]:
        assert Image.open(Path("again", name)).tobytes() == Image.open(Path("generated", name)).tobytes()


def test_the_old_set_is_finished_and_stays_as_it_is():
    before = {path: hash_file(path) for path in Path("generated").rglob("*.*") if path.name != "provenance.json"}
    generate(parse(GenerateConfig, ["--config", "generated/config.yaml"]))
    assert before == {path: hash_file(path) for path in before}


def test_held_out_images_that_the_old_model_was_trained_on_cannot_judge_its_images():
    table = manifest.read(Path("manifest"))
    manifest.write(table.assign(split=table["split"].replace({"train": "test", "test": "train"})), Path("manifest"))
    evaluate(parse(EvaluateConfig, ["--config", "scores/config.yaml", "--output_dir", "again"]))
    notes = json.loads(Path("again/evaluation.json").read_text())["warnings"]
    assert "the model was trained on 16 held-out images: do not trust the scores" in notes


def test_the_report_repeats_the_old_verdicts():
    page = report(ReportConfig(folders=list(FOLDERS), output_dir="page")).read_text()
    for arm in json.loads(Path("study/study.json").read_text())["arms"][1:]:
        assert arm["verdict"] in page
    for text in (
        "70 images of 28 groups",
        "at 16 px was trained from scratch for 2 steps on 16 images",
        "Classes: mel, nv.",
        "16 synthetic images against 40 held-out real",
        "0 of 16 synthetic images are copies",
        "0.0% to 19.4%",
        "4 of 16 images",
    ):
        assert text in page, text
    assert "LEAKY" not in page


def test_the_gates_read_the_old_audit_and_the_old_run():
    settings = {"run": "vae", "repo_id": "me/vae", "dry_run": True, "evidence": ["audit", "scores", "study"]}
    with pytest.raises(InputError) as error:
        publish_model(PublishModelConfig(**settings))
    stops = [line.strip() for line in str(error.value).splitlines() if line.startswith("  - ")]
    assert len(stops) == 1
    assert "only 16 images of this model were looked at" in stops[0]
    make_leaky("vae/provenance.json")
    with pytest.raises(InputError, match="LEAKY"):
        publish_model(PublishModelConfig(**settings))


def test_the_card_of_the_old_run_has_its_figures():
    publish_model(
        PublishModelConfig(run="vae", repo_id="me/vae", dry_run=True, evidence=["audit", "scores", "study"],
                           force="a card of old folders", output_dir="sent")
    )  # fmt: skip
    card = Path("sent/repository/README.md").read_text()
    facts = json.loads(Path("vae/provenance.json").read_text())
    audit = json.loads(Path("audit/audit.json").read_text())
    assert audit["images"]["models"][0] in card
    assert facts["run"] in card
    assert "0 of 16" in card
    assert "a card of old folders" in card
    assert "license: cc0-1.0" in card


def test_the_old_set_is_published_with_its_evidence(capsys):
    settings = {"repo_id": "me/set", "dry_run": True, "evidence": ["audit", "scores", "study"], "output_dir": "sent"}
    publish_dataset(PublishDatasetConfig(data_dir="audit", **settings))
    assert "left out" not in capsys.readouterr().out
    card = Path("sent/repository/README.md").read_text()
    assert "0 of 16" in card
    assert "LEAKY" not in card


def test_a_changed_image_is_not_one_that_the_old_audit_saw():
    Image.new("RGB", (16, 16), "red").save("audit/images/mel_00000.png")
    settings = {"repo_id": "me/set", "dry_run": True, "evidence": ["audit"], "output_dir": "sent"}
    with pytest.raises(InputError, match="1 of the 16 images are not those that were audited"):
        publish_dataset(PublishDatasetConfig(data_dir="audit", **settings))
