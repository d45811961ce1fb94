"""What a card says about consent, scores and lesions is true of its images, and its template is the intended one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dermgen.blocks import for_card
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.set_facts import SetFacts
from dermgen.data.trained_on import TrainedOn
from dermgen.publish import cards
from dermgen.publish.described import describe
from dermgen.publish.evidence import Evidence, gather
from dermgen.publish.model import PublishModelConfig, render_card
from dermgen.results.audit import Audit
from dermgen.results.common import ImageSet, read
from dermgen.results.evaluation import Evaluation, Reference


def entry(*sources):
    return SetFacts(images=1, lesions=None, licenses=[""], sources=list(sources))


def test_consent_has_a_sentence_for_each_kind_of_source():
    assert cards.consent([entry("dermgen phantoms")]) == [
        "The phantoms were drawn by a program: no patient is in them."
    ]
    assert "HAM10000 and ISIC 2019 were published" in cards.consent([entry("HAM10000"), entry("ISIC 2019")])[0]
    mixed = cards.consent([entry(""), entry("dermgen phantoms")])
    assert len(mixed) == 2
    assert "is not recorded with them" in mixed[1]
    private = cards.consent([entry("")])
    assert len(private) == 1
    assert "is not recorded with the images" in private[0]
    assert len(cards.consent([entry("HAM10000"), entry("our clinic")])) == 2


def test_scores_name_the_data_set_that_they_were_measured_on_and_no_path(world):
    scores = read(Evaluation, world.results / "scores")
    scores = replace(
        scores,
        reference=Reference(sources=["ISIC 2019"], splits=[], sha256=[]),
        extractor=replace(scores.extractor, name="classifier /lustre/clinic/runs/cls"),
    )
    results = cards.eval_results("text-to-image", Evidence(scores=[scores]))
    assert {(r.dataset_name, r.dataset_type, r.dataset_split) for r in results} == {("ISIC 2019", "isic-2019", None)}
    assert all("lustre" not in r.metric_name and "classifier cls" in r.metric_name for r in results)


def test_images_are_called_held_out_only_if_known_not_to_be_trained_on(world):
    scores = read(Evaluation, world.results / "scores")
    reference = scores.reference.sha256
    assert scores.reference.splits == ["test"]

    def called_held_out(trained_on):
        facts = cards.shared_facts(TrainedOn(trained_on), None, Evidence(scores=[scores]))
        return facts["scores"][0]["held_out"]

    assert called_held_out(["other"])
    assert not called_held_out([reference[3]])
    assert not called_held_out(None)


def test_a_file_in_the_working_folder_is_not_a_template_unless_it_is_named(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = render_card(describe(world.run), "me/model")
    Path("ddpm.md").write_text("---\nlicense: mit\n---\nsomebody's notes")
    assert render_card(describe(world.run), "me/model") == card
    config = PublishModelConfig(run=str(world.run), repo_id="me/model", card_template="ddpm.md")
    assert render_card(describe(world.run), "me/model", config=config).endswith("somebody's notes")
    missing = PublishModelConfig(run=str(world.run), repo_id="me/model", card_template="notes/ddpm.md")
    with pytest.raises(InputError, match=r"no such card template: notes/ddpm\.md"):
        render_card(describe(world.run), "me/model", config=missing)


def test_counts_on_a_card_agree_with_their_nouns(tmp_path):
    template = tmp_path / "card.md"
    template.write_text('---\nlicense: mit\n---\n{% include "_data.md" %}')
    facts = cards.shared_facts(TrainedOn(data=(replace(entry("our clinic"), lesions=1),)), None, Evidence())
    text = cards.render("ddpm.md", facts | {"data_title": "Training data"}, "model", template)
    assert "1 image of 1 lesion, from our clinic." in text


def test_lesions_are_counted_only_if_they_are_known(world, tmp_path):
    assert SetFacts.of(world.drawn).lesions is None
    real = SetFacts.of(world.real)
    assert real.lesions == manifest.read(world.real)["lesion_id"].nunique()
    (tmp_path / "prepare.json").write_text((world.real / "prepare.json").read_text())
    (tmp_path / "metadata.csv").write_text((world.real / "metadata.csv").read_text())
    assert SetFacts.of(tmp_path).preparation is None


def test_a_set_without_its_copies_has_passed_and_a_forced_one_says_that_it_failed(world):
    hashes = [f"h{i}" for i in range(100)]
    audit = replace(
        read(Audit, world.results / "audit"), n=100, copies=20, copy_rate=0.2, max_copy_rate=0.1, verdict="failed",
        passed=False, images=ImageSet(sha256=hashes, models=[]), copied=hashes[:20],
    )  # fmt: skip

    def reported(published):
        facts = cards.shared_facts(TrainedOn(), None, Evidence(audit=audit, audits=[audit]), published=published)
        return for_card(facts["memorization"].rate_blocks())

    assert "FAILED" not in reported(hashes[20:])
    assert "0 of 80 synthetic images are copies" in reported(hashes[20:])
    assert "**FAILED: more than 10.0% are copies.**" in reported(hashes)
    assert "do not share" not in reported(hashes).lower()


def test_an_audit_of_an_early_version_is_left_out_and_named(world, tmp_path):
    shutil.copytree(world.results / "audit", tmp_path / "a")
    early = json.loads((tmp_path / "a" / "audit.json").read_text())
    for key in ("images", "train", "real", "copied", "verdict", "most_false_alarms", "unknown_sources"):
        del early[key]
    (tmp_path / "a" / "audit.json").write_text(json.dumps(early))
    (line,) = gather([tmp_path], model="w").left_out
    assert "it does not record its images; run that command again" in line
    (tmp_path / "a" / "audit.json").write_text("{}")
    (line,) = gather([tmp_path], model="w").left_out
    assert "audit.json is damaged, or was written by another version" in line
