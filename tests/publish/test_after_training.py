"""`--push_to_hub` checks before the training whether it will work, and a failure after it loses nothing."""

import json

import pytest
import small
from conftest import SMALL_CLASSIFIER
from hub_server import READ

from dermgen.classify import classifier
from dermgen.config import InputError, parse
from dermgen.methods import ddpm
from dermgen.publish.after_training import check_upload, finish
from dermgen.settings.dreambooth import DreamboothConfig, DreamboothLoraConfig
from dermgen.settings.methods import METHODS

DDPM = METHODS["ddpm"]


def config(world, folder, **changes):
    settings = {"push_to_hub": True, "hub_model_id": "me/run", "max_train_steps": 1} | changes
    return small.config("ddpm", world.real, folder, **settings)


def test_a_missing_reason_is_an_error_before_the_training(world, hub, tmp_path):
    with pytest.raises(InputError, match=r"(?s)memorisation: nobody has looked.*--hub_force REASON"):
        check_upload(config(world, tmp_path / "run"), DDPM)
    assert hub.repos == {}
    check_upload(config(world, tmp_path / "run", hub_force="backup, audit follows"), DDPM)
    assert hub.repos["model", "me/run"].private


def test_before_the_training_it_knows_what_the_base_model_was_trained_on(world, hub, tmp_path):
    facts = json.loads((world.run / "provenance.json").read_text())
    entry = facts["data"][0] | {"leaky": True, "licenses": [""]}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "provenance.json").write_text(json.dumps({"data": [entry]}))
    settings = {"data_dir": str(world.real), "push_to_hub": True, "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"(?s)licence: that of the training images is unknown.*split: LEAKY"):
        config = DreamboothLoraConfig(pretrained_model_name_or_path=str(tmp_path / "base"), **settings)
        check_upload(config, METHODS["dreambooth_lora"])


@pytest.mark.parametrize(("name", "sent"), [("dreambooth", True), ("dreambooth_lora", False), ("classifier", True)])
def test_before_the_training_a_base_model_whose_weights_are_sent_needs_a_licence(name, sent, world, hub, tmp_path):
    settings = {"data_dir": str(world.real), "push_to_hub": True, "output_dir": str(tmp_path / "run")}
    with pytest.raises(InputError) as error:
        method = METHODS[name]
        check_upload(method.settings(pretrained_model_name_or_path="some/model", **settings), method)
    assert ("that of the base model some/model, whose weights are sent, is unknown" in str(error.value)) == sent


def test_a_token_that_may_not_write_is_an_error_before_the_training(world, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ)
    with pytest.raises(InputError, match="may not write"):
        check_upload(config(world, tmp_path / "run", hub_force="backup, audit follows"), DDPM)


def test_the_run_is_published_with_the_reason_on_its_card(world, hub, tmp_path):
    settings = config(world, tmp_path / "run", hub_force="backup, audit follows")
    check_upload(settings, DDPM)
    ddpm.train(settings)
    finish(settings)
    repo = hub.repos["model", "me/run"]
    assert repo.private
    assert "backup, audit follows" in repo.files["README.md"].decode()
    assert (tmp_path / "run" / "README.md").read_text().startswith("---\n")


def test_a_failed_upload_leaves_a_whole_run_and_says_how_to_publish_it(world, hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    settings = config(world, tmp_path / "run", hub_force="backup, audit follows")
    check_upload(settings, DDPM)
    ddpm.train(settings)
    hub.fail(r"POST .*/commit/", 500, times=99)
    with pytest.raises(
        InputError, match=r"(?s)The training is done and .* is whole; send it with\n  dermgen publish model"
    ):
        finish(settings)
    assert (tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors").exists()


def test_a_run_that_is_not_pushed_still_gets_its_card(world, tmp_path):
    settings = config(world, tmp_path / "run", push_to_hub=False)
    check_upload(settings, DDPM)
    ddpm.train(settings)
    finish(settings)
    text = (tmp_path / "run" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in text
    assert "Training took" in text


def test_a_classifier_needs_no_reason(world, hub, tmp_path, monkeypatch):
    settings = classifier.ClassifierConfig(
        **SMALL_CLASSIFIER, data_dir=str(world.real), output_dir=str(tmp_path / "run"), max_train_steps=1,
        push_to_hub=True, hub_model_id="me/classifier",
    )  # fmt: skip
    check_upload(settings, METHODS["classifier"])
    classifier.train(settings)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.fail(r"POST .*/commit/", 500, times=99)
    with pytest.raises(InputError) as error:
        finish(settings)
    assert str(error.value).endswith(f"dermgen publish model {tmp_path / 'run'} --repo_id me/classifier")
    hub.faults.clear()
    finish(settings)
    assert "model.safetensors" in hub.repos["model", "me/classifier"].files


def test_a_token_on_the_command_line_is_refused():
    with pytest.raises(InputError, match="--hub_token can be read by others") as error:
        parse(DreamboothConfig, [*"--pretrained_model_name_or_path m --data_dir d".split(), "--hub_token", "hf_secret"])
    assert "hf_secret" not in str(error.value)
