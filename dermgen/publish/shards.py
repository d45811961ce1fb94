"""The files of a data set repository: shards of images with what is known of each, as Parquet or WebDataset."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from dermgen.data.names import file_stem, file_stems
from dermgen.labels import from_labels

if TYPE_CHECKING:
    import datasets

# What is published of each image, in this order; all text but for the lists below.
COLUMNS = (
    "image_id dx caption synthetic age sex localization lesion_id source license prompt prompt_read negative_prompt "
    "negative_prompt_read seed index model model_sha256 guidance_scale num_inference_steps scheduler strength "
    "truncation source_image_id leaky quality_score kept nearest_train_id nearest_train_distance copy"
).split()
WHOLE_NUMBERS = "seed index num_inference_steps".split()
NUMBERS = "age guidance_scale strength truncation quality_score nearest_train_distance".split()
TRUTHS = "synthetic leaky kept copy".split()
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # as the Hub calls them
TAR_FROM = 10 * 2**30  # bytes of images
ROWS_OF_A_GROUP = 100  # that streaming reads at a time


def in_tar(rows: pd.DataFrame, layout: Literal["auto", "parquet", "webdataset"]) -> bool:
    """Whether the images are written as WebDataset: on request, and otherwise if they are many."""
    return layout == "webdataset" or (layout == "auto" and sum(_sizes(rows)) > TAR_FROM)


def write(rows: pd.DataFrame, folder: Path, tar: bool, max_bytes: int) -> None:
    """Write the shards of every split.

    Args:
        rows: of a manifest, with `path`.
        folder: of the shards.
        tar: as WebDataset, not as Parquet.
        max_bytes: of images in a shard.
    """
    classes = [code for code in from_labels(rows["dx"]).codes if code in set(rows["dx"])]
    for split, name in SPLITS.items():
        part = rows[rows["split"] == split]
        if len(part):
            (write_webdataset if tar else write_parquet)(part, classes, folder, name, max_bytes)


def write_parquet(rows: pd.DataFrame, classes: Sequence[str], folder: Path, split: str, max_bytes: int) -> None:
    """Shards `split-00000-of-N.parquet` that hold the files' bytes, which `datasets` reads as images.

    pyarrow writes a group of rows at a time, so memory does not grow with the set. `datasets` has no such writer:
    `IterableDataset.to_parquet` collects the whole set in memory, and `Dataset.to_parquet` a second copy on disk.

    Args:
        rows: of a manifest, with `path`; the columns of `COLUMNS` among theirs are written.
        classes: codes in the order of the label's numbers.
        folder: of the shards.
        split: a split's name.
        max_bytes: of images in a shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = features(rows, classes).arrow_schema
    folder.mkdir(exist_ok=True)
    shards = list(_shards(rows, max_bytes))
    for i, shard in enumerate(shards):
        path = folder / f"{split}-{i:05d}-of-{len(shards):05d}.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for start in range(0, len(shard), ROWS_OF_A_GROUP):
                group = shard.iloc[start : start + ROWS_OF_A_GROUP].to_dict("records")
                records = [{"image": _image(row), **_values(row, classes)} for row in group]
                writer.write_table(pa.Table.from_pylist(records, schema))


def write_webdataset(rows: pd.DataFrame, classes: Sequence[str], folder: Path, split: str, max_bytes: int) -> None:
    """Shards `split-00000.tar` of `ID.png` and `ID.json`, which names the class; arguments as of `write_parquet`."""
    folder.mkdir(exist_ok=True)
    for i, shard in enumerate(_shards(rows, max_bytes)):
        with tarfile.open(folder / f"{split}-{i:05d}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            keys = file_stems(list(shard["image_id"]), dots=False)  # WebDataset's keys end at the first dot
            for key, row in zip(keys, shard.to_dict("records"), strict=True):
                image = Path(row["path"])
                values = _values(row, classes) | {"dx": row["dx"]}
                _add(tar, key + image.suffix.lower(), image.read_bytes())
                _add(tar, key + ".json", json.dumps(values).encode())


def with_values(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those columns of `COLUMNS` that are empty everywhere; the class stays."""
    empty = [c for c in COLUMNS if c != "dx" and c in rows and (rows[c].isna() | (rows[c] == "")).all()]
    return rows.drop(columns=empty)


def features(rows: pd.DataFrame, classes: Sequence[str]) -> "datasets.Features":
    """The types of the published columns that `rows` has."""
    import datasets

    kinds = {name: datasets.Value("float64") for name in NUMBERS} | {name: datasets.Value("bool") for name in TRUTHS}
    kinds |= {name: datasets.Value("int64") for name in WHOLE_NUMBERS}
    kinds["dx"] = datasets.ClassLabel(names=list(classes)) if classes else datasets.Value("string")
    columns = {name: kinds.get(name, datasets.Value("string")) for name in COLUMNS if name in rows}
    return datasets.Features({"image": datasets.Image(), **columns})


def tar_features(rows: pd.DataFrame) -> "datasets.Features":
    """How `datasets` reads the tar shards."""
    import datasets

    facts = {name: kind for name, kind in features(rows, []).items() if name != "image"}
    images = {name: datasets.Image() for name in image_columns(rows)}
    text = datasets.Value("string")
    return datasets.Features({**images, "json": facts, "__key__": text, "__url__": text})


def image_columns(rows: pd.DataFrame) -> list[str]:
    """Names of the columns of images in tar shards: a file's ending."""
    return sorted({Path(path).suffix.lower()[1:] for path in rows["path"]})


def _image(row: dict[str, Any]) -> dict[str, Any]:
    path = Path(row["path"])
    return {"bytes": path.read_bytes(), "path": file_stem(row["image_id"]) + path.suffix.lower()}


def _values(row: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """The published columns of a row as typed values, None where unknown."""
    values: dict[str, Any] = {}
    for name in (c for c in COLUMNS if c in row):
        value = row[name]
        if value == "" or value is None or (isinstance(value, float) and np.isnan(value)):
            values[name] = None
        elif name in TRUTHS:
            values[name] = value == "true"
        elif name in WHOLE_NUMBERS:
            values[name] = int(float(value))
        elif name in NUMBERS:
            values[name] = float(value)
        elif name == "dx" and classes:
            values[name] = list(classes).index(value)
        else:
            values[name] = str(value)
    return values


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _shards(rows: pd.DataFrame, max_bytes: int) -> Iterator[pd.DataFrame]:
    """Consecutive rows whose files are together as large as a shard may be; at least one image each."""
    start = total = 0
    for i, size in enumerate(_sizes(rows)):
        if i > start and total + size > max_bytes:
            yield rows.iloc[start:i]
            start, total = i, 0
        total += size
    yield rows.iloc[start:]


def _sizes(rows: pd.DataFrame) -> list[int]:
    """Bytes of each file."""
    return [Path(path).stat().st_size for path in rows["path"]]
