"""What `dermgen prepare` reports of a manifest, on the terminal and on the page."""

import pandas as pd

from dermgen.blocks import Block, Table, Text, Warning, counted, number
from dermgen.data import balance
from dermgen.data.manifest import SPLITS
from dermgen.data.prepared import NO_GROUPS, OLD_SPLIT, Prepared, Split
from dermgen.data.processing import ODD_MASKS


def blocks(prepared: Prepared, table: pd.DataFrame, split: Split) -> list[Block]:
    """Warnings, the splits and how they compare, and what was left out or changed.

    Args:
        prepared: the record beside the manifest.
        table: the manifest.
        split: how it was split; the record of an earlier version does not say.
    """
    audit = prepared.audit
    unlike = balance.warning(audit.differences)
    pairs = f"Near-duplicates under different ids: {counted(audit.near_duplicate_pairs, 'pair')}"
    if audit.groups_joined and not prepared.split_kept:
        pairs += f", which join {counted(audit.groups_joined, 'group')} to others"
    left_out = [[reason, f"{n:,}"] for reason, n in prepared.rejected.items()]
    return [
        *map(Warning, split.warnings()),
        *([Warning(_crossing_warning(audit.groups_crossing_splits))] if _leaks_as_given(prepared) else []),
        *([Warning(unlike)] if unlike else []),
        Text(headline(prepared, split), "verdict"),
        Text(
            f"{counted(audit.images, 'image')} of {counted(audit.groups, 'group')}; a group is a lesion or patient "
            f"with its near-duplicates. Groups in more than one split: {_crossing(prepared, split)}. {pairs}. "
            f"Licence: {', '.join(sorted(set(table['license']) - {''})) or 'unknown'}."
        ),
        _classes(table),
        *([_comparison(audit.differences)] if audit.differences else []),
        *([Table(["left out because", "files"], left_out)] if left_out else []),
        *map(Text, _changes(prepared)),
        *(Text(note, "note") for note in prepared.notes),
    ]


def headline(prepared: Prepared, split: Split) -> str:
    """Whether the splits are protected, in a sentence."""
    audit = prepared.audit
    what = f"{counted(audit.images, 'image')} of {counted(audit.groups, 'lesion or patient', 'lesions or patients')}"
    if split.leaky:
        return f"Not protected: {what} were split by image, so images of one lesion are in several splits."
    if split.split_method == NO_GROUPS:
        images = counted(audit.images, "image has", "images have")
        return f"Unknown: {images} no lesion or patient ids, so one lesion may be in several splits."
    if audit.groups_crossing_splits:
        crossing = counted(audit.groups_crossing_splits, "lesion or patient has", "lesions or patients have")
        return f"Not protected: {crossing} images in several splits ({what} in all)."
    kept = f"Protected: {what}, each with its near-duplicates in one split"
    if split.split_method == OLD_SPLIT:
        return (
            f"{kept}; but an earlier version split them, so scores are not comparable with those on data prepared now."
        )
    if unlike := balance.unlike(audit.differences):
        return f"{kept}; but the splits differ by more than chance explains in {', '.join(unlike)}."
    if not audit.differences:
        return f"{kept}; whether the splits are alike was not tested."
    return f"{kept}; the splits differ by no more than chance explains."


def _leaks_as_given(prepared: Prepared) -> bool:
    return bool(prepared.split_kept and not prepared.leaky and prepared.audit.groups_crossing_splits)


def _crossing_warning(groups: int) -> str:
    which = counted(groups, "group of near-duplicates is", "groups of near-duplicates are")
    return (
        f"at least {which} in more than one split of those that the data came with, so scores will be too good: leave "
        "out --keep_split to split it anew"
    )


def _crossing(prepared: Prepared, split: Split) -> str:
    """How many groups are in several splits, as far as that is known."""
    audit = prepared.audit
    if audit.groups_crossing_splits is None:
        return "unknown, since there are no lesion or patient ids"
    if split.split_method == NO_GROUPS:
        return f"at least {audit.groups_crossing_splits}, of near-duplicates"
    unknown = audit.images_of_unknown_group
    alone = counted(unknown, "image", "images") + " of unknown lesion and patient are a group each"
    return f"{audit.groups_crossing_splits}" + (f" ({alone})" if unknown else "")


def class_counts(table: pd.DataFrame) -> pd.DataFrame:
    """Images of each class (a row) in each split (a column)."""
    counts = pd.crosstab(table["dx"].replace("", "unknown"), table["split"])
    return counts.reindex(columns=list(SPLITS), fill_value=0)


def _classes(table: pd.DataFrame) -> Table:
    counts = class_counts(table)
    rows = [[dx, *(f"{n:,}" for n in counts.loc[dx]), f"{counts.loc[dx].sum():,}"] for dx in counts.index]
    return Table(["class", *SPLITS, "all"], [*rows, ["all", *(f"{n:,}" for n in counts.sum()), f"{len(table):,}"]])


def _comparison(differences: list[dict]) -> Table:
    """Of each column the value whose share differs most between the splits; a small p means more than chance."""
    rows = []
    for entry in differences:
        form = "{:.1%}" if entry["value"] else "{:.2f}"
        shares = [form.format(entry["splits"][name]) if name in entry["splits"] else "–" for name in SPLITS]
        rows.append([f"{entry['column']}: {entry['value']}".strip(": "), *shares, number(entry["p_holm"])])
    return Table(["largest difference between splits", *SPLITS, "p (Holm-adjusted)"], rows)


def _changes(prepared: Prepared) -> list[str]:
    """What was changed, or read in a way that may not be meant."""
    return [
        *(f"Converted: {counted(n, 'image')}, {what}." for what, n in prepared.converted.items()),
        *(
            f"Masks: {counted(prepared.masks[kind], 'is', 'are')} {kind}."
            for kind in ODD_MASKS
            if kind in prepared.masks
        ),
        *(
            f"Column {column}: {counted(sum(texts.values()), 'cell')} read as unknown: "
            f"{', '.join(map(repr, list(texts)[:5]))}."
            for column, texts in prepared.read_as_unknown.items()
        ),
    ]
