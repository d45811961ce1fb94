"""A run is published with its card after its checks, to a Hub that speaks the real protocol, and loads from there."""

import ast
import json
import re
import shutil

import pytest
import small
import torch
import yaml
from conftest import SMALL_CLASSIFIER
from hub_server import WRITE
from huggingface_hub import ModelCard
from PIL import Image
from world import change, changed, draw, judge

from dermgen import runs
from dermgen.classify import classifier
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.cache import hash_file
from dermgen.data.prepared import OLD_SPLIT
from dermgen.methods import dreambooth
from dermgen.publish.described import describe
from dermgen.publish.model import PublishModelConfig, publish_model, render_card
from dermgen.settings.dreambooth import DreamboothLoraConfig


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Publications are put together under the working folder."""
    monkeypatch.chdir(tmp_path)


def publish(run, *evidence, repo_id="me/model", **settings):
    return publish_model(
        PublishModelConfig(run=str(run), repo_id=repo_id, evidence=[str(e) for e in evidence] or None, **settings)
    )


def snippet(card: str) -> str:
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


@pytest.fixture(scope="module")
def lora(base_dir, world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "run"
    dreambooth.train(
        DreamboothLoraConfig(
            pretrained_model_name_or_path=str(base_dir), data_dir=str(world.real), instance_class="mel",
            instance_prompt="photo of sks melanoma", output_dir=str(folder), resolution=32, max_train_steps=1,
            validation_epochs=None, report_to="none", rank=3, lora_alpha=6, cache_dir=str(folder.parent / "cache"),
        )
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def a_classifier(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    classifier.train(
        classifier.ClassifierConfig(
            **SMALL_CLASSIFIER, data_dir=str(world.real), output_dir=str(folder), max_train_steps=2
        )
    )
    return folder


def test_an_audited_model_arrives_privately_with_the_bytes_that_were_shown(world, hub, tmp_path, capsys):
    url = publish(world.run, world.results)
    repo = hub.repos["model", "me/model"]
    assert url == f"{hub.endpoint}/me/model"
    assert repo.private
    shown = {
        p.relative_to(tmp_path / "published/model/repository").as_posix(): p.read_bytes()
        for p in (tmp_path / "published/model/repository").rglob("*")
        if p.is_file()
    }
    assert repo.files == shown
    assert (
        repo.files["unet/diffusion_pytorch_model.safetensors"]
        == (world.run / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    )
    assert set(repo.files) == {
        "README.md", "config.yaml", "dermgen.json", "model_index.json", "provenance.json", "samples.png",
        "scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def test_no_published_file_contains_a_path_a_patient_or_the_token(world, hub, tmp_path, capsys):
    publish(world.run, world.results)
    for name, content in hub.repos["model", "me/model"].files.items():
        assert str(world.real.parent).encode() not in content, name
        assert str(tmp_path).encode() not in content, name
        assert b"Pat_" not in content, name
        assert WRITE.encode() not in content, name
    assert WRITE not in "".join(capsys.readouterr())


def test_a_card_and_its_metadata_report_the_measured_scores_and_copies(world, hub):
    publish(world.run, world.results)
    text = hub.repos["model", "me/model"].files["README.md"].decode()
    card = ModelCard(text)
    audit = json.loads((world.results / "audit" / "audit.json").read_text())
    scores = json.loads((world.results / "scores" / "evaluation.json").read_text())["groups"][0]["scores"]
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    reported = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert reported == {k: pytest.approx(v["value"], abs=1e-6) for k, v in scores.items() if v["value"] is not None}
    assert f"{audit['copies']} of {audit['n']} synthetic images are copies" in text
    assert "CC BY-NC 4.0" in text
    assert "@article{tschandl2018ham10000" in text
    assert runs.find(world.run).sha256() in text
    assert "Not for diagnosis" in text
    assert "Do they help a classifier?\n\nNot measured." in text
    assert "despite failed checks" not in text


def test_a_model_without_an_audit_is_not_published_and_the_error_says_what_to_run(world, hub):
    with pytest.raises(InputError, match="memorisation: nobody has looked.*dermgen audit --real"):
        publish(world.run)
    assert hub.repos == {}


def test_an_audit_of_another_models_images_does_not_count(world, hub, tmp_path, capsys):
    shutil.copytree(world.run, tmp_path / "run")
    weights = tmp_path / "run/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError, match="nobody has looked"):
        publish(tmp_path / "run", world.results)
    assert "its images were generated with other weights" in capsys.readouterr().out


def test_a_model_with_too_many_copies_is_not_published(world, hub, tmp_path):
    shutil.copytree(world.results, tmp_path / "r")
    change(tmp_path / "r/audit/audit.json", copies=15)
    with pytest.raises(InputError, match=r"15 of 100 images copy a training image, more than the audit's 10.0%"):
        publish(world.run, tmp_path / "r")


def test_a_model_with_a_leaky_split_or_an_unknown_licence_is_not_published(world, hub, tmp_path):
    shutil.copytree(world.run, tmp_path / "run")
    provenance = json.loads((world.run / "provenance.json").read_text())
    change(tmp_path / "run/provenance.json", data=[provenance["data"][0] | {"leaky": True, "licenses": ["", "CC0"]}])
    with pytest.raises(InputError, match=r"(?s)licence: that of the training images is unknown.*split: LEAKY"):
        publish(tmp_path / "run", world.results)
    with pytest.raises(InputError) as error:
        publish(tmp_path / "run", world.results, data_license="CC BY 4.0")
    assert "licence" not in str(error.value)


@pytest.mark.slow
def test_an_audit_against_other_photographs_than_the_training_images_does_not_count(world, hub, tmp_path, tested_dir):
    other = changed(tested_dir, tmp_path / "other")
    table = manifest.read(other)
    for name in table["file_name"]:
        with Image.open(other / name) as image:
            image.rotate(7).save(other / name)
    results = judge(other, world.drawn, tmp_path / "results", scores=False)
    images = json.loads((world.run / "provenance.json").read_text())["training_images"]
    with pytest.raises(InputError, match=f"did not compare with {images} of the {images} real training images"):
        publish(world.run, results)


def test_the_worst_of_several_audits_counts_and_one_of_a_few_images_does_not(world, hub, tmp_path):
    shutil.copytree(world.results / "audit", tmp_path / "r" / "a")
    shutil.copytree(world.results / "audit", tmp_path / "r" / "b")
    change(tmp_path / "r/a/audit.json", copies=15, n=120)
    with pytest.raises(InputError, match="15 of 120 images copy"):
        publish(world.run, tmp_path / "r")
    change(tmp_path / "r/a/audit.json", copies=0, n=99)
    shutil.rmtree(tmp_path / "r/b")
    with pytest.raises(
        InputError, match="only 99 images of this model were looked at, which says little; audit 100 or more"
    ):
        publish(world.run, tmp_path / "r")


def test_leaky_results_prevent_publication_and_are_marked_if_forced(world, hub, tmp_path):
    shutil.copytree(world.results, tmp_path / "r")
    change(tmp_path / "r/scores/evaluation.json", leaky=True)
    with pytest.raises(InputError, match="split: LEAKY"):
        publish(world.run, tmp_path / "r")
    publish(world.run, tmp_path / "r", force="to show the marks")
    assert "**LEAKY: the data was split by image" in hub.repos["model", "me/model"].files["README.md"].decode()


def test_a_card_warns_of_scores_on_the_old_split(world, hub, tmp_path):
    shutil.copytree(world.results, tmp_path / "r")
    change(tmp_path / "r/scores/evaluation.json", split_method=OLD_SPLIT)
    publish(world.run, tmp_path / "r")
    assert "**OLD SPLIT: an earlier version" in hub.repos["model", "me/model"].files["README.md"].decode()


def test_adapters_at_another_strength_are_other_weights(lora, base_dir, tmp_path):
    hashes = {
        weight: set(manifest.read(draw(lora, tmp_path / str(weight), "mel:1", adapter_weight=weight))["model_sha256"])
        for weight in (1.0, 0.5, 0.0)
    }
    assert hashes[1.0] == {hash_file(lora / "pytorch_lora_weights.safetensors")}
    assert len(hashes[1.0] | hashes[0.5] | hashes[0.0]) == 3


def test_publishing_a_base_models_weights_requires_and_states_its_licence(base_dir, world, hub, tmp_path):
    run = a_pipeline(base_dir, world, tmp_path / "run", "someone/base")
    with pytest.raises(
        InputError, match="licence: that of the base model someone/base, whose weights are sent, is unknown"
    ):
        publish(run, dry_run=True)
    publish(run, force="trying the card", base_license="apache-2.0")
    assert ModelCard(hub.repos["model", "me/model"].files["README.md"].decode()).data.license == "cc-by-nc-4.0"
    run = a_pipeline(base_dir, world, tmp_path / "run2", "stable-diffusion-v1-5/stable-diffusion-v1-5")
    publish(run, repo_id="me/sd", force="trying the card")
    card = ModelCard(hub.repos["model", "me/sd"].files["README.md"].decode())
    assert card.data.license == "other"
    assert card.data["license_name"] == "cc-by-nc-4-0-and-creativeml-openrail-m"
    assert card.data.base_model == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_a_run_that_was_trained_further_since_its_weights_were_written_is_not_published(world, tmp_path):
    run = shutil.copytree(world.run, tmp_path / "run")
    shutil.copytree(run / "checkpoint-1", run / "checkpoint-7")
    with pytest.raises(InputError, match="was resumed up to step 7 since its weights were written at step 1"):
        publish(run, dry_run=True)


def test_a_finished_run_that_is_started_again_keeps_its_record(world, tmp_path):
    small.train("ddpm", world.real, tmp_path / "run", max_train_steps=1)
    path = tmp_path / "run" / "provenance.json"
    change(path, device="another machine's", training_seconds=7200)
    small.train("ddpm", world.real, tmp_path / "run", max_train_steps=1)
    facts = json.loads(path.read_text())
    assert (facts["device"], facts["training_seconds"], facts["finished_step"]) == ("another machine's", 7200, 1)


def test_a_licence_more_permissive_than_the_datas_is_refused(world, hub):
    with pytest.raises(InputError, match=r"apache-2.0 gives away more than that of the data, CC BY-NC 4.0"):
        publish(world.run, world.results, license="apache-2.0")


def test_the_card_of_a_forced_publication_lists_failed_checks_and_the_reason(world, hub):
    publish(world.run, force="internal test of the upload")
    text = hub.repos["model", "me/model"].files["README.md"].decode()
    assert 'The reason given: "internal test of the upload".' in text
    assert "> - memorisation: nobody has looked for copies of training images\n" in text
    assert str(world.run.parent) not in text
    assert "Do they copy training images?\n\nNot measured." in text


def test_a_forced_card_counts_private_findings_without_showing_them_and_a_token_cannot_be_forced(
    world, hub, tmp_path, monkeypatch
):
    run = shutil.copytree(world.run, tmp_path / "run")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"only_classes": ["seen in Pat_PHL_00003"]}))
    with pytest.raises(InputError, match=r"privacy: patient id in config.yaml \(pat_phl_00003\)"):
        publish(run, world.results)
    publish(run, world.results, force="the patient has agreed")
    text = hub.repos["model", "me/model"].files["README.md"].decode()
    assert "> - privacy: patient id in 1 files" in text
    assert "PHL_00003" not in text.upper()
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"only_classes": [f"token {WRITE}"]}))
    with pytest.raises(InputError, match="nor can it be forced: a token of the Hub is in config.yaml") as error:
        publish(run, world.results, force="we want to")
    assert WRITE not in str(error.value)


def test_a_reason_of_a_single_word_is_refused(world):
    with pytest.raises(InputError, match="force must be a reason in words, got "):
        publish(world.run, force="yes")


def test_a_dry_run_writes_and_shows_everything_and_makes_no_request(world, hub, tmp_path, capsys):
    assert publish(world.run, world.results, dry_run=True) is None
    out = capsys.readouterr().out
    files = tmp_path / "published/model/repository"
    assert (files / "README.md").read_text() in out
    for path in files.rglob("*"):
        assert path.is_dir() or path.relative_to(files).as_posix() in out
    assert hub.requests == []


def test_a_dry_run_shows_the_card_without_a_network_and_fails_the_same_checks(world, capsys):
    with pytest.raises(InputError, match="nobody has looked"):
        publish(world.run, dry_run=True)
    assert "## Training data" in capsys.readouterr().out


def test_published_adapters_load_in_plain_diffusers_with_their_scale_and_prompt(lora, base_dir, hub, tmp_path):
    from diffusers import StableDiffusionPipeline

    publish(lora, force="trying the loading only")
    text = hub.repos["model", "me/model"].files["README.md"].decode()
    assert "rank 3, alpha 6" in text
    assert ModelCard(text).data["instance_prompt"] == "photo of sks melanoma"
    code = snippet(text).replace("PATH OF THE BASE MODEL", str(base_dir))
    namespace = {}
    exec(code, namespace)
    loaded = namespace["pipeline"].unet
    (tmp_path / "lora").mkdir()
    shutil.copy(lora / "pytorch_lora_weights.safetensors", tmp_path / "lora")
    here = StableDiffusionPipeline.from_pretrained(base_dir)
    here.load_lora_weights(tmp_path / "lora")
    x = torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 8, here.unet.config.cross_attention_dim)
    with torch.no_grad():
        assert torch.equal(loaded(*x).sample, here.unet(*x).sample)
    scale = next(m.scaling["default_0"] for m in loaded.modules() if hasattr(m, "scaling"))
    assert scale == 2


def a_pipeline(base_dir, world, folder, base=None):
    """A folder with the files of a DreamBooth run on all weights."""
    shutil.copytree(base_dir, folder)
    provenance = json.loads((world.run / "provenance.json").read_text()) | {"base_on_hub": base is not None}
    del provenance["method"]
    (folder / "provenance.json").write_text(json.dumps(provenance))
    settings = {"seed": 0, "resolution": 32, "pretrained_model_name_or_path": base or str(base_dir)}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    change(folder / "unet" / "config.json", _name_or_path="/home/someone/base/unet")  # as diffusers notes it
    return folder


def test_a_prompt_with_quotes_is_escaped_correctly_in_the_cards_code(lora, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "run")
    prompt = 'a "sks" lesion, 5\\6 mm'
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(settings | {"instance_prompt": prompt}))
    code = ast.parse(snippet(render_card(describe(folder), "me/model")))
    assert prompt in [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)]


def test_a_whole_pipeline_loads_from_the_hub(base_dir, world, hub, tmp_path):
    publish(a_pipeline(base_dir, world, tmp_path / "run"), force="trying the loading only")
    sent = hub.repos["model", "me/model"].files["unet/config.json"]
    assert json.loads(sent)["_name_or_path"] == "unet"
    namespace = {}
    exec(snippet(hub.repos["model", "me/model"].files["README.md"].decode()), namespace)
    assert namespace["image"].size == (32, 32)


@pytest.mark.parametrize("method", ["ddpm", "vae", "dcgan", "stylegan2", "cyclegan"])
def test_a_downloaded_model_trained_from_scratch_generates_the_same_images(method, world, hub, tmp_path):
    folder = world.run
    if method != "ddpm":
        small.train(method, world.real, tmp_path / "run", max_train_steps=1)
        folder = tmp_path / "run"
    publish(folder, force="trying the loading only")
    files = hub.repos["model", "me/model"].files
    assert not any("discriminator" in name for name in files)
    text = files["README.md"].decode()
    namespace = {}
    exec(snippet(text), namespace)
    run = runs.find(folder)
    sources = {"direction": "a_to_b", "sources": namespace["photographs"]} if method == "cyclegan" else {}
    generator = runs.load_generator(run, torch.device("cpu"), **sources)
    label = run.classes[1] if method == "cyclegan" else run.classes[0]
    assert torch.equal(namespace["images"], generator.sample([label] * 4, [0, 1, 2, 3]))
    assert ModelCard(text).data.license == "cc-by-nc-4.0"


def test_a_classifier_needs_no_audit_and_predicts_from_the_hub(a_classifier, world, hub):
    from PIL import Image

    publish(a_classifier)
    files = hub.repos["model", "me/model"].files
    assert not any("predictions" in name or "training_set" in name for name in files)
    text = files["README.md"].decode()
    namespace = {}
    exec(snippet(text), namespace)
    path = next((world.real / "images").glob("*.png"))
    answer = {a["label"]: a["score"] for a in namespace["classify"](Image.open(path), top_k=7)}
    results = json.loads((a_classifier / "results.json").read_text())
    assert set(answer) == set(results["classes"])
    reported = {r.metric_type: r.metric_value for r in ModelCard(text).data.eval_results}
    assert reported["bma"] == pytest.approx(results["test"]["bma"], abs=1e-6)
    row = re.search(r"\| BMA \(mean recall\) \| ([\d.]+) \| ([\d.]+) to ([\d.]+) \|", text)
    assert float(row[2]) <= float(row[1]) <= float(row[3])


def test_the_best_weights_can_be_published_in_place_of_the_last(world, hub, tmp_path):
    small.train("ddpm", world.real, tmp_path / "run", max_train_steps=3, validation_steps=1)
    best = runs.find(tmp_path / "run", "best")
    publish(tmp_path / "run", force="trying the loading only", weights="best")
    sent = hub.repos["model", "me/model"].files["unet/diffusion_pytorch_model.safetensors"]
    assert sent == (best.weights / "unet/diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("take_away", "message"),
    [
        ("unet", "has no final weights yet"),
        ("provenance.json", "no run of dermgen, so nothing is known of it"),
    ],
)
def test_an_unfinished_run_and_a_folder_without_a_record_are_errors(take_away, message, world, tmp_path):
    shutil.copytree(world.run, tmp_path / "run")
    path = tmp_path / "run" / take_away
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=message):
        publish(tmp_path / "run", dry_run=True)


def test_a_set_of_images_is_not_published_as_a_model(world):
    with pytest.raises(InputError, match="holds images, not a model: dermgen publish dataset"):
        publish(world.drawn, dry_run=True)


def test_a_users_template_must_use_known_fields_and_open_with_metadata(world, tmp_path):
    template = tmp_path / "mine.md"
    template.write_text("---\n{{ card_data }}\n---\n# {{ title }} by {{ author }}")
    with pytest.raises(InputError, match="'author' is undefined; the fields are .*title"):
        publish(world.run, world.results, dry_run=True, card_template=str(template))
    template.write_text("# {{ title }}")
    with pytest.raises(InputError, match="must open with ---"):
        publish(world.run, world.results, dry_run=True, card_template=str(template))
    template.write_text("---\n{{ card_data }}\n---\n# {{ title }} at {{ repo_id }}")
    publish(world.run, world.results, dry_run=True, card_template=str(template))
    assert (tmp_path / "published/model/repository/README.md").read_text().endswith("# model at me/model")
