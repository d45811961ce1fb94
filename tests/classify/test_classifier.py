"""A classifier trains, resumes to the same bits, stops early, keeps its best weights and saves its predictions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTImageProcessor, pipeline

from dermgen.classify import classifier, networks
from dermgen.classify.classifier import ClassifierConfig
from dermgen.classify.history import exhausted, plateau_factor
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.loading import LesionSet
from dermgen.data.trained_on import TrainedOn
from dermgen.results.classifier import ClassifierResult
from dermgen.results.common import read


def config(folder, manifest_dir, **changes):
    settings = {
        "from_scratch": True, "resolution": 32, "width": 32, "layers": 2, "train_batch_size": 8, "learning_rate": 1e-3,
        "max_train_steps": 6, "validation_steps": 3, "checkpointing_steps": 3, "report_to": "none", "eval_batch_size": 16,
    }  # fmt: skip
    return ClassifierConfig(data_dir=str(manifest_dir), output_dir=str(folder), **settings | changes)


@pytest.fixture(scope="module")
def run(manifest_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    return folder, classifier.train(config(folder, manifest_dir))


@pytest.mark.slow
def test_a_trained_classifier_is_far_better_than_chance_on_phantoms(manifest_dir, tmp_path):
    results = classifier.train(
        config(tmp_path / "r", manifest_dir, max_train_steps=120, validation_steps=40, train_batch_size=16, width=64)
    )
    assert results.test["bma"] > 0.4  # of 7 classes; a guess has 0.14


def test_the_reloaded_network_gives_the_saved_predictions_and_those_of_a_transformers_pipeline(
    run, manifest_dir, phantoms
):
    folder, results = run
    loaded, classes, resolution = networks.load_run(folder)
    assert (classes, resolution) == (results.classes, 32)
    table = pd.read_csv(folder / "predictions_test.csv")
    rows = manifest.read_real(manifest_dir)
    rows = rows[rows["split"] == "test"]
    pixels = torch.stack([LesionSet(rows, classes, 32)[i]["pixels"] for i in range(len(rows))])
    with torch.no_grad():
        ours = loaded(pixels.float() / 255).softmax(1)
    np.testing.assert_allclose(table[[f"p_{c}" for c in classes]], ours, atol=1e-5)
    photograph = next((phantoms / "HAM10000_images_part_1").glob("*"))  # larger, and not a square
    pixels = LesionSet(pd.DataFrame({"path": [str(photograph)], "image_id": ["x"], "dx": ["mel"]}), classes, 32)[0][
        "pixels"
    ]
    with torch.no_grad():
        ours = loaded(pixels[None].float() / 255).softmax(1)[0].tolist()
    theirs = pipeline("image-classification", str(folder))(str(photograph), top_k=7)
    assert {p["label"]: p["score"] for p in theirs} == pytest.approx(dict(zip(classes, ours, strict=True)), abs=2e-3)


def test_a_wide_head_is_saved_and_loaded(manifest_dir, tmp_path):
    classifier.train(config(tmp_path / "r", manifest_dir, head_width=16, max_train_steps=2, validation_steps=2))
    loaded, _, _ = networks.load_run(tmp_path / "r")
    best = load_file(tmp_path / "r" / "best" / "step-2" / "model.safetensors")
    assert loaded.model.classifier[2].weight.shape == (16, 32)
    assert all(torch.equal(v, best[k]) for k, v in loaded.model.state_dict().items())


def test_a_resumed_run_ends_with_the_same_bits(run, manifest_dir, tmp_path):
    folder, results = run
    classifier.train(config(tmp_path / "r", manifest_dir, max_train_steps=3))
    resumed = classifier.train(config(tmp_path / "r", manifest_dir))
    a, b = (load_file(f / "checkpoint-6" / "model.safetensors") for f in (folder, tmp_path / "r"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert resumed == results


def test_a_finished_run_is_not_repeated(run, manifest_dir, monkeypatch):
    folder, results = run
    monkeypatch.setattr(classifier, "build", lambda *_: pytest.fail("trained again"))
    assert classifier.train(config(folder, manifest_dir)) == results


def test_the_weights_of_the_best_validation_are_kept_not_the_last(manifest_dir, tmp_path, monkeypatch):
    scores = iter([0.9, 0.1])
    monkeypatch.setattr(
        classifier, "_validation", lambda *_: {"val_loss": 1.0, "val_bma": next(scores), "val_accuracy": 0.0}
    )
    results = classifier.train(config(tmp_path / "r", manifest_dir))
    assert results.best_step == 3
    loaded, _, _ = networks.load_run(tmp_path / "r")
    best = load_file(tmp_path / "r" / "best" / "step-3" / "model.safetensors")
    last = load_file(tmp_path / "r" / "checkpoint-6" / "model.safetensors")
    state = loaded.model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in best.items())
    assert not all(torch.equal(state[k.removeprefix("model.")], v) for k, v in last.items())


def test_early_stopping_ends_the_run_and_the_same_command_does_not_train_further(manifest_dir, tmp_path, monkeypatch):
    scores = iter([0.5, 0.4, 0.3, 0.2, 0.9])
    monkeypatch.setattr(
        classifier, "_validation", lambda *_: {"val_loss": 1.0, "val_bma": next(scores), "val_accuracy": 0.0}
    )
    settings = config(tmp_path / "r", manifest_dir, validation_steps=1, early_stopping_patience=2, max_train_steps=20)
    results = classifier.train(settings)
    assert (results.last_step, results.best_step) == (3, 1)
    (tmp_path / "r" / "results.json").unlink()  # as if killed just before the end
    assert classifier.train(settings) == results


def test_the_plateau_rule_is_pytorchs():
    rng = np.random.default_rng(0)
    losses = np.round(np.linspace(2, 1, 60) + rng.normal(0, 0.2, 60), 2).tolist()
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=5)
    for i, loss in enumerate(losses):
        theirs.step(loss)
        assert plateau_factor(losses[: i + 1], 5) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plateau_factor(losses, 5) < 0.2
    assert plateau_factor(losses, None) == 1


def test_the_learning_rate_follows_the_plateau_rule_on_resume_too(manifest_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "_validation", lambda *_: {"val_loss": 1.0, "val_bma": 0.1, "val_accuracy": 0.0})
    changes = {"validation_steps": 1, "reduce_on_plateau_patience": 1, "logging_steps": 1, "checkpointing_steps": 3}
    classifier.train(config(tmp_path / "r", manifest_dir, max_train_steps=3, **changes))
    classifier.train(config(tmp_path / "r", manifest_dir, max_train_steps=5, **changes))
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4, 1e-4])


def test_patience_counts_validations_since_the_best():
    assert not exhausted([0.1, 0.2, 0.2], 2)
    assert exhausted([0.1, 0.3, 0.2, 0.2], 2)
    assert not exhausted([0.3], 1)
    assert not exhausted([0.3, 0.1, 0.1, 0.1], None)


def test_class_weights_give_every_class_the_same_total_weight():
    rows = pd.DataFrame({"dx": ["nv"] * 8 + ["mel"] * 2})
    weights = classifier._class_weights(rows, ["mel", "nv"], True)
    assert (weights * torch.tensor([2.0, 8.0])).tolist() == pytest.approx([5, 5])


def test_synthetic_images_are_trained_on_and_not_tested_on(manifest_dir, synthetic_dir, tmp_path):
    results = classifier.train(
        config(
            tmp_path / "r",
            manifest_dir,
            synthetic_dir=str(synthetic_dir),
            synthetic_ratio=0.5,
            max_train_steps=2,
            validation_steps=2,
        )
    )
    assert sum(results.training_images["synthetic"].values()) > 0
    trained_on = pd.read_csv(tmp_path / "r" / "training_set.csv", dtype=str)
    assert set(trained_on["synthetic"]) == {"true", "false"}
    tested = set(pd.read_csv(tmp_path / "r" / "predictions_test.csv")["image_id"])
    assert not tested & set(trained_on["image_id"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"no_real": True}, "--no_real needs --synthetic_dir"),
        ({"crop": 0.0}, "crop must be above 0"),
        ({"synthetic_ratio": 0.5}, "--synthetic_ratio needs --synthetic_dir"),
        ({"only_kept": True}, "--only_kept needs --synthetic_dir"),
        ({"synthetic_dir": "s", "synthetic_ratio": -0.5}, "synthetic_ratio must be at least 0"),
        ({"patch_size": 0}, "patch_size must be at least 1"),
        ({"use_8bit_adam": True}, "use_8bit_adam is not offered"),
        ({"patch_size": 5}, "multiple of patch_size.* got resolution 32, patch_size 5 and width 32"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(changes, message, manifest_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        config(tmp_path, manifest_dir, **changes)


def test_a_classifier_records_the_images_of_the_one_that_it_started_from(manifest_dir, tested_dir, tmp_path):
    classifier.train(config(tmp_path / "first", tested_dir))
    above = {"from_scratch": False, "pretrained_model_name_or_path": str(tmp_path / "first"), "max_train_steps": 3}
    classifier.train(config(tmp_path / "second", manifest_dir, **above))
    trained = [manifest.read(folder).query("split == 'train'") for folder in (tested_dir, manifest_dir)]
    trained_on = TrainedOn.read(tmp_path / "second")
    assert trained_on.image_ids == {i for table in trained for i in table["image_id"]}
    assert [entry.images for entry in trained_on.all_data] == [len(table) for table in trained[::-1]]


def test_a_run_is_not_resumed_with_other_images(manifest_dir, tmp_path):
    table = manifest.read(manifest_dir)
    first = table[table["split"] == "train"]["file_name"].iloc[0]
    manifest.write_view(table, manifest_dir, tmp_path / "m")
    moved = config(tmp_path / "r", tmp_path / "m")
    classifier.train(moved)
    assert classifier.train(moved).last_step == 6
    changed = tmp_path / "m" / first
    changed.unlink()
    Image.new("RGB", (32, 32), "red").save(changed)
    with pytest.raises(InputError, match="was trained on other images"):
        classifier.train(moved)


def test_synthetic_images_made_from_held_out_ones_are_refused(manifest_dir, synthetic_dir, tmp_path):
    table = manifest.read(manifest_dir)
    source = table[table["split"] == "test"]["image_id"].iloc[0]
    synthetic = manifest.read(synthetic_dir)
    synthetic["source_image_id"] = [source, *[""] * (len(synthetic) - 1)]
    manifest.write_view(synthetic, synthetic_dir, tmp_path / "s")
    with pytest.raises(InputError, match="drawn over 1 held-out image"):
        classifier.train(config(tmp_path / "r", manifest_dir, synthetic_dir=str(tmp_path / "s")))


@pytest.mark.slow
def test_a_run_resumed_by_the_script_on_two_processes_ends_with_the_weights_of_one(run, manifest_dir, tmp_path):
    """A run of one process, stopped halfway, resumes on two with half the batch each; weights differ by rounding."""
    folder, results = run
    script = str(Path(classifier.__file__).parents[2] / "train_scripts" / "classifier.py")
    flags = (
        f"--data_dir {manifest_dir} --output_dir {tmp_path / 'r'} --from_scratch --resolution 32 --width 32 --layers 2 "
        "--learning_rate 1e-3 --max_train_steps 6 --validation_steps 3 --checkpointing_steps 3 --report_to none --eval_batch_size 16"
    ).split()
    classifier.train(config(tmp_path / "r", manifest_dir, max_train_steps=3))
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(
        [*launch, *flags, "--train_batch_size", "4"], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "test split: BMA" in done.stdout
    a, b = (load_file(f / "checkpoint-6" / "model.safetensors") for f in (folder, tmp_path / "r"))
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)
    theirs = read(ClassifierResult, tmp_path / "r")
    assert theirs.test["n"] == results.test["n"]
    assert theirs.best_step == results.best_step


def test_a_checkpoint_that_cannot_be_used_leaves_no_folder_behind(manifest_dir, tmp_path):
    vit = {"image_size": 48, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTConfig(**vit).save_pretrained(tmp_path / "vit")
    for name, message in (("google/no-such-model", "--from_scratch"), (str(tmp_path / "vit"), "give --resolution 48")):
        with pytest.raises(InputError, match=message):
            classifier.train(
                config(tmp_path / "r", manifest_dir, from_scratch=False, pretrained_model_name_or_path=name)
            )
    assert not (tmp_path / "r").exists()


def test_a_resnet_with_frozen_stages_and_a_wide_head_trains_and_is_reloaded(manifest_dir, tmp_path):
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, layer_type="basic")
    ResNetForImageClassification(resnet).save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    changes = {"from_scratch": False, "pretrained_model_name_or_path": str(tmp_path / "resnet"), "freeze_stages": 2}
    results = classifier.train(
        config(
            tmp_path / "r",
            manifest_dir,
            head_width=16,
            optimizer="adam",
            mixup_alpha=0.2,
            class_weights=True,
            **changes,
        )
    )
    loaded, classes, _ = networks.load_run(tmp_path / "r")
    rows = manifest.read_real(manifest_dir)
    rows = rows[rows["split"] == "test"]
    pixels = torch.stack([LesionSet(rows, classes, 32)[i]["pixels"] for i in range(len(rows))])
    with torch.no_grad():
        ours = loaded(pixels.float() / 255).softmax(1)
    table = pd.read_csv(tmp_path / "r" / "predictions_test.csv")
    np.testing.assert_allclose(table[[f"p_{c}" for c in classes]], ours, atol=1e-5)
    assert results.last_step == 6


def test_a_set_with_one_class_is_refused(manifest_dir, tmp_path):
    table = manifest.read(manifest_dir)
    manifest.write_view(table[table["dx"] == "nv"], manifest_dir, tmp_path / "nevi")
    with pytest.raises(InputError, match="nevi has only the class nv: a classifier needs two or more"):
        classifier.train(config(tmp_path / "run", tmp_path / "nevi"))


def test_label_smoothing_blends_the_loss_with_that_of_all_classes_alike(manifest_dir, tmp_path):
    """Which is linear in the share."""

    def first_loss(share):
        folder = tmp_path / str(share)
        classifier.train(config(folder, manifest_dir, label_smoothing=share, max_train_steps=1, logging_steps=1))
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return next(line["loss"] for line in lines if "loss" in line)

    none, quarter, half = map(first_loss, (0.0, 0.25, 0.5))
    assert quarter == pytest.approx((none + half) / 2, rel=1e-5)
    assert quarter != pytest.approx(none, rel=1e-5)
