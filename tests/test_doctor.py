"""The doctor says ok where a recipe will run, and what to do where it will not, before anybody waits for it."""

import shutil

import pytest
import small
import yaml
from conftest import SMALL_CLASSIFIER
from hub_server import READ
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.doctor import DoctorConfig, doctor


def examine(capsys, tmp_path, name="ddpm_x", **settings):
    """The doctor's verdict on a recipe of these settings, and its lines by what they are about."""
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "out"), **settings}))
    good = doctor(DoctorConfig(recipe=str(recipe)))
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()[:-1]]
    return good, {name: (state, text) for state, name, text in lines}


def ddpm(data_dir, **changes):
    """The settings of a small DDPM, as a recipe holds them."""
    return {k: v for k, v in vars(small.config("ddpm", data_dir, "out", **changes)).items() if v is not None} | {
        "max_grad_norm": 1.0
    }


def changed(folder, target, **columns):
    shutil.copytree(folder, target)
    manifest.write(manifest.read(target).assign(**columns), target)
    return target


@pytest.mark.slow
def test_without_a_recipe_it_trains_saves_loads_and_samples(capsys):
    assert doctor(DoctorConfig())
    out = capsys.readouterr().out
    for name in ("packages", "device", "step", "save", "disk", "sample"):
        assert f"ok    {name}" in out
    assert "FIX   " not in out


@pytest.mark.parametrize("method", ["ddpm", "cyclegan", "dcgan"])
def test_a_recipe_that_will_run_is_well_and_leaves_nothing_behind(method, manifest_dir, capsys, tmp_path):
    config = vars(small.config(method, manifest_dir, tmp_path / "out"))
    settings = {k: v for k, v in config.items() if v is not None and k not in ("output_dir", "max_grad_norm")}
    good, lines = examine(capsys, tmp_path, f"{method}_tiny", **settings)
    assert good
    assert {lines[name][0] for name in ("data", "step", "save", "sample")} == {"ok"}
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == [f"{method}_tiny.yaml"]


@pytest.mark.slow
def test_a_lora_recipe_is_tried_with_its_model(base_dir, manifest_dir, capsys, tmp_path):
    settings = {
        "pretrained_model_name_or_path": str(base_dir), "data_dir": str(manifest_dir), "instance_class": "mel",
        "instance_prompt": "photo of melanoma", "resolution": 32, "with_prior_preservation": True,
        "class_data_dir": str(tmp_path / "class"), "class_prompt": ["a lesion"], "train_batch_size": 1,
        "validation_prompt": ["a nevus"], "max_train_steps": 700, "num_class_images": 500,
    }  # fmt: skip
    good, lines = examine(capsys, tmp_path, "dreambooth_lora_x", **settings)
    assert good, lines
    assert {lines[n][0] for n in ("data", "captions", "model", "memory", "step", "save", "sample")} == {"ok"}
    assert not (tmp_path / "class").exists()


def test_a_classifier_recipe_is_tried(manifest_dir, capsys, tmp_path):
    good, lines = examine(capsys, tmp_path, "classifier_x", data_dir=str(manifest_dir), **SMALL_CLASSIFIER)
    assert good, lines
    assert lines["sample"][0] == "ok"


def test_data_that_is_not_there_is_told_and_nothing_is_tried(capsys, tmp_path):
    good, lines = examine(capsys, tmp_path, **ddpm(tmp_path / "gone"))
    assert not good
    assert lines["data"] == ("FIX", f"no such folder: {tmp_path / 'gone'}")
    assert lines["step"][0] == "note"


def test_a_damaged_image_is_told(manifest_dir, capsys, tmp_path):
    folder = changed(manifest_dir, tmp_path / "m")
    for path in (folder / "images").glob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    good, lines = examine(capsys, tmp_path, **ddpm(folder))
    assert not good
    assert "sampled images are bad" in lines["data"][1]
    assert "truncated" in lines["data"][1]


def test_exif_and_duplicates_and_a_leaky_split_are_told(manifest_dir, capsys, tmp_path):
    folder = changed(manifest_dir, tmp_path / "m")
    table = manifest.read(folder).sort_values("image_id")
    first, second = table["file_name"].iloc[[0, -1]]
    shutil.copy(folder / first, folder / second)
    exif = Image.Exif()
    exif[0x010F] = "camera"
    for name in table["file_name"]:
        with Image.open(folder / name) as image:
            image.save(folder / name, exif=exif)
    (folder / "prepare.json").write_text('{"leaky": true}')
    recipe = tmp_path / "ddpm_x.yaml"
    recipe.write_text(yaml.safe_dump({**ddpm(folder), "output_dir": str(tmp_path / "out")}))
    assert not doctor(DoctorConfig(recipe=str(recipe)))
    out = capsys.readouterr().out
    assert "FIX   EXIF" in out
    assert "FIX   duplicates 1 pairs of near-duplicates" in out
    assert "was split by image (LEAKY)" in out


def test_near_duplicates_are_looked_for_among_all_images_or_said_not_to_be(manifest_dir, capsys, tmp_path, monkeypatch):
    folder = changed(manifest_dir, tmp_path / "m")
    table = manifest.read(folder)
    in_train = table.loc[table["split"] == "train", "file_name"].iloc[:2]
    shutil.copy(folder / in_train.iloc[0], folder / in_train.iloc[1])
    _, lines = examine(capsys, tmp_path, **ddpm(folder))
    assert "duplicates" not in lines  # a pair within one split is as it should be
    monkeypatch.setattr("dermgen.doctor.COMPARED", len(table) - 1)
    _, lines = examine(capsys, tmp_path, **ddpm(folder))
    assert "duplicates" not in lines  # `dermgen prepare` has looked
    (folder / "config.yaml").unlink()
    _, lines = examine(capsys, tmp_path, **ddpm(folder))
    assert lines["duplicates"] == ("note", f"not looked for among {len(table)} images: `dermgen prepare` does")


def test_prompts_that_are_cut_are_told(base_dir, manifest_dir, capsys, tmp_path):
    settings = {
        "pretrained_model_name_or_path": str(base_dir), "data_dir": str(manifest_dir), "resolution": 32,
        "instance_prompt": "melanoma " * 90,
    }  # fmt: skip
    good, lines = examine(capsys, tmp_path, "dreambooth_x", **settings)
    assert not good
    assert lines["captions"][0] == "FIX"
    assert "1 of 1 prompts are cut at 32 tokens" in lines["captions"][1]


def test_prompts_are_held_against_the_length_that_the_recipe_gives_them(base_dir, manifest_dir, capsys, tmp_path):
    settings = {
        "pretrained_model_name_or_path": str(base_dir), "data_dir": str(manifest_dir), "resolution": 32,
        "instance_prompt": "melanoma", "validation_prompt": ["melanoma " * 9], "tokenizer_max_length": 8,
    }  # fmt: skip
    _, lines = examine(capsys, tmp_path, "dreambooth_x", **settings)
    assert lines["captions"][0] == "FIX"
    assert "1 of 2 prompts are cut at 8 tokens" in lines["captions"][1]


def test_what_the_training_would_refuse_of_a_base_model_is_told(base_dir, manifest_dir, capsys, tmp_path):
    base = shutil.copytree(base_dir, tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    settings = {"pretrained_model_name_or_path": str(base), "data_dir": str(manifest_dir), "instance_prompt": "x"}
    good, lines = examine(capsys, tmp_path, "dreambooth_x", **settings)
    assert not good
    assert lines["model"][0] == "FIX"
    assert f"{weights} is cut off or damaged: copy or download it again" in lines["model"][1]


def test_a_classifier_that_takes_another_resolution_is_told(manifest_dir, capsys, tmp_path):
    ViTForImageClassification(
        ViTConfig(image_size=32, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path / "vit")
    settings = {"data_dir": str(manifest_dir), "pretrained_model_name_or_path": str(tmp_path / "vit")}
    good, lines = examine(capsys, tmp_path, "classifier_x", **settings, resolution=64)
    assert not good
    assert lines["model"] == ("FIX", f"'{tmp_path / 'vit'}' takes images of 32 px: give --resolution 32")


def test_a_model_that_must_be_downloaded_is_told(manifest_dir, capsys, tmp_path):
    settings = {"pretrained_model_name_or_path": "org/model", "data_dir": str(manifest_dir), "instance_prompt": "x"}
    good, lines = examine(capsys, tmp_path, "dreambooth_x", **settings)
    assert not good
    assert lines["model"] == ("FIX", "org/model is not on this machine: hf download org/model")


def test_what_the_training_would_refuse_is_told(manifest_dir, capsys, tmp_path):
    good, lines = examine(capsys, tmp_path, **ddpm(manifest_dir, only_classes=["mel"]))
    assert not good
    assert "class_conditional needs at least 2 classes" in lines["step"][1]


@pytest.mark.slow
def test_the_hub_is_asked_only_if_wanted(hub, capsys, monkeypatch):
    doctor(DoctorConfig())
    assert hub.requests == []
    assert doctor(DoctorConfig(hub="me/new"))
    assert "ok    hub        me/new may be written" in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", READ)
    assert not doctor(DoctorConfig(hub="me/new"))
    assert "FIX   hub        the token may not write to 'me/new'" in capsys.readouterr().out
    assert hub.repos == {}


def test_a_recipe_of_no_method_is_told(tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 1")
    with pytest.raises(InputError, match="does not begin with a method's name: add --method"):
        doctor(DoctorConfig(recipe=str(tmp_path / "mine.yaml")))
    with pytest.raises(InputError, match="method must be one of"):
        DoctorConfig(method="diffusion")
