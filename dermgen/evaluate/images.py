"""The images to compare, from a manifest or a plain folder, with their classes, lesions and subgroups."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dermgen.config import InputError
from dermgen.data import manifest, preprocess, splits
from dermgen.data.loading import check_readable, folder_images
from dermgen.data.set_facts import SetFacts
from dermgen.data.skin_tone import tone, typology_angle

AGE_BANDS = ((0, 30, "under 30"), (30, 50, "30 to 49"), (50, 70, "50 to 69"), (70, 200, "70 and over"))


def read(folder: str | Path, synthetic: bool, dropped_too: bool = False) -> pd.DataFrame:
    """A manifest, or a plain folder of images, with `path` for each image and `group`, its lesion or patient.

    Args:
        folder: with metadata.csv or without.
        synthetic: whether its images must be synthetic or real; a plain folder does not say.
        dropped_too: whether images that `dermgen filter` dropped are read.

    Raises:
        InputError: if there are no images, some cannot be read, or they are real where synthetic ones are expected
            or the reverse.
    """
    folder = Path(folder)
    if folder.is_dir() and not (folder / "metadata.csv").exists():
        files = folder_images(folder, "synthetic" if synthetic else "real")
        table = pd.DataFrame(files, columns=["image_id", "path"])
        table["file_name"] = [Path(path).name for path in table["path"]]
        table = table.assign(age=np.nan, **{c: "" for c in manifest.COLUMNS if c not in (*table.columns, "age")})
    else:
        table = manifest.read(folder, synthetic_set=synthetic)
        wanted = "true" if synthetic else "false"
        bad = table[table["synthetic"] != wanted]
        if len(bad):
            expected = "synthetic" if synthetic else "real"
            raise InputError(
                f"{folder} is given as the {expected} set, but {len(bad)} of its {len(table)} images have synthetic = "
                f"{bad['synthetic'].iloc[0]!r}: expected {wanted!r}"
            )
        table["path"] = [str(folder / name) for name in table["file_name"]]
        if "kept" in table and not dropped_too:
            table = table[table["kept"] == "true"]
            if table.empty:
                raise InputError(f"{folder}: the filter kept none of its images")
    check_readable(list(table["path"]))
    table = table.reset_index(drop=True)
    return table.assign(group=splits.join_groups(table["lesion_id"], table["patient_id"]))


def facts(folder: str | Path) -> dict | None:
    """Facts of the images of a manifest; None for a plain folder, about which nothing is known."""
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
        raise InputError("the real set has no test split, and images that a model was trained on cannot judge it")
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


def _angle(path: str) -> float:
    image = Image.fromarray(preprocess.read_image(Path(path)))
    image.thumbnail((128, 128))
    return typology_angle(np.asarray(image))
