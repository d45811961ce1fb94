"""Models are refused early and clearly; the small one is a whole Stable Diffusion."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer

from dermgen.config import InputError
from dermgen.stable_diffusion.files import check_model
from dermgen.stable_diffusion.pipeline import load_pipeline
from dermgen.stable_diffusion.small import build_tokenizer


def test_the_small_pipeline_is_loaded_by_plain_diffusers(base_dir):
    pipeline = DiffusionPipeline.from_pretrained(base_dir)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    image = pipeline("melanoma", num_inference_steps=2, height=32, width=32).images[0]
    assert image.size == (32, 32)


def test_a_tokenizer_trained_on_captions_knows_their_words_and_survives_saving(tmp_path):
    tokenizer = build_tokenizer(["dermoscopic image of melanoma, lower extremity"] * 3, 12)
    words = tokenizer.tokenize("Melanoma of extremity")
    assert words == ["melanoma</w>", "of</w>", "extremity</w>"]
    assert len(tokenizer.tokenize("xylophone")) > 1
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "dermoscopic xylophone, of melanoma"
    assert again(text, padding="max_length").input_ids == tokenizer(text, padding="max_length").input_ids
    assert again.model_max_length == 12


def test_what_is_not_a_stable_diffusion_is_refused_without_loading_it(base_dir, tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        check_model(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"has no model_index\.json"):
        check_model(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(InputError, match="is a StableDiffusionXLPipeline, not a Stable Diffusion"):
        check_model(str(tmp_path))
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match="a single file in pickle form, which can run code"):
        check_model(str(tmp_path / "model.ckpt"))


def test_pickled_weights_are_refused(base_dir, tmp_path):
    shutil.copytree(base_dir, tmp_path / "sd")
    folder = tmp_path / "sd" / "unet"
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"unet are in pickle form, which can run code"):
        check_model(str(tmp_path / "sd"))


def test_a_hub_id_that_cannot_be_reached_is_an_error_that_names_it():
    with pytest.raises(InputError, match="cannot load 'nobody/no-model'"):
        load_pipeline("nobody/no-model")
