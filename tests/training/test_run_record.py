"""A run's record: facts have names, what others wrote stays, and what is missing is None."""

import json

import pytest

from dermgen.training import run_record
from dermgen.training.run_record import RunRecord


def test_new_facts_leave_the_recorded_ones_unchanged(tmp_path):
    run_record.begin(tmp_path, run="1", argv=["train"])
    run_record.begin(tmp_path, run="another")
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of a later version": 1}))
    run_record.add(tmp_path, method="ddpm", classes=["mel"])
    (tmp_path / "config.yaml").write_text("seed: 7\n")
    record = RunRecord.read(tmp_path)
    assert (record.run, record.argv, record.method, record.classes) == ("1", ["train"], "ddpm", ["mel"])
    assert (record.settings, record.finished_step, record.class_conditional) == ({"seed": 7}, None, False)
    assert json.loads(path.read_text())["of a later version"] == 1


def test_a_fact_that_is_not_a_field_is_an_error(tmp_path):
    run_record.begin(tmp_path, run="1")
    with pytest.raises(TypeError, match="no field parametres"):
        run_record.add(tmp_path, parametres=3)


def test_a_set_of_images_with_a_provenance_is_not_a_run(tmp_path):
    assert not RunRecord.is_one(tmp_path)
    run_record.begin(tmp_path, run="1")
    assert RunRecord.is_one(tmp_path)
    (tmp_path / "metadata.csv").touch()
    assert not RunRecord.is_one(tmp_path)


def test_the_best_weights_are_of_a_step_whose_weights_are_kept(tmp_path):
    run_record.begin(tmp_path, run="1")
    values = {1: 0.5, 2: 0.1, 3: 0.3}  # less is better
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "val_loss": v}) + "\n" for s, v in values.items())
    )
    for step in (1, 3):
        (tmp_path / "best" / f"step-{step}").mkdir(parents=True)
    assert RunRecord.read(tmp_path).best() is RunRecord.read(tmp_path).best_weights() is None
    run_record.add(tmp_path, best_by="val_loss")
    assert RunRecord.read(tmp_path).best() == (3, 0.3)
    assert RunRecord.read(tmp_path).best_weights() == tmp_path / "best" / "step-3"
