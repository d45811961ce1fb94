"""Results are read from JSON as the dataclasses that wrote them, by this version and by earlier ones."""

import json
from dataclasses import dataclass, field

import pytest

from dermgen import typed
from dermgen.config import InputError


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part."""

    n: int
    share: float | None


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A result."""

    name: str
    parts: list[Part]
    by_class: dict[str, Part]
    best: Part | None
    younger: list[str] = field(default_factory=list)
    verdict: str | None = None


WHOLE = Whole(name="x", parts=[Part(n=1, share=None)], by_class={"mel": Part(n=2, share=0.5)}, best=None)


def test_what_is_written_is_read_back():
    for whole in (WHOLE, Whole(**{**vars(WHOLE), "best": Part(n=3, share=1.0), "verdict": "passed"})):
        assert typed.from_value(Whole, json.loads(json.dumps(typed.to_value(whole)))) == whole


def test_none_is_written_unless_it_is_the_default():
    assert typed.to_value(WHOLE) == {
        "name": "x", "parts": [{"n": 1, "share": None}], "by_class": {"mel": {"n": 2, "share": 0.5}}, "best": None,
        "younger": [],
    }  # fmt: skip


def test_keys_of_other_versions_are_left_out_and_missing_ones_have_their_default(tmp_path):
    value = typed.to_value(WHOLE) | {"later": 1}
    del value["younger"]
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert typed.read(Whole, tmp_path / "a.json") == WHOLE


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "parts": 3}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json is damaged, or was written by another version"):
        typed.read(Whole, tmp_path / "a.json")
    with pytest.raises(InputError, match="cannot read .*b.json: No such file"):
        typed.read(Whole, tmp_path / "b.json")
