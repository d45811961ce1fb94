"""Tables are read in common encodings, separators and spellings, or refused with one sentence."""

import math

import pandas as pd
import pytest

from dermgen.config import InputError
from dermgen.data import manifest, sources, tables

COLUMNS = ["lesion_id", "image_id", "dx", "age", "sex", "localization"]
ROWS = [["L1", "ISIC_1", "mel", "55.0", "male", "Rücken"], ["L2", "ISIC_2", "nv", "", "female", "face"]]


def text(rows=ROWS, columns=COLUMNS, sep=",", end="\n"):
    return end.join([sep.join(columns), *(sep.join(row) for row in rows)]) + end


def changed(i, to):
    return [[*row[:i], to(row[i]), *row[i + 1 :]] for row in ROWS]


@pytest.mark.parametrize(
    "data",
    [
        text().encode(),
        text(sep=";").encode(),
        text(changed(3, lambda a: a.replace(".", ",")), sep=";").encode(),
        text(sep="\t").encode("utf-16"),
        text().encode("cp1252"),
        text(end="\r\n").encode("utf-8-sig"),
        text(end="\r").encode(),
        ("sep=;\n" + text(sep=";")).encode(),
        text([[f" {c} " for c in row] for row in ROWS], [f" {c}" for c in COLUMNS]).encode(),
        text(columns=[c.upper() for c in COLUMNS]).encode(),
        text(changed(1, lambda i: i + ".jpg")).encode(),
        text(changed(1, str.lower)).encode(),
        text([["1", *row] for row in ROWS]).encode(),
        text([[*row, ""] for row in ROWS]).encode(),
        text(columns=['"' + c + '"' for c in COLUMNS]).encode(),
    ],
    ids="plain semicolons decimal_comma utf16 cp1252 bom_crlf cr sep_line blanks upper jpg_ids lower_ids r_rownames "
    "trailing_comma quoted".split(),
)
def test_ham10000_is_read_the_same_however_its_table_was_saved(tmp_path, data):
    (tmp_path / "HAM10000_metadata.csv").write_bytes(data)
    for name in ("ISIC_1.jpg", "ISIC_2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    table = sources.ham10000(tmp_path).table
    assert [i.upper() for i in table["image_id"]] == ["ISIC_1", "ISIC_2"]
    assert list(table["lesion_id"]) == ["L1", "L2"]
    assert list(table["dx"]) == ["mel", "nv"]
    assert list(table["sex"]) == ["male", "female"]
    assert table["age"][0] == 55
    assert math.isnan(table["age"][1])
    assert table["localization"][0] == "Rücken"


def test_a_workbook_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "HAM10000_metadata.xlsx").write_bytes(b"PK\x03\x04 a workbook")
    with pytest.raises(InputError, match="is an Excel workbook: save its sheet as CSV"):
        sources.ham10000(tmp_path)


def test_a_repeated_column_is_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("dx, dx\nmel,nv\n")
    with pytest.raises(InputError, match="two columns called 'dx'"):
        tables.read_table(tmp_path / "a.csv")


def test_ages_and_sexes_are_understood_where_they_are_certain_and_counted_where_not(tmp_path):
    ages = ["45", "45.5", "45,5", "45 years", "-1", "999", "60+", "85-90", "NA", ""]
    assert [tables.age(a) for a in ages[:4]] == [45, 45.5, 45.5, 45]
    assert all(math.isnan(tables.age(a)) for a in ages[4:])
    assert [tables.sex(s) for s in ("M", "female", "F", "x")] == ["male", "female", "female", ""]
    rows = [[f"L{i}", f"I{i}", "nv", a, s, "NaN"] for i, (a, s) in enumerate(zip(ages, "MFx?MFMFMF", strict=True))]
    (tmp_path / "HAM10000_metadata.csv").write_text(text(rows, sep=";"))
    for i in range(len(rows)):
        (tmp_path / f"I{i}.jpg").write_bytes(b"x")
    source = sources.ham10000(tmp_path)
    assert source.unclear == {"age": {"-1": 1, "999": 1, "60+": 1, "85-90": 1}, "sex": {"x": 1}}
    assert set(source.table["localization"]) == {""}
    assert source.table["age"].isna().sum() == 6


@pytest.mark.parametrize(
    "save",
    [
        lambda t, p: p.write_text("\ufeff" + t.replace("false", "FALSE").to_csv(index=False, sep=";")),
        lambda t, p: t.replace("false", "False").to_csv(p, encoding="utf-16", sep="\t"),
        lambda t, p: t.replace({"false": "FALSE", "": "NA"}).to_csv(p, index=False),
    ],
    ids=["excel", "pandas", "r"],
)
def test_a_manifest_that_another_program_saved_again_is_the_same_manifest(manifest_dir, tmp_path, save):
    table = manifest.read(manifest_dir)
    raw = pd.read_csv(manifest_dir / "metadata.csv", dtype=str, keep_default_na=False)
    save(raw, tmp_path / "metadata.csv")
    again = manifest.read(tmp_path)
    pd.testing.assert_frame_equal(again[manifest.COLUMNS], table[manifest.COLUMNS])


def test_of_two_tables_the_one_with_the_exact_name_counts_and_two_that_differ_are_an_error(tmp_path):
    (tmp_path / "ISIC_1.jpg").write_bytes(b"x")
    (tmp_path / "HAM10000_metadata.csv").write_text(text())
    (tmp_path / "HAM10000_metadata_clean.csv").write_text("nothing,useful\n")
    (tmp_path / "HAM10000_metadata.tab").write_text(text(sep="\t"))
    assert list(sources.ham10000(tmp_path).table["dx"]) == ["mel"]
    (tmp_path / "HAM10000_metadata.tab").write_text(text(changed(2, lambda _: "bkl"), sep="\t"))
    with pytest.raises(InputError, match=r"two tables with different content match, .*metadata.csv and .*metadata.tab"):
        sources.ham10000(tmp_path)
