"""Real images that a synthetic set is based on, by its training record, sources or files, do not judge it unnoticed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from conftest import SMALL_CLASSIFIER
from PIL import Image

from dermgen.classify import classifier, study
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.study import StudyConfig
from dermgen.config import InputError
from dermgen.data import comparable, manifest
from dermgen.data.cache import hash_file
from dermgen.evaluate.evaluate import EvaluateConfig, evaluate
from dermgen.filtering import FilterConfig, filter_images

TRAINED_ON = "the model was trained on {} held-out images"


@pytest.fixture(scope="module")
def held_out(tested_dir):
    table = manifest.read_real(tested_dir)
    return table[table["split"] == "test"]


@pytest.fixture
def drawn(synthetic_dir, held_out, tmp_path):
    """A set whose record says that its model was trained on the test split, and the view that a filter makes of it."""
    table = manifest.read(synthetic_dir).assign(model_sha256="abc", kept="true")
    for name in ("drawn", "view"):
        manifest.write_view(table, synthetic_dir, tmp_path / name)
    facts = {"learnt": [hash_file(path) for path in held_out["path"]], "model_sha256": "abc"}
    (tmp_path / "drawn" / "provenance.json").write_text(json.dumps(facts))
    (tmp_path / "view" / "config.yaml").write_text(yaml.safe_dump({"synthetic": str(tmp_path / "drawn")}))
    return tmp_path / "view"


def check(real, synthetic):
    table = manifest.read_real(real)
    return comparable.check(table, table[table["split"] == "test"], manifest.read_synthetic(synthetic), synthetic)


@pytest.mark.slow
def test_evaluation_and_filter_warn_of_a_model_that_was_trained_on_the_test_split(
    drawn, tested_dir, held_out, tmp_path
):
    folders = {"real": str(tested_dir), "synthetic": str(drawn), "extractor": "pixels"}
    scored = evaluate(EvaluateConfig(**folders, output_dir=str(tmp_path / "e"), lpips="none"))
    filtered = filter_images(FilterConfig(**folders, output_dir=str(tmp_path / "f")))
    warning = TRAINED_ON.format(len(held_out))
    assert scored.warnings[0].startswith(warning)
    assert filtered.warnings[0].startswith(warning)
    known = set(held_out["image_id"])
    assert scored.examples[0] in known
    assert not any(image_id in " ".join(scored.warnings) for image_id in known)  # a card repeats the warnings


def test_a_classifier_and_a_study_refuse_a_model_that_was_trained_on_the_test_split(
    drawn, tested_dir, held_out, tmp_path, monkeypatch
):
    monkeypatch.setattr(classifier, "build", lambda *_: pytest.fail("trained"))
    config = ClassifierConfig(
        data_dir=str(tested_dir), synthetic_dir=str(drawn), output_dir=str(tmp_path / "c"), **SMALL_CLASSIFIER
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(SMALL_CLASSIFIER))
    settings = StudyConfig(
        real=str(tested_dir), synthetic=str(drawn), output_dir=str(tmp_path / "s"), classifier=str(recipe)
    )
    for run in (
        lambda: classifier.train(config),
        lambda: study.study(replace(settings, arms=["real", "real+augment"])),
    ):
        with pytest.raises(InputError, match=TRAINED_ON.format(len(held_out))):
            run()
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "s").exists()


def test_a_set_without_a_record_of_training_is_noted(drawn, tested_dir, synthetic_dir):
    faults, notes = check(tested_dir, synthetic_dir)
    assert not faults
    assert any("does not record what its model was trained on" in note for note in notes)
    table = manifest.read(drawn)
    manifest.write(table.assign(model_sha256=["abc", *["def"] * (len(table) - 1)]), drawn)  # of other weights, too
    assert any("does not record" in note for note in check(tested_dir, drawn)[1])


def test_a_model_that_was_trained_on_the_train_split_has_no_fault(drawn, tested_dir):
    table = manifest.read_real(tested_dir)
    trained_on = [hash_file(path) for path in table.loc[table["split"] == "train", "path"]]
    (drawn.parent / "drawn" / "provenance.json").write_text(json.dumps({"learnt": trained_on, "model_sha256": "abc"}))
    assert check(tested_dir, drawn) == ([], [])


def test_files_of_the_real_set_are_named_with_their_split(drawn, tested_dir):
    table = manifest.read_real(tested_dir)
    chosen = [*table[table["split"] == "test"]["path"].head(2), *table[table["split"] == "train"]["path"].head(1)]
    ours = manifest.read(drawn)["file_name"]
    for path, name in zip(chosen, ours, strict=False):
        (drawn / name).unlink()
        (drawn / name).write_bytes(Path(path).read_bytes())
    fault = check(tested_dir, drawn)[0][0]
    assert re.match(rf"3 of the {len(ours)} synthetic images are files of the real set \(test: 2, train: 1\)", fault[0])
    with pytest.raises(InputError, match="3 of the .* are files of the real set"):
        real = manifest.read_real(tested_dir)
        comparable.require(real, real[real["split"] != "train"], manifest.read_synthetic(drawn), drawn)


def test_hashes_that_a_real_manifest_brings_along_hide_no_file(drawn, tested_dir, tmp_path):
    table = manifest.read(tested_dir)
    manifest.write_view(table, tested_dir, tmp_path / "theirs")
    table.assign(sha256="of the photographs").to_csv(tmp_path / "theirs" / "metadata.csv", index=False)
    name = manifest.read(drawn)["file_name"][0]
    (drawn / name).unlink()
    (drawn / name).write_bytes((tested_dir / table["file_name"][0]).read_bytes())
    reason = check(tmp_path / "theirs", drawn)[0][0].reason
    assert re.match(r"1 of the \d+ synthetic images is a file of the real set", reason)


@pytest.mark.parametrize(("side", "noted"), [(32, False), (33, False), (16, True), (64, True)])
def test_sets_of_different_sizes_are_noted(side, noted, drawn, tested_dir):
    for name in manifest.read(drawn)["file_name"]:
        with Image.open(drawn / name) as image:
            resized = image.resize((side, side))
        (drawn / name).unlink()
        resized.save(drawn / name)
    notes = check(tested_dir, drawn)[1]
    expected = f"the shorter side of the real images has 32 pixels, that of the synthetic ones {side}"
    assert any(note.startswith(expected) for note in notes) == noted


def test_a_broken_or_missing_synthetic_image_is_one_sentence(drawn, tested_dir):
    broken = drawn / manifest.read(drawn)["file_name"][0]
    broken.unlink()
    with pytest.raises(InputError, match=f"{broken.name} cannot be read"):
        check(tested_dir, drawn)
    broken.write_bytes(b"not an image")
    with pytest.raises(InputError, match=f"{broken.name} cannot be read"):
        check(tested_dir, drawn)
