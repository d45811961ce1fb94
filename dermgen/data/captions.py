"""Captions from metadata columns through a template, and a check for attributes that a tokenizer cuts off."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dermgen.builtin import located
from dermgen.config import InputError
from dermgen.labels import LesionClass, Taxonomy, from_labels

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_TEMPLATE = "dermoscopic image of {dx}, {localization}, {age}-year-old {sex}"
FIELDS = ("dx", "malignancy", "localization", "age", "sex")


def compile_captions(table: "pd.DataFrame", template: str, taxonomy: Taxonomy, synonyms: bool, seed: int) -> list[str]:
    """One caption per row of a manifest.

    Args:
        table: manifest rows.
        template: text with fields in braces, of `FIELDS`. A word with a blank field is left out, and so is a
            comma-separated part whose fields are all blank.
        taxonomy: gives the names of the codes in `dx`.
        synonyms: call the class by its name, a synonym or its malignancy ("malignant skin lesion"), at random.
        seed: of that choice.

    Raises:
        InputError: if the template has an unknown field, such as `dx_type`: how a lesion was confirmed reveals its
            label (follow-up means nevus).
    """
    check_template(template)
    rng = np.random.default_rng(seed)
    captions = []
    for row in table.to_dict("records"):
        lesion = taxonomy[row["dx"]] if row["dx"] else None
        names = class_names(lesion) if lesion else [""]
        name = names[rng.integers(len(names))] if synonyms else names[0]
        malignancy = lesion.malignancy if lesion else ""
        captions.append(fill(template, {**row, "dx": name, "malignancy": malignancy}))
    return captions


def captions_of(table: "pd.DataFrame", template: str, taxonomy: Taxonomy, synonyms: bool, seed: int) -> list[str]:
    """The caption that each row came with, or one by the template; arguments and errors as of `compile_captions`."""
    made = compile_captions(table, template, taxonomy, synonyms, seed)
    return [given or own for given, own in zip(table["caption"], made, strict=True)]


def class_names(lesion: LesionClass) -> list[str]:
    """Names of the class for captions: its name, its synonyms, and its malignancy if known."""
    malignancy = {True: ["malignant skin lesion"], False: ["benign skin lesion"], None: []}[lesion.malignant]
    return [lesion.name, *lesion.synonyms, *malignancy]


def check_template(template: str, fields: Sequence[str] = FIELDS) -> None:
    """Raise `InputError` if the template has a field that is not one of `fields`."""
    unknown = set(re.findall(r"{(\w*)}", template)) - set(fields)
    if unknown:
        reason = " (how a lesion was confirmed reveals its label)" if "dx_type" in unknown else ""
        raise InputError(
            f"caption template: unknown field {sorted(unknown)[0]!r}{reason}; the fields are {', '.join(fields)}"
        )


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Fill one template; words with blank fields are left out (see `compile_captions`)."""
    parts = []
    for part in template.split(", "):
        words, has_field, has_value = [], False, False
        for word in part.split():
            names = re.findall(r"{(\w+)}", word)
            texts = {name: _text(values.get(name)) for name in names}
            has_field, has_value = has_field or bool(names), has_value or any(texts.values())
            if all(texts.values()):
                words.append(re.sub(r"{(\w+)}", lambda m, texts=texts: texts[m[1]], word))
        if has_value or not has_field:
            parts.append(" ".join(words))
    return ", ".join(parts)


def lint(captions: Sequence[str], attributes: Mapping[str, Sequence[str]], tokenizer) -> dict[str, int]:
    """The number of captions in which each attribute lies beyond the tokenizer's limit.

    Args:
        captions: one text per image.
        attributes: for each attribute, its text in each caption ("" if absent).
        tokenizer: a Hugging Face tokenizer; its `model_max_length` is the limit.

    Returns:
        Counts above 0, by attribute, and under "caption" the number of truncated captions.
    """
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    counts: dict[str, int] = {}
    tokens_of: dict[str, int] = {}

    def num_tokens(text: str) -> int:
        if text not in tokens_of:
            tokens_of[text] = len(tokenizer(text, add_special_tokens=False, truncation=False).input_ids)
        return tokens_of[text]

    for i, caption in enumerate(captions):
        if num_tokens(caption) <= room:
            continue
        counts["caption"] = counts.get("caption", 0) + 1
        for name, texts in attributes.items():
            end = caption.find(texts[i]) + len(texts[i])
            if texts[i] and texts[i] in caption and num_tokens(caption[:end]) > room:
                counts[name] = counts.get(name, 0) + 1
    return counts


def lint_table(table: "pd.DataFrame", tokenizer) -> dict[str, int]:
    """`lint` of a manifest's captions for the attributes of its columns."""
    taxonomy = from_labels(table["dx"])
    attributes = {name: [_text(v) for v in table[name]] for name in ("localization", "age", "sex")}
    attributes["dx"] = [
        _class_text(c, taxonomy[dx]) if dx else "" for c, dx in zip(table["caption"], table["dx"], strict=True)
    ]
    return lint(list(table["caption"]), attributes, tokenizer)


def lint_message(counts: Mapping[str, int], num_captions: int, limit: int) -> str:
    """`lint`'s counts as a one-line message."""
    if not counts:
        return f"captions: none of {num_captions} exceeds {limit} tokens"
    cut = ", ".join(f"{name} in {n}" for name, n in counts.items() if name != "caption") or "no attribute"
    return f"captions truncated at {limit} tokens: {counts['caption']} of {num_captions}; beyond the limit: {cut}"


def load_tokenizer(name_or_path: str, subfolder: str | None = "tokenizer"):
    """The CLIP tokenizer of a pipeline, or a tokenizer folder or id by itself (`subfolder=None`)."""
    from transformers import CLIPTokenizer

    name_or_path = located(name_or_path)
    if os.path.isdir(name_or_path) and not os.path.isdir(os.path.join(name_or_path, "tokenizer")):
        subfolder = None
    try:
        return CLIPTokenizer.from_pretrained(name_or_path, **({"subfolder": subfolder} if subfolder else {}))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load a tokenizer from {name_or_path!r}: {str(error).splitlines()[0]}") from error


def _class_text(caption: str, lesion: LesionClass) -> str:
    return next((name for name in class_names(lesion) if name in caption), "")


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.0f}" if isinstance(value, float) else str(value)
