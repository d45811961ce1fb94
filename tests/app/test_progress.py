"""A page says how far a run is, how long it will take, and whether it is still running, from the run's files alone."""

import json
import os

import pytest

from dermgen.app import run_page
from dermgen.app.progress import progress_of
from dermgen.training import metrics_log
from dermgen.training.run_record import RunRecord

NOW = 1_700_000_000.0


@pytest.fixture
def begun(tmp_path):
    """A run of 1,000 steps that has just begun."""
    (tmp_path / "config.yaml").write_text("max_train_steps: 1000\nlogging_steps: 10\ncheckpointing_steps: 100\n")
    record(tmp_path, run="a", argv=["train_scripts/ddpm.py", "--config", "my recipe.yaml"])
    at(tmp_path, NOW)
    return tmp_path


def record(folder, **facts):
    path = folder / "provenance.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | facts))


def at(path, moment):
    os.utime(path, (moment, moment))


def log(folder, step, moment):
    metrics_log.append(folder / "metrics.jsonl", step, {"loss": 1.0})
    at(folder / "metrics.jsonl", moment)
    at(folder, NOW)


def checkpoint(folder, step, seconds, moment):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "dermgen_state.json").write_text(json.dumps({"run": "a", "step": step, "seconds": seconds}))
    at(path / "dermgen_state.json", moment)
    at(folder, NOW)


def progress(folder, moment, first_seen=None):
    lines = metrics_log.read(folder / "metrics.jsonl")
    return progress_of(RunRecord.read(folder), lines, moment, {} if first_seen is None else first_seen)


def test_before_the_first_line_a_run_is_starting(begun):
    seen = progress(begun, NOW + 5)
    assert (seen.state, seen.step, seen.total, seen.seconds_left) == ("starting", 0, 1000, None)


def test_before_the_first_checkpoint_the_pace_is_that_of_the_steps_seen(begun):
    first_seen = {}
    log(begun, 10, NOW + 50)
    assert progress(begun, NOW + 51, first_seen).seconds_left is None
    log(begun, 40, NOW + 110)
    seen = progress(begun, NOW + 111, first_seen)
    assert seen.seconds_per_step == pytest.approx(2)
    assert seen.seconds_left == pytest.approx(960 * 2)
    assert (seen.state, seen.share) == ("training", 0.04)


def test_a_run_that_begins_again_is_measured_anew(begun):
    first_seen = {}
    log(begun, 40, NOW)
    progress(begun, NOW, first_seen)
    (begun / "metrics.jsonl").unlink()
    for step, moment in ((10, NOW + 1000), (20, NOW + 1030)):
        log(begun, step, moment)
        seen = progress(begun, moment, first_seen)
    assert seen.seconds_per_step == pytest.approx(3)


def test_after_a_checkpoint_the_pace_is_that_of_the_training_without_its_interruptions(begun):
    checkpoint(begun, 100, seconds=50.0, moment=NOW)
    log(begun, 200, NOW + 9000)
    seen = progress(begun, NOW + 9001)
    assert seen.seconds_left == pytest.approx(800 * 0.5)


def test_a_run_without_new_files_may_have_been_interrupted(begun):
    log(begun, 20, NOW)
    assert progress(begun, NOW + 599).state == "training"
    seen = progress(begun, NOW + 601)
    assert (seen.state, seen.last_sign, seen.seconds_left) == ("silent", NOW, None)


def test_a_slow_run_may_be_silent_for_longer(begun):
    checkpoint(begun, 100, seconds=100 * 60.0, moment=NOW)  # a line every 10 minutes
    log(begun, 110, NOW)
    assert progress(begun, NOW + 3 * 3600).state == "training"
    assert progress(begun, NOW + 4 * 3600).state == "silent"


def test_a_checkpoint_between_two_due_ones_shows_that_the_run_was_stopped(begun):
    log(begun, 120, NOW)
    checkpoint(begun, 123, seconds=50.0, moment=NOW + 1)
    seen = progress(begun, NOW + 2)
    assert (seen.state, seen.step) == ("stopped", 123)
    log(begun, 130, NOW + 60)
    assert progress(begun, NOW + 61).state == "training"


def test_a_checkpoint_that_was_due_does_not(begun):
    log(begun, 200, NOW)
    checkpoint(begun, 200, seconds=50.0, moment=NOW + 1)
    assert progress(begun, NOW + 2).state == "training"


def test_a_run_is_finished_once_it_records_its_end_and_until_it_is_extended(begun):
    log(begun, 700, NOW)
    record(begun, finished_step=700)  # it stopped early
    seen = progress(begun, NOW + 10_000)
    assert (seen.state, seen.share) == ("finished", 1.0)
    log(begun, 710, NOW)
    assert progress(begun, NOW + 1).state == "training"


def test_without_a_number_of_steps_there_is_no_time_left(begun):
    (begun / "config.yaml").write_text("max_train_steps: null\nnum_train_epochs: 3\n")
    checkpoint(begun, 100, seconds=50.0, moment=NOW)
    log(begun, 110, NOW)
    seen = progress(begun, NOW + 1)
    assert (seen.state, seen.total, seen.share, seen.seconds_left) == ("training", None, None, None)


def test_the_command_that_resumes_can_be_pasted_into_a_shell(begun):
    assert (
        run_page.resume_command(RunRecord.read(begun))
        == "accelerate launch train_scripts/ddpm.py --config 'my recipe.yaml'"
    )
    launched = ["/lib/dermgen/publish/after_training.py", "--method", "ddpm", "--config", "my recipe.yaml"]
    record(begun, argv=[*launched, "--seed", "1"])
    command = run_page.resume_command(RunRecord.read(begun))
    assert command == "dermgen train 'my recipe.yaml' --method ddpm --seed 1"
    record(begun, argv=["dermgen tiny", "--data_dir", "m"])
    assert run_page.resume_command(RunRecord.read(begun)) == "dermgen tiny --data_dir m"
    record(begun, argv=[])
    assert run_page.resume_command(RunRecord.read(begun)) is None


def test_lengths_of_time_are_in_the_unit_that_one_would_say():
    assert [run_page.length(s) for s in (1, 59, 91, 3600, 5500)] == [
        "1 second", "59 seconds", "2 minutes", "60 minutes", "1.5 hours",
    ]  # fmt: skip
