"""Columns that identify the images of one lesion or patient: those of usual names, or the one that the user names."""

import pandas as pd

from dermgen.config import InputError
from dermgen.labels import TAXONOMIES

# Usual names, in lower case and without blanks, dashes and underscores.
LESIONS = frozenset("lesionid lesion lesionno lesionnumber groupid group".split())
PATIENTS = frozenset("patientid patient patientno patientnumber subjectid subject caseid case personid person".split())
_VAGUE = frozenset("group lesion case".split())  # just as often an arm of a study, or a diagnosis
_MEAN_GROUP = 20  # images; a column of such a name with larger groups does not hold ids

_DESCRIPTIVE = frozenset(
    "image_id path mask_path dx age sex localization dx_type caption source license split file_name label".split()
)


def usual(column: str) -> str | None:
    """The manifest's column for a user's column of this name, `lesion_id` or `patient_id`; None for other names."""
    name = "".join(c for c in column.lower() if c.isalnum())
    return "lesion_id" if name in LESIONS else "patient_id" if name in PATIENTS else None


def find_groups(
    table: pd.DataFrame, named: str | None, where: str, no_groups: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """Fill `lesion_id` and `patient_id` of a raw table from its further columns.

    Args:
        table: raw, with all columns of the user's table.
        named: the column that the user names; otherwise those of usual names are taken.
        where: the data set, for messages.
        no_groups: the user says that there are no groups, so columns of ambiguous names are not taken.

    Returns:
        The table, and a sentence for each column that was taken, or not taken because of `no_groups`.

    Raises:
        InputError: if the named column is missing or would replace known ids, or two columns could be meant.
    """
    named = next((c for c in table if named and c.lower() == named.strip().lower()), named)
    if named is not None and named not in table:
        raise InputError(f"{where} has no column {named!r} for --group_column; {_columns(table)}")
    blank = [name for name in ("lesion_id", "patient_id") if (table[name] == "").all()]
    guessed = [c for c in table if usual(c) in blank and (table[c] != "").any() and _may_be_ids(table, c)]
    columns, notes = [named] if named is not None else guessed, []
    if no_groups and named is None:
        columns = [c for c in guessed if c.lower() not in _VAGUE]
        notes = [f"--no_groups: the column {c!r} is not taken as groups" for c in guessed if c not in columns]
    for column in columns:
        target = usual(column) or ("lesion_id" if "lesion_id" in blank else "patient_id")
        if target not in (*blank, column):
            raise InputError(
                f"{where} has ids in {target}, which --group_column {column} would replace: omit --group_column, "
                "or join the two columns into one"
            )
        rivals = [c for c in columns if usual(c) == target]
        if len(rivals) > 1:
            raise InputError(
                f"{where} has several columns of groups, {' and '.join(rivals)}: name by --group_column the one that "
                "is the same for all images of a lesion or patient"
            )
        table = table.assign(**{target: table[column]})
        notes.append(f"the column {column!r} is taken as {target}")
    return table, notes


def require_groups(table: pd.DataFrame, no_groups: bool, where: str) -> None:
    """Require lesion or patient ids, or `no_groups`: without ids the images of one lesion may cross splits.

    Raises:
        InputError: without any id, unless the user gives `no_groups`; with ids, if the user gives it.
    """
    known = any_known(table)
    if known and no_groups:
        raise InputError(f"{where} has lesion or patient ids, which --no_groups would ignore: omit it")
    if not known and not no_groups:
        raise InputError(
            f"{where} has no lesion or patient ids, so images of one lesion could fall into several splits: name their "
            f"column by --group_column ({_columns(table)}), or give --no_groups if there is none"
        )


def any_known(table: pd.DataFrame) -> bool:
    """Whether the lesion or the patient of any image is known."""
    return bool(((table["lesion_id"] != "") | (table["patient_id"] != "")).any())


def _columns(table: pd.DataFrame) -> str:
    further = [c for c in table if c not in _DESCRIPTIVE and (table[c] != "").any()]
    return f"further columns: {', '.join(further)}" if further else "it has no further columns"


def _may_be_ids(table: pd.DataFrame, column: str) -> bool:
    """Whether a column of an ambiguous name has many values, most of them not classes; true for any other name."""
    if column.lower() not in _VAGUE:
        return True
    values = table.loc[table[column] != "", column]
    distinct = set(values.str.lower())
    classes = {*table["dx"].str.lower(), *(v for v in distinct if any(t.find(v) for t in TAXONOMIES.values()))}
    return len(values) < _MEAN_GROUP * len(distinct) and 2 * len(distinct - classes) > len(distinct)
