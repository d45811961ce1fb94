"""What a card says of consent, of scores and of limits is true of the images that it is about."""

import json

from dermgen.data import manifest
from dermgen.publish import cards
from dermgen.publish.evidence import Evidence


def entry(*sources):
    return {"sources": list(sources)}


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
    found = json.loads((world.results / "scores" / "evaluation.json").read_text())
    found |= {"reference": {"sources": ["ISIC 2019"], "splits": [], "sha256": []}}
    found["extractor"] = found["extractor"] | {"name": "classifier /lustre/clinic/runs/cls"}
    results = cards.eval_results("text-to-image", Evidence(scores=[found]))
    assert {(r.dataset_name, r.dataset_type, r.dataset_split) for r in results} == {("ISIC 2019", "isic-2019", None)}
    assert all("lustre" not in r.metric_name and "classifier cls" in r.metric_name for r in results)


def test_images_are_called_unlearnt_only_if_they_are(world):
    found = json.loads((world.results / "scores" / "evaluation.json").read_text())
    reference = found["reference"]["sha256"]
    assert found["reference"]["splits"] == ["test"]
    assert cards._scores(found, ["other"])["held_out"]
    assert not cards._scores(found, [reference[3]])["held_out"]
    assert not cards._scores(found, None)["held_out"]


def test_lesions_are_not_counted_where_they_are_not_known(world, tmp_path):
    assert manifest.facts(world.drawn)["lesions"] is None
    real = manifest.facts(world.real)
    assert real["lesions"] == manifest.read(world.real)["lesion_id"].nunique()
    (tmp_path / "prepare.json").write_text((world.real / "prepare.json").read_text())
    (tmp_path / "metadata.csv").write_text((world.real / "metadata.csv").read_text())
    assert "preparation" not in manifest.facts(tmp_path)
