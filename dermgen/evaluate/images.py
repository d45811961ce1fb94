"""The images to compare, from a manifest or a plain folder, with their classes, lesions and subgroups."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dermgen.config import InputError
from dermgen.data import manifest, splits
from dermgen.data.image_files import check_readable, folder_images, read_pixels
from dermgen.data.set_facts import SetFacts
from dermgen.data.skin_tone import TONES, tone, typology_angle

AGE_BANDS = ((0, 30, "under 30"), (30, 50, "30 to 49"), (50, 70, "50 to 69"), (70, 200, "70 and over"))


def read(folder: str | Path, synthetic: bool, dropped_too: bool = False) -> pd.DataFrame:
    """Rows of a manifest, or of a plain folder, that can all be read.

    Args:
        folder: with metadata.csv or without.
        synthetic: whether its images must be synthetic or real, which a plain folder does not record.
        dropped_too: include images that `dermgen filter` dropped.

    Returns:
        The manifest's columns, `path`, `sha256` of the file, and `group`, its lesion or patient.

    Raises:
        InputError: if there are no images, some cannot be read, or see `manifest.read_real`, `manifest.read_synthetic`.
    """
    if Path(folder).is_dir() and not Path(folder, "metadata.csv").exists():
        table = _of_plain_folder(folder, "synthetic" if synthetic else "real")
    else:
        table = manifest.read_synthetic(folder) if synthetic else manifest.read_real(folder, need_classes=False)
        table = table if dropped_too else manifest.kept(table, folder)
    check_readable(list(table["path"]))
    table = table.reset_index(drop=True)
    return table.assign(
        group=splits.join_groups(table["lesion_id"], table["patient_id"]), sha256=manifest.hashes(table)
    )


def _of_plain_folder(folder: str | Path, what: str) -> pd.DataFrame:
    """All columns of a manifest, with nothing known of the images."""
    table = pd.DataFrame(folder_images(folder, what), columns=["image_id", "path"])
    table["file_name"] = [Path(path).name for path in table["path"]]
    return table.assign(age=np.nan, **{c: "" for c in manifest.COLUMNS if c not in (*table.columns, "age")})


def facts(folder: str | Path) -> dict | None:
    """Facts of the images of a manifest; None for a plain folder."""
    return SetFacts.of(folder).to_json() if Path(folder, "metadata.csv").exists() else None


def reference_sets(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Row numbers of the held-out images (the test split) and of the training images (the train split).

    Without splits, as in a plain folder, all images are held out.

    Raises:
        InputError: if there are splits, but no test split.
    """
    held_out = np.flatnonzero(table["split"] == "test")
    train = np.flatnonzero(table["split"] == "train")
    if not len(held_out) and (table["split"] != "").any():
        raise InputError(
            "the real set has no test split, and images that a model was trained on cannot judge it: hold out images "
            "with `dermgen prepare --split`"
        )
    return {"held_out": held_out if len(held_out) else np.arange(len(table)), "train": train}


def subgroups(table: pd.DataFrame) -> pd.DataFrame:
    """Class, site, sex, age band and skin tone of every image, "" where unknown.

    Skin is located without lesion masks, since synthetic images have none and both sides must be measured alike.
    """
    bands = [next((name for low, high, name in AGE_BANDS if low <= age < high), "") for age in table["age"]]
    with ThreadPoolExecutor() as pool:
        angles = list(pool.map(_angle, table["path"]))
    return pd.DataFrame(
        {
            "class": table["dx"],
            "site": table["localization"],
            "sex": table["sex"],
            "age": bands,
            "skin tone": [tone(angle) for angle in angles],
        },
        index=table.index,
    )


def in_order(scope: str, values: Iterable[str]) -> list[str]:
    """The distinct known values of a column of `subgroups`: ages and skin tones by value, others by name."""
    known = set(values) - {""}
    order = {"age": [name for *_, name in AGE_BANDS], "skin tone": [name for _, name in TONES]}.get(
        scope, sorted(known)
    )
    return [value for value in order if value in known]


def _angle(path: str) -> float:
    image = Image.fromarray(read_pixels(path))
    image.thumbnail((128, 128))
    return typology_angle(np.asarray(image))
