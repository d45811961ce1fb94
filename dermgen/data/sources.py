"""Readers: from a user's data (HAM10000, ISIC 2018/2019/2020, an image folder, a Hub data set) to one raw table.

A raw table has the manifest's descriptive columns, `path` of the image, `mask_path` ("" without a mask), and then all
other columns of the user's table, among which `groups.find_groups` may recognise lesions or patients. Unusable rows are
returned beside it with a reason, never dropped silently.
"""

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from dermgen.blocks import counted
from dermgen.config import InputError, whole_file
from dermgen.data import files, groups, tables
from dermgen.data.names import image_ids
from dermgen.data.origins import PHANTOMS
from dermgen.data.preprocess import FORMATS
from dermgen.labels import BINARY, HAM10000, ISIC2019, TAXONOMIES, LesionClass, Taxonomy, from_labels

RAW_COLUMNS = (
    "image_id path mask_path dx lesion_id patient_id age sex localization dx_type caption source license".split()
)
CC_BY_NC = "CC BY-NC 4.0"
NO_FILE, NO_ROW, NO_CLASS = "missing from disk", "missing from the table", "none of the classes (UNK)"
# Missing or additional parts of a download do not mean that a file is bad.
NO_FOLDER = "in no class folder"
NOT_BAD = (NO_FILE, NO_ROW, NO_CLASS, NO_FOLDER, files.OTHER_FILE, files.OTHER_KIND)  # how such reasons begin
SPLIT_WORDS = {
    **dict.fromkeys(["train", "training"], "train"),
    **dict.fromkeys(["val", "valid", "validation"], "val"),
    **dict.fromkeys(["test", "testing"], "test"),
}


@dataclass(frozen=True)
class RawTable:
    """What a reader finds on disk: a raw table, its classes, and the rows refused (`image_id, path, reason`).

    `notes` are sentences about the data, `unclear` counts the cells of a column that were read as unknown. The table
    has a column `split` if the folder comes with one.
    """

    table: pd.DataFrame
    taxonomy: Taxonomy
    rejected: pd.DataFrame
    notes: tuple[str, ...] = ()
    unclear: dict[str, dict[str, int]] | None = None


def ham10000(data_dir: Path) -> RawTable:
    """HAM10000 from Kaggle or Dataverse: both image folders, the table (comma or tab), and masks if present."""
    table = _read(_find(data_dir, "HAM10000_metadata", ".csv", ".tab", ".tsv", ".txt", ""))
    _require(table, data_dir, "image_id", "lesion_id", "dx")
    drawn = table["dx_type"] == "drawn" if "dx_type" in table else pd.Series(False, index=table.index)
    table = table.assign(
        source=np.where(drawn, PHANTOMS, "HAM10000"), license=np.where(drawn, "CC0 1.0", CC_BY_NC)
    )  # `dermgen phantom` writes this layout too
    return _match(table, data_dir, HAM10000, r"HAM10000_images_part_\d")


def isic2018(data_dir: Path) -> RawTable:
    """ISIC 2018 task 3: one-hot GroundTruth.csv, LesionGroupings.csv."""
    path, part = _ground_truth(data_dir, "ISIC2018_Task3_{}_GroundTruth")
    table = _join(_one_hot(_read(path), HAM10000), _find(data_dir, "*LesionGroupings", ".csv", needed=False))
    table = table.assign(source="ISIC 2018", license=CC_BY_NC)
    return _match(table, data_dir, HAM10000, f"ISIC2018_Task3_{part}_(Input|Images)")


def isic2019(data_dir: Path) -> RawTable:
    """ISIC 2019: one-hot GroundTruth.csv, Metadata.csv with age_approx, anatom_site_general, lesion_id, sex."""
    path, part = _ground_truth(data_dir, "ISIC_2019_{}_GroundTruth")
    table = _join(_one_hot(_read(path), ISIC2019), _find(data_dir, f"ISIC_2019_{part}_Metadata", ".csv", needed=False))
    table = table.rename(columns={"age_approx": "age", "anatom_site_general": "localization"})
    table = table.assign(source="ISIC 2019", license=CC_BY_NC)
    return _match(table, data_dir, ISIC2019, f"ISIC_2019_{part}_Input")


def isic2020(data_dir: Path) -> RawTable:
    """ISIC 2020: image_name, patient_id, lesion_id in the second version, benign_malignant; classes are those two."""
    labels = [p for pattern in ("ISIC_2020_*GroundTruth", "train") for p in _matching(data_dir, pattern, (".csv",))]
    if not labels:
        raise InputError(f"{data_dir} has neither ISIC_2020_Training_GroundTruth.csv nor train.csv")
    table = _read(max(labels, key=lambda p: "v2" in p.stem))
    _require(table, data_dir, "image_id", "patient_id", "benign_malignant")
    table = table.rename(
        columns={
            "benign_malignant": "dx",
            "age_approx": "age",
            "anatom_site_general_challenge": "localization",
        }
    )
    table = table.assign(source="ISIC 2020", license=CC_BY_NC)
    return _match(table, data_dir, BINARY, "train|ISIC_2020_Training_(JPEG|Input)")


def imagefolder(data_dir: Path) -> RawTable:
    """A folder per class, or a `metadata.csv` with `file_name` and `dx` or `label`; subfolders are included."""
    path = data_dir / "metadata.csv"
    if path.with_suffix(".jsonl").exists() and not path.exists():
        raise InputError(f"{path.with_suffix('.jsonl')} is not read: save it as metadata.csv with file_name and dx")
    if path.exists():
        return _table_of_files(_read(path), data_dir)
    root = _unwrap(data_dir)
    folders = _folders(root)
    if not folders:
        raise InputError(f"{data_dir} has no folder per class and no metadata.csv")
    named = [f for f in folders if f.name.lower() in SPLIT_WORDS]
    parts = [(SPLIT_WORDS[f.name.lower()], c) for f in named for c in _folders(f)]
    if len(named) > 1 and parts:
        return _class_folders(root, parts)
    return _class_folders(root, [("", f) for f in folders])


def _class_folders(root: Path, parts: Sequence[tuple[str, Path]]) -> RawTable:
    """The photographs of class folders, each with the name of its split or ""."""
    listed = {folder: files.image_files(folder) for _, folder in parts}
    stems = {f: [p.stem for other, paths in listed.items() if other != f for p in paths] for f in listed}
    mask_folders = [f for f in listed if len(listed) > 1 and files.is_mask_folder(f, stems[f])]
    parts = [(split, f) for split, f in parts if f not in mask_folders]
    if not any(listed[f] for _, f in parts):
        raise InputError(f"the class folders of {root} are empty: {', '.join(f.name for _, f in parts)}")
    if empty := [f for _, f in parts if not listed[f]]:
        raise InputError(f"class folder {empty[0].name!r} of {root} is empty: fill it or remove it")
    masks = [p for f in mask_folders for p in listed[f]]
    rows = [
        {"path": str(path), "mask_path": mask, "dx": folder.name, "split": split}
        for split, folder in parts
        for path, mask in files.match_class_folder(folder, masks)
    ]
    table = pd.DataFrame(rows)
    table["image_id"] = image_ids([Path(path).relative_to(root).as_posix() for path in table["path"]])
    notes, classes = [], sorted({f.name for _, f in parts})
    if splits := sorted({split for split, _ in parts} - {""}):
        notes.append(f"the folders {', '.join(splits)} hold the classes: --keep_split true keeps that split")
    else:
        table = table.drop(columns="split")
    if len(classes) == 1:
        notes.append(f"one class only: {classes[0]!r}")
    if captions := sum(len(list(f.rglob("*.txt"))) for _, f in parts):
        files_are = counted(captions, ".txt file beside the images is", ".txt files beside the images are")
        notes.append(f"{files_are} not read: captions belong in a metadata.csv")
    others = [other for _, folder in parts for other in files.other_files(folder)]
    outside = [str(p) for p in files.image_files(root) if not listed.keys() & set(p.parents)]
    if outside:
        images_are = counted(len(outside), "image is", "images are")
        notes.append(f"{images_are} in no class folder and not used, such as {outside[0]}")
    others += [(path, NO_FOLDER) for path in outside]
    return _finish(table, from_labels(classes), notes, others)


def _table_of_files(table: pd.DataFrame, data_dir: Path) -> RawTable:
    """The rows of a `metadata.csv` that names its files."""
    _require(table, data_dir, "file_name")
    if "dx" not in table:
        _require(table, data_dir, "label")
        table = table.rename(columns={"label": "dx"})
    if "caption" not in table and "text" in table:
        table = table.rename(columns={"text": "caption"})
    if "image_id" not in table:
        table["image_id"] = image_ids(table["file_name"])
    table["path"] = [str(p) for p in files.find_names(data_dir, table["file_name"])]
    if "mask_file_name" in table:
        masks = files.find_names(data_dir, table["mask_file_name"])
        table["mask_path"] = [str(p) if n else "" for n, p in zip(table["mask_file_name"], masks, strict=True)]
    return _finish(table.drop(columns="split", errors="ignore"), from_labels(table["dx"]))


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _unwrap(folder: Path) -> Path:
    """The folder that holds the class folders: a single folder of folders around them is not a class."""
    inside = _folders(folder)
    if len(inside) != 1 or any(t.find(inside[0].name) for t in TAXONOMIES.values()):
        return folder
    if any(p.suffix.lower() in FORMATS for p in inside[0].iterdir()):
        return folder
    below = _unwrap(inside[0])
    return below if below != inside[0] or len(_folders(below)) > 1 else folder


def hub_dataset(
    dataset_id: str, download_dir: Path, image_column: str, label_column: str, group_column: str | None, split: str
) -> RawTable:
    """A data set that `datasets.load_dataset` can load, by Hub id or local folder; its images are copied as files.

    Raises:
        InputError: if it cannot be loaded or lacks a column.
    """
    import datasets

    try:
        data = datasets.load_dataset(dataset_id, split=split)
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        raise InputError(f"cannot load the data set {dataset_id!r} ({error}); give a Hub id or a folder") from error
    for column in filter(None, (image_column, label_column, group_column)):
        if column not in data.column_names:
            raise InputError(f"{dataset_id} has no column {column!r}: it has {', '.join(data.column_names)}")
    feature = data.features[label_column]
    name_of: Callable = feature.int2str if hasattr(feature, "int2str") else str
    data = data.cast_column(image_column, datasets.Image(decode=False))
    download_dir.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, item in enumerate(data):
        path = _copy(item[image_column], download_dir / f"{i:07d}")
        label = "" if item[label_column] in (None, -1) else name_of(item[label_column])
        known = [k for k in item if k in ("age", "sex", "localization", "caption", group_column) or groups.usual(k)]
        extra = {k: "" if item[k] is None else str(item[k]) for k in known}
        rows.append({"image_id": f"{i:07d}", "path": str(path), "dx": label, **extra})
    table = pd.DataFrame(rows).assign(source=dataset_id)
    return _finish(table, from_labels(table["dx"]))


def _copy(image: dict | None, stem: Path) -> str:
    """The image of a row as a file whose ending is that of its format, written whole; "" if the row has no image."""
    if image is None or (image["bytes"] is None and not image["path"]):
        return ""
    data = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    try:
        file_format = Image.open(io.BytesIO(data)).format
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        file_format = None  # it is refused with a reason when it is read
    suffix = next((s for s, f in FORMATS.items() if f == file_format), Path(image["path"] or "").suffix or ".png")
    path = stem.with_suffix(suffix)
    if not path.exists() or path.stat().st_size != len(data):
        with whole_file(path) as partial:
            partial.write_bytes(data)
    return str(path)


READERS: dict[str, Callable[[Path], RawTable]] = {
    "ham10000": ham10000,
    "isic2018": isic2018,
    "isic2019": isic2019,
    "isic2020": isic2020,
    "imagefolder": imagefolder,
}


def _match(table: pd.DataFrame, data_dir: Path, taxonomy: Taxonomy, photo_folder: str) -> RawTable:
    """Find the image and mask of each row by id, and report rows and files without a partner."""
    matched = files.match_ids(list(table["image_id"]), data_dir, photo_folder)
    source = _finish(table.assign(path=matched.photos, mask_path=matched.masks), taxonomy)
    unused = _listed((path.stem, str(path), reason) for path, reason in matched.unused)
    return replace(source, rejected=pd.concat([source.rejected, unused], ignore_index=True))


def _finish(
    table: pd.DataFrame, taxonomy: Taxonomy, notes: Sequence[str] = (), others: Sequence[tuple[str, str]] = ()
) -> RawTable:
    """Canonical columns and class codes; rows without an image, with an unknown label or a repeated id are rejected."""
    table = table.rename(columns={"diagnosis_confirm_type": "dx_type"})  # its name in the ISIC archive
    for column in RAW_COLUMNS:
        if column not in table:
            table[column] = ""
    further = [c for c in table if c not in RAW_COLUMNS]
    table = table[[*RAW_COLUMNS, *further]].copy()
    unclear: dict[str, dict[str, int]] = {}
    for column, understand in (("age", tables.age), ("sex", tables.sex)):
        given = [tables.known(text) for text in table[column]]
        table[column] = [understand(text) for text in given]
        lost = Counter(g for g, kept in zip(given, table[column], strict=True) if g and (kept == "" or kept != kept))
        unclear |= {column: dict(lost)} if lost else {}
    for column in ("lesion_id", "patient_id", "localization", "dx_type", "source", "license", *further):
        table[column] = [tables.known(text) for text in table[column]]
    classes: list[LesionClass | None] = [taxonomy.find(label) if label.strip() else None for label in table["dx"]]
    reasons = []
    seen: set[str] = set()
    for image_id, path, label, lesion in zip(table["image_id"], table["path"], table["dx"], classes, strict=True):
        if image_id in seen:
            reasons.append("duplicate id")
        elif not path or not os.path.lexists(path):
            reasons.append(NO_FILE)
        elif not Path(path).is_file():
            reasons.append("broken link" if Path(path).is_symlink() else "not a file")
        elif lesion is None:
            reasons.append(NO_CLASS if label == "unk" else f"unknown label {label!r}" if label else "no label")
        else:
            reasons.append("")
        seen.add(image_id)
    table["dx"] = [lesion.code if lesion else label for lesion, label in zip(classes, table["dx"], strict=True)]
    table["reason"] = reasons
    good = table["reason"] == ""
    rejected = table.loc[~good, ["image_id", "path", "reason"]]
    rejected = pd.concat([rejected, _listed(("", path, reason) for path, reason in others)], ignore_index=True)
    table = table[good].drop(columns="reason").reset_index(drop=True)
    return RawTable(table, taxonomy, rejected, tuple(notes), unclear)


def _listed(rows: Iterable[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["image_id", "path", "reason"], dtype=str)


def _one_hot(table: pd.DataFrame, taxonomy: Taxonomy) -> pd.DataFrame:
    """`image, MEL, NV, …` with a single 1 per row to `image_id, dx`; a row without a 1 gets no label."""
    if "dx" in table:  # the test set from Dataverse
        return table
    codes = [c for c in table.columns if taxonomy.find(c) or c == "unk"]
    if not codes:
        raise InputError(f"the table of labels has no column for any class: it has {', '.join(table.columns)}")
    values = table[codes].apply(lambda c: pd.to_numeric(c.str.replace(",", "."), errors="coerce")).fillna(0)
    labels = [codes[int(row.argmax())].lower() if row.max() > 0.5 else "" for row in values.to_numpy()]
    return pd.DataFrame({"image_id": table["image_id"], "dx": labels})


def _join(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    if path is None:
        return table
    more = _read(path).drop_duplicates("image_id")
    more = more[["image_id", *(c for c in more if c not in table)]]
    return table.merge(more, on="image_id", how="left").fillna("")


def _read(path: Path) -> pd.DataFrame:
    """A table with column names in lower case and its ids, in `image_id`, without the endings of file names."""
    table = tables.read_table(path)
    table.columns = [c.lower() for c in table.columns]
    for name in ("image", "image_name", "isic_id"):
        if name in table and "image_id" not in table:
            table = table.rename(columns={name: "image_id"})
    if "image_id" in table:
        endings = tuple(FORMATS)
        ids = [i.rsplit(".", 1)[0] if i.lower().endswith(endings) else i for i in table["image_id"]]
        # A downsampled photograph keeps its place in the table under the longer name.
        table["image_id"] = [i.removesuffix("_downsampled") for i in ids]
    return table


def _ground_truth(data_dir: Path, pattern: str) -> tuple[Path, str]:
    """The table of labels and its part of the challenge: the training part, or the only one present."""
    for part in ("Training", "Validation", "Test"):
        if path := _find(data_dir, pattern.format(part), ".csv", needed=False):
            return path, part
    return _find(data_dir, pattern.format("*"), ".csv"), ".*"


def _find(data_dir: Path, stem: str, *suffixes: str, needed: bool = True) -> Path | None:
    paths = _matching(data_dir, stem, suffixes)
    if not paths and _matching(data_dir, stem, (".xlsx", ".xls")):
        workbook = _matching(data_dir, stem, (".xlsx", ".xls"))[0]
        raise InputError(f"{workbook} is an Excel workbook: save its sheet as CSV (UTF-8) and run again")
    if not paths and needed:
        raise InputError(
            f"{data_dir} has no {stem}{suffixes[0]}: is it the folder that the download was unpacked into?"
        )
    best = [p for p in paths if _rank(p, stem) == _rank(paths[0], stem)]
    if any(not tables.read_table(p).equals(tables.read_table(best[0])) for p in best[1:]):
        raise InputError(f"two tables with different content match, {best[0]} and {best[1]}: keep only one of them")
    return paths[0] if paths else None


def _matching(data_dir: Path, stem: str, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        (p for p in files.walk(data_dir) if fnmatchcase(p.name, f"{stem}*") and p.suffix.lower() in suffixes),
        key=lambda p: (*_rank(p, stem), p),
    )


def _rank(path: Path, stem: str) -> tuple[bool, int]:
    """Tables with exactly this name come first, then those in the fewest folders."""
    return path.stem != stem, len(path.parts)


def _require(table: pd.DataFrame, data_dir: Path, *columns: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError(f"the table in {data_dir} lacks the column {missing[0]!r}: it has {', '.join(table.columns)}")
