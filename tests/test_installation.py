"""Packages that refuse each other are named before anything is loaded."""

from importlib import metadata

import pytest

from dermgen import installation
from dermgen.config import InputError
from dermgen.doctor import _installation
from dermgen.methods import dreambooth
from dermgen.settings.dreambooth import DreamboothLoraConfig


@pytest.fixture
def versions(monkeypatch):
    """Other versions of packages than the installed ones."""
    real, changed = metadata.version, {}
    monkeypatch.setattr(metadata, "version", lambda name: changed.get(name) or real(name))
    return changed


def test_the_installed_packages_fit_together():
    assert installation.conflicts() == []


def test_a_version_that_dermgen_refuses_is_named_with_what_to_install(versions):
    versions["accelerate"] = "1.2.0"
    (sentence,) = installation.conflicts()
    assert sentence.startswith("accelerate 1.2.0 is installed: pip install 'accelerate>=1.10'")


def test_lora_on_the_text_encoder_is_refused_before_a_model_is_loaded_where_peft_is_too_old(versions, tmp_path):
    versions["peft"] = "0.19.0"
    config = DreamboothLoraConfig(
        pretrained_model_name_or_path="no/model", instance_data_dir=str(tmp_path), instance_prompt="a lesion",
        train_text_encoder=True, output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"needs peft 0\.\d+\.0 or newer for LoRA on the text encoder, and peft 0.19.0"
    ):
        dreambooth.train(config)
    assert not (tmp_path / "run").exists()


def test_the_doctor_reports_packages_that_do_not_fit_together(versions):
    versions["peft"] = "0.19.0"
    assert [line.text for line in _installation() if line.state == "FIX"] == installation.conflicts()
    assert len(installation.conflicts()) == 2  # too old for dermgen, and for transformers
