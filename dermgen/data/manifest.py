"""The manifest: one table for a folder of images, its columns and checks, reading and writing.

A manifest folder is a Hugging Face `imagefolder`: images under `images/`, masks under `masks/`, and `metadata.csv` with
`file_name` first. An empty cell means unknown.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dermgen.config import InputError, whole_file
from dermgen.data import tables
from dermgen.data.names import leaves_folder
from dermgen.job import saved_settings

if TYPE_CHECKING:  # pandas costs 60 MiB, which a training on a plain folder can do without
    import pandas as pd

COLUMNS = (
    "file_name image_id dx lesion_id patient_id split age sex localization caption mask_file_name source license "
    "synthetic"
).split()
_MAY_BE_UNKNOWN = "lesion_id patient_id split sex localization caption mask_file_name source license".split()
SYNTHETIC_COLUMNS = (
    "prompt negative_prompt seed index model model_sha256 guidance_scale num_inference_steps scheduler strength "
    "truncation source_image_id"
).split()
SPLITS = ("train", "val", "test")
# How a manifest was split. One without a word of it is older than the first of these.
SPLIT_METHOD, BY_IMAGE, NO_GROUPS = "groups, by relative deficit", "images", "images, since no groups are known"
AS_GIVEN = "as the folder came"
OLD_SPLIT = "groups, by absolute deficit"
# Settings of `dermgen prepare` that decide what an image and a split are.
PREPARATION = "resolution crop crop_margin remove_hair color_constancy split caption_template seed".split()


def read(folder: str | Path, synthetic_set: bool = False) -> "pd.DataFrame":
    """Read and check `folder/metadata.csv`. Text columns hold "" where a cell is empty; age is a float or NaN.

    Args:
        folder: with the table.
        synthetic_set: given as synthetic images, of which another program may have told the files only, and `label`.

    Raises:
        InputError: if the folder or the table is missing, a column is, or the table is empty.
    """
    folder = Path(folder)
    path = folder / "metadata.csv"
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}")
    if not path.exists():
        raise InputError(f"{folder} has no metadata.csv: make a manifest folder with `dermgen prepare`")
    table = tables.read_table(path)
    if synthetic_set and "file_name" in table:
        table = _completed(table)
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}: is it a manifest of `dermgen prepare`?")
    if table.empty:
        raise InputError(f"{path} has no rows")
    outside = [name for c in ("file_name", "mask_file_name") for name in table[c] if leaves_folder(name)]
    if outside:
        raise InputError(f"{path}: {outside[0]!r} is not a file in this folder: names are relative to it, without '..'")
    table["age"] = [tables.age(text) for text in table["age"]]
    for column in ("synthetic", "kept", "copy"):
        if column in table:
            table[column] = [tables.truth(text) for text in table[column]]
    for column in _MAY_BE_UNKNOWN:  # R writes NA into empty cells
        table[column] = [tables.known(text) for text in table[column]]
    return table


def _completed(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table of synthetic images with all columns: who asks for a synthetic set says what its images are."""
    if "dx" not in table and "label" in table:
        table = table.rename(columns={"label": "dx"})
    stand_ins = {"image_id": table["file_name"], "synthetic": "true"}
    lacking = [c for c in COLUMNS if c not in table]
    return table.assign(**{c: stand_ins.get(c, "") for c in lacking})


def read_real(folder: str | Path, need_classes: bool = True) -> "pd.DataFrame":
    """A manifest of real images, with `path` for each; whole lesions in each split, unless it is marked leaky.

    Raises:
        InputError: if an image is synthetic or does not say, a lesion is in two splits, or a class is needed and blank.
    """
    from dermgen.data import splits

    table = _with_paths(folder)
    if (table["synthetic"] != "false").any():
        bad = table.loc[table["synthetic"] != "false"].iloc[0]
        raise InputError(
            f"{folder} must hold real images only, but {bad['image_id']} has synthetic = {bad['synthetic']!r}"
        )
    if need_classes and (table["dx"] == "").any():
        raise InputError(f"{folder}: {(table['dx'] == '').sum()} images have no dx, which is needed here")
    groups = splits.join_groups(table["lesion_id"], table["patient_id"])
    crossing = splits.crossing_groups(table["split"], groups)
    if crossing and not split_facts(folder)["leaky"]:
        raise InputError(
            f"{folder}: {crossing} lesions or patients are in more than one split, which makes every score worthless: "
            "split it with `dermgen prepare`"
        )
    return table


def read_synthetic(folder: str | Path) -> "pd.DataFrame":
    """A manifest of synthetic images, with `path` for each.

    Raises:
        InputError: if an image is real or does not say.
    """
    table = _with_paths(folder, synthetic_set=True)
    if (table["synthetic"] != "true").any():
        bad = table.loc[table["synthetic"] != "true"].iloc[0]
        raise InputError(
            f"{folder} must hold synthetic images only, but {bad['image_id']} has synthetic = {bad['synthetic']!r}: "
            "is it the folder of a real set?"
        )
    return table


def _with_paths(folder: str | Path, synthetic_set: bool = False) -> "pd.DataFrame":
    table = read(folder, synthetic_set)
    return table.assign(path=[str(Path(folder, name)) for name in table["file_name"]])


def write(table: "pd.DataFrame", folder: Path) -> None:
    """Write `table` as `folder/metadata.csv`, whole or not at all, the known columns first in their order.

    Raises:
        ValueError: if an image id or file name occurs twice, or a file name leaves the folder.
    """
    outside = [name for name in table["file_name"] if leaves_folder(name)]
    if outside:
        raise ValueError(f"file_name must stay in the folder, got {outside[0]!r}")
    for column in ("image_id", "file_name"):
        twice = table[column][table[column].duplicated()]
        if len(twice):
            raise ValueError(f"{column} must be unique, {twice.iloc[0]!r} occurs twice")
    for column in COLUMNS:
        if column not in table.columns:
            table = table.assign(**{column: ""})
    rest = [c for c in table.columns if c not in COLUMNS]
    write_csv(table[[*COLUMNS, *rest]], Path(folder, "metadata.csv"))


def write_view(table: "pd.DataFrame", source: Path, folder: Path) -> None:
    """A manifest of its own over the files of another: `table` as `folder/metadata.csv`, the files linked, not moved.

    Where the file system has no hard links, the files are copied.

    Args:
        table: rows of a manifest, with new columns.
        source: the folder that its `file_name` and `mask_file_name` are relative to.
        folder: the view.
    """
    for column in ("file_name", "mask_file_name"):
        for name in filter(None, table[column]):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # of an earlier view, perhaps over another set
            try:
                os.link(source / name, target)
            except OSError:
                shutil.copyfile(source / name, target)
    write(table, folder)


def write_csv(table: "pd.DataFrame", path: Path) -> None:
    """Write a table to `path`, whole or not at all."""
    with whole_file(path) as partial:
        table.to_csv(partial, index=False)


def split_facts(folder: str | Path) -> dict:
    """How a manifest was split, to be kept wherever something is learnt or measured on it.

    Returns:
        `leaky`, whether it was split by image on demand; `split_method`, "" where others split it and know lesions.
    """
    path = Path(folder, "prepare.json")
    if path.exists():
        prepared = json.loads(path.read_text())
        method = prepared.get("split_method")
        if method is None:
            method = OLD_SPLIT if _knows_groups(Path(folder, "metadata.csv")) else NO_GROUPS
        return {"leaky": bool(prepared.get("leaky")), "split_method": method}
    return {"leaky": False, "split_method": "" if _knows_groups(Path(folder, "metadata.csv")) else NO_GROUPS}


def is_of_earlier_version(folder: str | Path) -> bool:
    """Whether a manifest was split before the method was written down."""
    path = Path(folder, "prepare.json")
    return path.exists() and "split_method" not in json.loads(path.read_text())


def _knows_groups(path: Path) -> bool:
    """Whether a table tells the lesion or patient of any of its real images; true where it has none to tell of."""
    if not path.exists():
        return True
    table = tables.read_table(path)
    if not {"synthetic", "lesion_id", "patient_id"} <= set(table):
        return True
    real = [tables.truth(text) == "false" for text in table["synthetic"]]
    ids = table.loc[real, ["lesion_id", "patient_id"]]
    return ids.empty or any(tables.known(text) for text in ids.to_numpy().ravel())


def split_warnings(found: Mapping) -> list[str]:
    """What must be said beside every score on a split.

    Args:
        found: a result, or `facts`, that holds `split_facts`; those of earlier versions hold no `split_method`.
    """
    of_plain_folder = "licenses" in found and "audit" not in found  # facts of images that were never split
    method = found.get("split_method", "" if of_plain_folder else OLD_SPLIT)
    if found["leaky"]:
        return ["LEAKY: the data was split by image, so that one lesion is in several splits; do not trust scores"]
    if method == OLD_SPLIT:
        return [
            "OLD SPLIT: an earlier version split this data and gave nearly all lesions with several images to train; "
            "scores on it are not comparable with those on data that is prepared now"
        ]
    if method == NO_GROUPS:
        return ["NO GROUPS: without lesion or patient ids nobody can tell whether one lesion is in several splits"]
    return []


def identity(table: "pd.DataFrame") -> dict:
    """What a set of images is, whatever its folder is called: the hash of each file, and of the weights that drew them.

    Args:
        table: rows of a manifest with `path`.

    Returns:
        `sha256`, sorted, and `models`, the values of `model_sha256`.
    """
    from dermgen.data.cache import hash_file

    with ThreadPoolExecutor() as pool:
        hashes = sorted(set(pool.map(hash_file, table["path"])))
    return {"sha256": hashes, "models": sorted(set(table.get("model_sha256", [])) - {""})}


def facts(folder: str | Path, image_ids: Collection[str] | None = None) -> dict:
    """What is to be told of a manifest's images wherever they are learnt from, without a path or an id in it.

    Args:
        folder: of the manifest.
        image_ids: those that are meant; default all.

    Returns:
        `images`, `images_per_class`, `lesions` (None where they are unknown), `licenses` and `sources` ("" among them
        where one is unknown), `synthetic` (how many are), `leaky`, `split_method`, and of a prepared manifest
        `taxonomy`, `audit` and `preparation`.
    """
    table = read(folder, synthetic_set=True)
    if image_ids is not None:
        table = table[table["image_id"].isin(set(image_ids))]
    how = split_facts(folder)
    found = {
        "images": len(table),
        "images_per_class": {dx or "unknown": int(n) for dx, n in table["dx"].value_counts().sort_index().items()},
        "lesions": int(table["lesion_id"].nunique()) if (table["lesion_id"] != "").all() else None,
        "licenses": sorted(set(table["license"])),
        "sources": sorted(set(table["source"])),
        "synthetic": int((table["synthetic"] == "true").sum()),
        # Images that a model of a leaky split drew say so.
        "leaky": how["leaky"] or bool(table["source"].str.contains("LEAKY").any()),
        "split_method": how["split_method"],
    }
    path, settings = Path(folder, "prepare.json"), saved_settings(folder)
    prepared = json.loads(path.read_text()) if path.exists() else {}
    found |= {name: prepared[name] for name in ("taxonomy", "audit") if name in prepared}
    if prepared and settings:  # a copy of the images and the table alone has lost them
        found["preparation"] = {name: settings[name] for name in PREPARATION if name in settings}
    return found


def select(
    table: "pd.DataFrame", dx: str | None = None, split: str | None = None, where: str = "manifest"
) -> "pd.DataFrame":
    """Rows of one class and/or one split.

    Raises:
        InputError: if the class is unknown to the table, or nothing is left.
    """
    if dx is not None:
        known = sorted(set(table["dx"]) - {""})
        if dx not in known:
            raise InputError(f"unknown class {dx!r}: {where} has {', '.join(known)}")
        table = table[table["dx"] == dx]
    if split is not None:
        table = table[table["split"] == split]
    if table.empty:
        raise InputError(f"{where} has no images of class {dx or 'any'} in the split {split or 'any'!r}")
    return table
