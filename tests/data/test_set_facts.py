"""Facts of a set of images survive their JSON, and what earlier versions wrote is read as it was meant."""

import json
from dataclasses import replace

from dermgen.data import manifest
from dermgen.data.prepared import OLD_SPLIT
from dermgen.data.set_facts import SetFacts


def test_facts_survive_their_json(manifest_dir):
    facts = SetFacts.of(manifest_dir)
    assert facts.audit.groups == 28
    assert SetFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    plain = SetFacts.of_plain_folder(3)
    assert SetFacts.from_json(plain.to_json()) == plain


def test_the_mark_of_a_leaky_source_is_a_fact_of_its_own(manifest_dir, synthetic_dir, tmp_path):
    table = manifest.read(synthetic_dir).assign(source="dermgen 0.1.0")
    assert not manifest.is_leaky(table)
    assert not manifest.is_leaky(table.assign(leaky=""))
    old = table.assign(source=["dermgen 0.1.0, LEAKY", *table["source"][1:]])
    manifest.write_view(old, synthetic_dir, tmp_path / "old")
    facts = SetFacts.of(tmp_path / "old")
    assert (facts.leaky, facts.sources) == (True, ["dermgen 0.1.0"])
    again = manifest.read(tmp_path / "old")
    assert list(again["leaky"] == "true") == [True, *[False] * (len(table) - 1)]
    manifest.write_view(again, synthetic_dir, tmp_path / "new")
    assert SetFacts.of(tmp_path / "new") == facts
    assert "LEAKY" not in (tmp_path / "new" / "metadata.csv").read_text()


def test_facts_of_earlier_versions_are_read_as_they_were_meant(manifest_dir):
    facts = SetFacts.of(manifest_dir)
    old = {name: value for name, value in facts.to_json().items() if name not in ("split_method", "lesions")}
    assert SetFacts.from_json(old) == replace(facts, split_method=OLD_SPLIT, lesions=None)
    plain = {"images": 3, "images_per_class": {}, "licenses": [""], "sources": [""], "leaky": False}
    assert SetFacts.from_json(plain) == SetFacts.of_plain_folder(3)
    marked = SetFacts.from_json(plain | {"sources": ["dermgen 0.1.0", "dermgen 0.1.0, LEAKY"]})
    assert (marked.leaky, marked.sources) == (True, ["dermgen 0.1.0"])
