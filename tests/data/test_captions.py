"""Captions from columns, and the attributes that a tokenizer cuts off."""

import pandas as pd
import pytest

from dermgen.config import InputError
from dermgen.data.captions import compile_captions, fill, lint, lint_table
from dermgen.labels import HAM10000
from dermgen.stable_diffusion.small import build_tokenizer

TEMPLATE = "dermoscopic image of {dx}, {localization}, {age}-year-old {sex}"
FULL = {"dx": "mel", "localization": "back", "age": 55.0, "sex": "male"}


@pytest.mark.parametrize(
    ("blank", "caption"),
    [
        ((), "dermoscopic image of melanoma, back, 55-year-old male"),
        (("localization",), "dermoscopic image of melanoma, 55-year-old male"),
        (("sex",), "dermoscopic image of melanoma, back, 55-year-old"),
        (("age",), "dermoscopic image of melanoma, back, male"),
        (("age", "sex", "localization"), "dermoscopic image of melanoma"),
    ],
)
def test_a_word_with_a_blank_field_is_left_out(blank, caption):
    row = {**FULL, **{name: float("nan") if name == "age" else "" for name in blank}}
    assert compile_captions(pd.DataFrame([row]), TEMPLATE, HAM10000, False, 0) == [caption]


def test_synonyms_are_chosen_by_seed_and_name_the_same_class():
    table = pd.DataFrame([FULL] * 60)
    captions = compile_captions(table, "{dx}", HAM10000, True, 3)
    assert set(captions) == {"melanoma", "malignant melanoma", "malignant skin lesion"}
    assert captions == compile_captions(table, "{dx}", HAM10000, True, 3)
    assert captions != compile_captions(table, "{dx}", HAM10000, True, 4)


def test_the_way_a_diagnosis_was_confirmed_never_enters_a_caption():
    with pytest.raises(InputError, match="unknown field 'dx_type' .how a lesion was confirmed reveals its label"):
        compile_captions(pd.DataFrame([FULL]), "{dx} by {dx_type}", HAM10000, False, 0)


def test_a_caption_can_name_the_malignancy():
    assert fill("{malignancy} lesion, {age}", {"malignancy": "benign", "age": None}) == "benign lesion"


def test_the_lint_counts_the_captions_in_which_each_attribute_is_cut_off():
    tokenizer = build_tokenizer(["dermoscopic image of melanoma back male female year old"] * 5, max_length=11)
    full = "dermoscopic image of melanoma, back, 55-year-old male"  # 13 tokens, 9 fit
    short = "dermoscopic image of melanoma, back"
    counts = lint([full, full, short], {"sex": ["male", "male", ""], "localization": ["back"] * 3}, tokenizer)
    assert counts == {"caption": 2, "sex": 2}
    rows = [{**FULL, "caption": full, "sex": "male"}, {**FULL, "caption": short}]
    assert lint_table(pd.DataFrame(rows), tokenizer) == {"caption": 1, "sex": 1}
