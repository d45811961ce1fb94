"""Readers: what is on a user's disk (HAM10000, ISIC 2018/2019/2020, an image folder, a Hub data set) to one raw table.

A raw table has the manifest's descriptive columns, `path` of the image and `mask_path` ("" where there is none). Rows
that cannot be used are returned beside it with a reason, never dropped silently.
"""

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermgen.config import InputError
from dermgen.data.origins import PHANTOMS
from dermgen.data.preprocess import FORMATS
from dermgen.labels import BINARY, HAM10000, ISIC2019, LesionClass, Taxonomy, from_labels

RAW_COLUMNS = "image_id path mask_path dx lesion_id patient_id age sex localization caption source license".split()
CC_BY_NC = "CC BY-NC 4.0"


@dataclass(frozen=True)
class Source:
    """A raw table with its classes and the rows that were refused (`image_id, path, reason`)."""

    table: pd.DataFrame
    taxonomy: Taxonomy
    rejected: pd.DataFrame


def ham10000(data_dir: Path) -> Source:
    """HAM10000 as Kaggle or Dataverse give it: both image folders, the table (comma or tab), masks if there are any."""
    table = _read_table(_find(data_dir, "HAM10000_metadata", ".csv", ".tab", ".tsv", ".txt", ""))
    table = table.rename(columns={"image": "image_id"})
    _require(table, data_dir, "image_id", "lesion_id", "dx")
    drawn = table["dx_type"] == "drawn" if "dx_type" in table else pd.Series(False, index=table.index)
    table = table.assign(
        source=np.where(drawn, PHANTOMS, "HAM10000"), license=np.where(drawn, "CC0 1.0", CC_BY_NC)
    )  # `dermgen phantom` writes this layout; nobody's photographs
    return _match(table, data_dir, HAM10000, skip="segmentation")


def isic2018(data_dir: Path) -> Source:
    """ISIC 2018 task 3: one-hot GroundTruth.csv, LesionGroupings.csv."""
    table = _one_hot(_read_table(_find(data_dir, "ISIC2018_Task3_*GroundTruth", ".csv")))
    table = _join(table, _find(data_dir, "ISIC2018_Task3_*LesionGroupings", ".csv", needed=False))
    table = table.assign(source="ISIC 2018", license=CC_BY_NC)
    return _match(table, data_dir, HAM10000, skip="segmentation")


def isic2019(data_dir: Path) -> Source:
    """ISIC 2019: one-hot GroundTruth.csv, Metadata.csv with age_approx, anatom_site_general, lesion_id, sex."""
    table = _one_hot(_read_table(_find(data_dir, "ISIC_2019_*GroundTruth", ".csv")))
    table = _join(table, _find(data_dir, "ISIC_2019_*Metadata", ".csv", needed=False))
    table = table.rename(columns={"age_approx": "age", "anatom_site_general": "localization"})
    table = table.assign(source="ISIC 2019", license=CC_BY_NC)
    return _match(table, data_dir, ISIC2019, skip="segmentation")


def isic2020(data_dir: Path) -> Source:
    """ISIC 2020: image_name, patient_id, lesion_id in the second version, benign_malignant; classes are those two."""
    found = [p for pattern in ("ISIC_2020_*GroundTruth", "train") for p in _matching(data_dir, pattern, (".csv",))]
    if not found:
        raise InputError(f"{data_dir} has neither ISIC_2020_Training_GroundTruth.csv nor train.csv")
    table = _read_table(max(found, key=lambda p: "v2" in p.stem))
    _require(table, data_dir, "image_name", "patient_id", "benign_malignant")
    table = table.rename(
        columns={
            "image_name": "image_id",
            "benign_malignant": "dx",
            "age_approx": "age",
            "anatom_site_general_challenge": "localization",
        }
    )
    table = table.assign(source="ISIC 2020", license=CC_BY_NC)
    return _match(table, data_dir, BINARY, skip="segmentation")


def imagefolder(data_dir: Path) -> Source:
    """A folder per class, or a `metadata.csv` with `file_name` and `dx` or `label`; sub-folders count as well."""
    path = data_dir / "metadata.csv"
    if path.exists():
        table = _read_table(path)
        _require(table, data_dir, "file_name")
        if "dx" not in table:
            _require(table, data_dir, "label")
            table = table.rename(columns={"label": "dx"})
        if "image_id" not in table:
            table["image_id"] = [Path(name).with_suffix("").as_posix().replace("/", "_") for name in table["file_name"]]
        table["path"] = [str(data_dir / name) for name in table["file_name"]]
        if "mask_file_name" in table:
            table["mask_path"] = [str(data_dir / name) if name else "" for name in table["mask_file_name"]]
        return _finish(table, from_labels(table["dx"]), data_dir)
    folders = sorted(p for p in data_dir.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"{data_dir} has no folder per class and no metadata.csv")
    rows = [
        {
            "image_id": f"{folder.name}_{path.relative_to(folder).with_suffix('').as_posix().replace('/', '_')}",
            "path": str(path),
            "dx": folder.name,
        }
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.name != "Thumbs.db"
    ]
    if not rows:
        raise InputError(f"the class folders of {data_dir} are empty: {', '.join(f.name for f in folders)}")
    empty = [f.name for f in folders if f.name not in {row["dx"] for row in rows}]
    if empty:
        raise InputError(f"class folder {empty[0]!r} of {data_dir} is empty: fill it or remove it")
    return _finish(pd.DataFrame(rows), from_labels(f.name for f in folders), data_dir)


def hub_dataset(
    dataset_id: str, download_dir: Path, image_column: str, label_column: str, group_column: str | None, split: str
) -> Source:
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
        image = item[image_column]
        name = Path(image["path"] or "image.png")
        path = download_dir / f"{i:07d}{name.suffix or '.png'}"
        if not path.exists():
            if image["bytes"] is not None:
                path.write_bytes(image["bytes"])
            else:
                shutil.copyfile(image["path"], path)
        label = "" if item[label_column] is None else name_of(item[label_column])
        known = [k for k in ("age", "sex", "localization", "patient_id", "caption") if k in item]
        extra = {k: "" if item[k] is None else str(item[k]) for k in known}
        group = str(item[group_column]) if group_column else ""
        rows.append({"image_id": f"{i:07d}", "path": str(path), "dx": label, "lesion_id": group, **extra})
    table = pd.DataFrame(rows).assign(source=dataset_id)
    return _finish(table, from_labels(table["dx"]), download_dir)


READERS: dict[str, Callable[[Path], Source]] = {
    "ham10000": ham10000,
    "isic2018": isic2018,
    "isic2019": isic2019,
    "isic2020": isic2020,
    "imagefolder": imagefolder,
}


def _match(table: pd.DataFrame, data_dir: Path, taxonomy: Taxonomy, skip: str) -> Source:
    """Give each row its image and mask by id, and report rows and files that have no partner."""
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    for path in sorted(data_dir.rglob("*")):
        if path.suffix.lower() not in FORMATS or path.name.startswith("."):
            continue
        if skip in path.relative_to(data_dir).as_posix().lower():
            masks[path.stem.lower().removesuffix("_segmentation")] = path
        else:
            images[path.stem.removesuffix("_downsampled")] = path
    table = table.assign(
        path=[str(images.get(i, "")) for i in table["image_id"]],
        mask_path=[str(masks.get(i.lower(), "")) for i in table["image_id"]],
    )
    strays = sorted(images.keys() - set(table["image_id"]))
    orphans = pd.DataFrame(
        {"image_id": strays, "path": [str(images[i]) for i in strays], "reason": "missing from the table"}
    )
    source = _finish(table, taxonomy, data_dir)
    return Source(source.table, taxonomy, pd.concat([source.rejected, orphans], ignore_index=True))


def _finish(table: pd.DataFrame, taxonomy: Taxonomy, data_dir: Path) -> Source:
    """Canonical columns and class codes; refuse rows without an image, with an unknown label or a repeated id."""
    for column in RAW_COLUMNS:
        if column not in table:
            table[column] = ""
    table = table[RAW_COLUMNS].copy()
    for column in ("lesion_id", "patient_id", "sex", "localization"):
        table[column] = table[column].where(~table[column].str.lower().isin(["unknown", "nan", "none"]), "")
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    classes: list[LesionClass | None] = [taxonomy.find(label) if label.strip() else None for label in table["dx"]]
    on_disk = {str(p) for p in data_dir.rglob("*")}
    reasons = []
    seen: set[str] = set()
    for image_id, path, label, lesion in zip(table["image_id"], table["path"], table["dx"], classes, strict=True):
        if image_id in seen:
            reasons.append("duplicate id")
        elif path not in on_disk:
            reasons.append("missing from disk")
        elif lesion is None:
            reasons.append(f"unknown label {label!r}")
        else:
            reasons.append("")
        seen.add(image_id)
    table["dx"] = [lesion.code if lesion else label for lesion, label in zip(classes, table["dx"], strict=True)]
    table["reason"] = reasons
    good = table["reason"] == ""
    rejected = table.loc[~good, ["image_id", "path", "reason"]].reset_index(drop=True)
    return Source(table[good].drop(columns="reason").reset_index(drop=True), taxonomy, rejected)


def _one_hot(table: pd.DataFrame) -> pd.DataFrame:
    """`image, MEL, NV, …` with one 1 a row to `image_id, dx`; a row without a 1 gets no label."""
    table = table.rename(columns={"image": "image_id"})
    codes = [c for c in table.columns if c not in ("image_id", "score_weight", "validation_weight")]
    values = table[codes].apply(pd.to_numeric).to_numpy()
    labels = [codes[int(row.argmax())].lower() if row.max() > 0.5 else "" for row in values]
    # A downsampled photograph keeps its place in the table under the longer name.
    ids = [i.removesuffix("_downsampled") for i in table["image_id"]]
    return pd.DataFrame({"image_id": ids, "dx": labels})


def _join(table: pd.DataFrame, path: Path | None) -> pd.DataFrame:
    if path is None:
        return table
    more = _read_table(path).rename(columns={"image": "image_id"})
    more["image_id"] = [i.removesuffix("_downsampled") for i in more["image_id"]]
    return table.merge(more.drop_duplicates("image_id"), on="image_id", how="left").fillna("")


def _read_table(path: Path) -> pd.DataFrame:
    """A comma- or tab-separated table as text, quotes around Dataverse's cells removed."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        separator = "\t" if "\t" in file.readline() else ","
    try:
        return pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", quoting=csv.QUOTE_MINIMAL
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"cannot read the table {path}: {error}") from error


def _find(data_dir: Path, stem: str, *suffixes: str, needed: bool = True) -> Path | None:
    found = _matching(data_dir, stem, suffixes)
    if not found and needed:
        raise InputError(
            f"{data_dir} has no {stem}{suffixes[0]}: is it the folder that the download was unpacked into?"
        )
    return found[0] if found else None


def _matching(data_dir: Path, stem: str, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(
        (p for p in data_dir.rglob(stem + "*") if p.is_file() and p.suffix.lower() in suffixes),
        key=lambda p: (len(p.parts), p),
    )


def _require(table: pd.DataFrame, data_dir: Path, *columns: str) -> None:
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError(f"the table in {data_dir} lacks the column {missing[0]!r}: it has {', '.join(table.columns)}")
