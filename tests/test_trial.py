"""The trial of a recipe is one step on a few images and touches nothing outside its folder, whatever the recipe says."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from dermgen import trial
from dermgen.data import manifest
from dermgen.settings.methods import METHODS


def recipe(kind, manifest_dir, images):
    """Settings of the kind in which all that costs time or names a folder is given."""
    wanted = {
        "data_dir": str(manifest_dir), "output_dir": "/mine/run", "cache_dir": "/mine/cache", "max_train_steps": 9000,
        "lr_warmup_steps": 500, "checkpointing_steps": 500, "checkpoints_total_limit": 2, "report_to": "wandb",
        "resume_from_checkpoint": "/mine/checkpoint-1", "push_to_hub": True, "max_images_per_class": 900,
        "validation_steps": 500, "train_batch_size": 32, "pretrained_model_name_or_path": "org/model",
        "num_instance_images": 900, "class_data_dir": "/mine/class", "class_prompt": ["x"], "num_class_images": 900,
        "with_prior_preservation": True, "sample_batch_size": 16, "validation_prompt": ["x"], "held_out_steps": 100,
        "synthetic_dir": "/mine/synthetic", "synthetic_ratio": 1.0, "synthetic_classes": ["mel"], "only_kept": True,
        "no_real": True, "reduce_on_plateau_patience": 5, "early_stopping_patience": 5, "eval_batch_size": 512,
    }  # fmt: skip
    names = {field.name for field in dataclasses.fields(kind)}
    settings = {name: value for name, value in wanted.items() if name in names}
    if "data_dir_b" in names:
        settings["data_dir_b"] = str(manifest_dir)
    if "instance_data_dir" in names and images:
        settings |= {"data_dir": None, "held_out_steps": None, "instance_data_dir": str(images), "instance_prompt": "x"}
    return kind(**settings)


@pytest.mark.parametrize("kind", [method.settings for method in METHODS.values()], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("of_folder", [False, True])
def test_a_trial_is_one_step_on_copies_of_a_few_images_in_its_folder(kind, of_folder, manifest_dir, tmp_path):
    images = tmp_path / "images" if of_folder else None
    if images:
        shutil.copytree(manifest_dir / "images", images)
    place = tmp_path / "trial"
    place.mkdir()
    config = trial.shorten(recipe(kind, manifest_dir, images), place)
    values = {name: value for name, value in vars(config).items() if value is not None}
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("/"):
            assert Path(value).parent == place, name
    assert (config.max_train_steps, config.checkpointing_steps, config.lr_warmup_steps) == (1, 1, 0)
    assert (config.report_to, config.push_to_hub, config.train_batch_size) == ("none", False, 32)
    for name in ("data_dir", "data_dir_b"):
        if name in values:
            table = manifest.read(values[name])
            assert 0 < sum(table["split"] == "train") <= 64
            assert set(table.loc[table["split"] == "train", "dx"]) == set(manifest.read(manifest_dir)["dx"])
    if "instance_data_dir" in values:
        assert len(list(Path(values["instance_data_dir"]).iterdir())) == 32
    costly = """checkpoints_total_limit resume_from_checkpoint max_images_per_class num_instance_images validation_prompt
        held_out_steps synthetic_dir synthetic_ratio synthetic_classes reduce_on_plateau_patience
        early_stopping_patience"""
    assert not values.keys() & set(costly.split())
    assert not values.get("only_kept")
    assert not values.get("no_real")
    assert values.get("num_class_images", 1) == values.get("sample_batch_size", 1) == 1
    assert values.get("eval_batch_size", 8) == 8
    assert values.get("validation_steps") == (1 if kind.__name__ == "ClassifierConfig" else None)
