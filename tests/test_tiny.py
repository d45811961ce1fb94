"""`dermgen tiny` ends in a pipeline that plain diffusers loads, trained without the excluded classes."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dermgen import tiny
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import hash_file
from dermgen.data.trained_on import TrainedOn
from dermgen.tiny import TinyConfig, train_tiny


def settings(manifest_dir, tmp_path, **changes):
    return TinyConfig(
        data_dir=str(manifest_dir),
        output_dir=str(tmp_path / "base"),
        resolution=32,
        autoencoder_channels=8,
        downsampling=2,
        autoencoder_steps=2,
        unet_channels=[16, 32],
        text_width=32,
        unet_batch_size=2,
        report_to="none",
        **{"unet_steps": 2, "exclude_classes": ["vasc"], "max_images_per_class": 1, **changes},
    )


@pytest.mark.slow
def test_both_stages_train_a_complete_pipeline_and_resume(manifest_dir, tmp_path, capsys):
    folder = train_tiny(settings(manifest_dir, tmp_path))
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.tokenizer.tokenize("vascular lesion") == ["vascular</w>", "lesion</w>"]
    recipe = (folder / "stages" / "text_to_image" / "config.yaml").read_text()
    assert "vascular" not in recipe
    assert "dermoscopic image of melanoma" in recipe
    train_tiny(settings(manifest_dir, tmp_path, unet_steps=4))
    shown = manifest.read(manifest_dir).query("split == 'train' and dx != 'vasc'")
    trained_on = TrainedOn.read(folder)  # its autoencoder on all images, the rest on one of each class
    assert trained_on.sha256 == {hash_file(manifest_dir / name) for name in shown["file_name"]}
    assert [entry.images for entry in trained_on.all_data] == [shown["dx"].nunique(), len(shown)]
    for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        stage = load_file(folder / "stages" / "text_to_image" / name)  # the averaged weights
        assert all(torch.equal(stage[k], v) for k, v in load_file(folder / name).items()), name
    assert (folder / "stages" / "text_to_image" / "checkpoint-4").is_dir()


def test_an_unknown_class_or_a_missing_manifest_is_refused_with_the_reason(manifest_dir, tmp_path):
    with pytest.raises(InputError, match="unknown class 'wart'"):
        train_tiny(settings(manifest_dir, tmp_path, exclude_classes=["wart"]))
    with pytest.raises(InputError, match="no such folder: /nowhere"):
        train_tiny(settings("/nowhere", tmp_path / "b"))


def test_each_stage_has_its_own_batch_size_and_learning_rate(manifest_dir, tmp_path):
    config = settings(manifest_dir, tmp_path, autoencoder_batch_size=3, unet_learning_rate=0.5)
    first = tiny._autoencoder_settings(config, tmp_path, {"data_dir": config.data_dir})
    second = tiny._text_to_image_settings(config, tmp_path, {"data_dir": config.data_dir})
    assert (first.train_batch_size, second.train_batch_size) == (3, 2)
    assert second.learning_rate == 0.5


def test_the_sample_grids_show_no_images_of_the_untrained_start(manifest_dir, tmp_path):
    config = settings(manifest_dir, tmp_path)
    assert not tiny._text_to_image_settings(config, tmp_path, {"data_dir": config.data_dir}).validation_base_rows
