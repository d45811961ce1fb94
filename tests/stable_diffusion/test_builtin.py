"""The built-in base model is found by its name, wherever a model is named."""

import hashlib
import json
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from dermgen import builtin
from dermgen.builtin import located
from dermgen.config import InputError
from dermgen.data.trained_on import TrainedOn
from dermgen.stable_diffusion.base_model import BaseModel


def test_any_other_name_is_a_folder_or_a_hub_id_as_it_was_given():
    for name in ("stable-diffusion-v1-5/stable-diffusion-v1-5", "./phantom", "/models/phantom", "phantom/unet"):
        assert located(name) == name


def test_an_installation_without_the_model_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "MODELS", tmp_path)
    with pytest.raises(InputError, match="this installation lacks the model 'phantom'.*install dermgen again"):
        BaseModel("phantom").check()


def test_the_model_is_smaller_than_12_mb_of_the_hashes_in_its_scores_and_plain_diffusers_loads_it():
    folder = Path(located("phantom"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    weights = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.suffix == ".safetensors"
    }
    assert weights == json.loads((folder / "scores.json").read_text())["sha256"]
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    assert pipeline.unet.config.sample_size * pipeline.vae_scale_factor == 64
    assert pipeline.tokenizer.tokenize("melanocytic nevus") == ["melanocytic</w>", "nevus</w>"]


def test_it_was_trained_on_free_phantoms_without_vascular_lesions():
    trained_on = TrainedOn.read(located("phantom"))
    assert trained_on.licenses == ["CC0 1.0"] * 2
    assert all(set(entry.images_per_class) == set("akiec bcc bkl df mel nv".split()) for entry in trained_on.all_data)
    assert len(trained_on.sha256) == 6726
