"""Licences are recognised in any spelling, and a combination has the conditions of every part."""

import itertools

import pytest

from dermgen.data.origins import COLLECTIONS, PHANTOMS, Origin, combine, origin, parse_license, respects
from dermgen.data.sources import CC_BY_NC

TEXTS = ["CC0", "CC BY 4.0", "CC BY-NC 4.0", "CC BY-SA 4.0", "CC BY-NC-SA 4.0", "CC BY-ND 4.0", "CC BY-NC-ND 4.0"]


@pytest.mark.parametrize(
    ("text", "hub_id"),
    [
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("cc-by-nc", "cc-by-nc-4.0"),
        ("CC_BY_NC_SA_3.0", "cc-by-nc-sa-3.0"),
        ("CC-0", "cc0-1.0"),
        ("CC0 1.0", "cc0-1.0"),
        ("Apache-2.0", "apache-2.0"),
        ("our clinic's terms", "other"),
    ],
)
def test_a_licence_is_recognised_in_any_spelling(text, hub_id):
    assert parse_license(text).id == hub_id


def test_a_blank_licence_is_unknown_and_so_is_a_combination_with_one():
    assert parse_license("  ") is None
    assert combine([]) is None
    assert combine(["CC0", ""]) is None


def test_a_combination_of_two_licences_has_the_conditions_of_each():
    for texts in itertools.product(TEXTS, repeat=2):
        made, parts = combine(texts), [parse_license(text) for text in texts]
        assert made.commercial == all(p.commercial for p in parts), texts
        assert made.derivatives == all(p.derivatives for p in parts), texts
        assert made == combine(texts[::-1])
        if made.derivatives:
            assert made.share_alike == any(p.share_alike for p in parts), texts


def test_terms_that_are_not_recognised_override_all_others():
    assert combine(["CC BY-NC 4.0", "our clinic's terms"]).name == "our clinic's terms"


def test_a_licence_more_permissive_than_that_of_the_source_does_not_respect_it():
    non_commercial = parse_license(CC_BY_NC)
    assert respects(non_commercial, non_commercial)
    assert not respects(parse_license("apache-2.0"), non_commercial)
    assert not respects(parse_license("CC BY 4.0"), non_commercial)
    assert respects(non_commercial, parse_license("CC0"))
    assert not respects(non_commercial, parse_license("CC BY-SA 4.0"))
    assert not respects(non_commercial, parse_license("our clinic's terms"))


@pytest.mark.parametrize(
    ("chosen", "source"),
    [
        ("CC BY 4.0", "CC BY-ND 4.0"),
        ("CC BY-NC 4.0", "CC BY-NC-ND 4.0"),
        ("CC0", "CC BY 4.0"),
        ("CC BY-NC-SA 4.0", "CC BY-SA 4.0"),
        ("CC BY 4.0", "creativeml-openrail-m"),
    ],
)
def test_a_licence_that_drops_a_condition_of_the_source_does_not_respect_it(chosen, source):
    assert not respects(parse_license(chosen), parse_license(source))
    assert respects(parse_license(source), parse_license(source))


def test_the_conditions_of_a_base_model_are_kept_beside_those_of_the_images():
    both = combine(["CC BY-NC 4.0", "creativeml-openrail-m"])
    assert (both.id, both.name) == ("other", "CC BY-NC 4.0 and creativeml-openrail-m")
    assert combine(["openrail++", "creativeml-openrail-m"]).name == "creativeml-openrail-m and openrail++"
    assert respects(parse_license("CreativeML-OpenRAIL-M"), parse_license("creativeml-openrail-m"))
    assert combine(["CC0", "creativeml-openrail-m"]).id == "creativeml-openrail-m"
    assert combine(["CC BY-NC 4.0", "apache-2.0"]).id == "cc-by-nc-4.0"


def test_prepared_images_may_not_be_shared_if_derivatives_are_forbidden():
    assert parse_license("CC BY-NC 4.0").allows_sharing
    assert not parse_license("CC BY-ND 4.0").allows_sharing
    assert not parse_license("our clinic's terms").allows_sharing


def test_every_reader_of_public_data_has_a_citation():
    for name in ("HAM10000", "ISIC 2018", "ISIC 2019", "ISIC 2020"):
        assert COLLECTIONS[name].bibtex.count("@article") >= 1
        assert COLLECTIONS[name].bibtex.count("{") == COLLECTIONS[name].bibtex.count("}")


def test_images_generated_by_any_version_phantoms_and_collections_are_distinguished():
    assert {origin(source) for source in ("dermgen 0.1.0", "dermgen 1.0.0", "dermgen 12.3.1")} == {Origin.GENERATED}
    others = [origin(source) for source in (PHANTOMS, "HAM10000", "our dermgen 1 clinic", "")]
    assert others == [Origin.PHANTOM, Origin.COLLECTION, Origin.OTHER, Origin.OTHER]
