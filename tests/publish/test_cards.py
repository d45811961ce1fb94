"""What a card says of consent, of scores and of limits is true of the images that it is about."""

from dataclasses import replace
from pathlib import Path

import pytest

from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.set_facts import SetFacts
from dermgen.publish import cards
from dermgen.publish.described import describe
from dermgen.publish.evidence import Evidence
from dermgen.publish.model import PublishModelConfig, render_card
from dermgen.results.common import read
from dermgen.results.evaluation import Evaluation, Reference


def entry(*sources):
    return SetFacts(images=1, lesions=None, licenses=[""], sources=list(sources))


def test_consent_is_told_for_each_kind_of_source():
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


def test_scores_are_told_of_the_set_that_they_were_measured_on(world):
    found = read(Evaluation, world.results / "scores")
    found = replace(
        found,
        reference=Reference(sources=["ISIC 2019"], splits=[], sha256=[]),
        extractor=replace(found.extractor, name="classifier /lustre/clinic/runs/cls"),
    )
    results = cards.eval_results("text-to-image", Evidence(scores=[found]))
    assert {(r.dataset_name, r.dataset_type, r.dataset_split) for r in results} == {("ISIC 2019", "isic-2019", None)}
    assert all("lustre" not in r.metric_name and "classifier cls" in r.metric_name for r in results)


def test_images_are_called_unseen_only_if_they_are(world):
    found = read(Evaluation, world.results / "scores")
    reference = found.reference.sha256
    assert found.reference.splits == ["test"]

    def called_unseen(trained_on):
        facts = cards.shared_facts([], [], None, Evidence(scores=[found]), [], None, None, trained_on=trained_on)
        return facts["scores"][0]["held_out"]

    assert called_unseen(["other"])
    assert not called_unseen([reference[3]])
    assert not called_unseen(None)


def test_a_file_in_the_working_folder_is_no_template_unless_it_is_named(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = render_card(describe(world.run), "me/model")
    Path("ddpm.md").write_text("---\nlicense: mit\n---\nsomebody's notes")
    assert render_card(describe(world.run), "me/model") == card
    config = PublishModelConfig(run=str(world.run), repo_id="me/model", card_template="ddpm.md")
    assert render_card(describe(world.run), "me/model", config=config).endswith("somebody's notes")
    missing = PublishModelConfig(run=str(world.run), repo_id="me/model", card_template="notes/ddpm.md")
    with pytest.raises(InputError, match=r"no such card template: notes/ddpm\.md"):
        render_card(describe(world.run), "me/model", config=missing)


def test_lesions_are_not_counted_where_they_are_not_known(world, tmp_path):
    assert SetFacts.of(world.drawn).lesions is None
    real = SetFacts.of(world.real)
    assert real.lesions == manifest.read(world.real)["lesion_id"].nunique()
    (tmp_path / "prepare.json").write_text((world.real / "prepare.json").read_text())
    (tmp_path / "metadata.csv").write_text((world.real / "metadata.csv").read_text())
    assert SetFacts.of(tmp_path).preparation is None
