"""The built-in base model is found by its name, wherever a model is named."""

import pytest

from dermgen import builtin
from dermgen.builtin import located
from dermgen.config import InputError
from dermgen.stable_diffusion.base_model import BaseModel


def test_any_other_name_is_a_folder_or_a_hub_id_as_it_was_given():
    for name in ("stable-diffusion-v1-5/stable-diffusion-v1-5", "./phantom", "/models/phantom", "phantom/unet"):
        assert located(name) == name


def test_an_installation_without_the_model_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(builtin, "MODELS", tmp_path)
    with pytest.raises(InputError, match="this installation lacks the model 'phantom'.*install dermgen again"):
        BaseModel("phantom").check()
