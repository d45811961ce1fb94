"""`dermgen prepare --preview`: some images as a model would see them, before a manifest is made."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from dermgen.blocks import Picture, Text, Warning, counted, for_terminal
from dermgen.config import InputError
from dermgen.data.captions import captions_of
from dermgen.data.preprocess import BadImage
from dermgen.data.processing import ODD_MASKS, Processed, Steps, process_file
from dermgen.data.sheets import contact_sheet
from dermgen.data.sources import RawTable
from dermgen.data.subsets import choose
from dermgen.settings.prepare import PrepareConfig

SIDE, COLUMNS = 256, 4  # pixels of a picture, so that its caption can be read; pictures in a row
OUTLINE = (0, 255, 255)  # cyan is no colour of skin


def write(source: RawTable, config: PrepareConfig, path: Path) -> Path:
    """Write a sheet of `config.preview` images, and say on the terminal what it shows.

    They are random images of different lesions, the classes in turn. Each is cropped and resized as its manifest would
    hold it, with its mask's outline drawn over it and its id, class and caption below.

    Returns:
        `path`.

    Raises:
        InputError: if none of them can be used.
    """
    table = source.table.assign(
        caption=captions_of(
            source.table, config.caption_template, source.taxonomy, config.caption_synonyms, config.seed
        )
    )
    chosen = choose(table["image_id"], config.preview, config.seed, table["lesion_id"], table["dx"], "turns")
    rows = table.iloc[chosen].sort_values("dx", kind="stable").to_dict("records")
    shown, pictures, captions, refused = [], [], [], []
    for row in rows:
        try:
            made = process_file(row["path"], row["mask_path"], Steps.of(config))
        except BadImage as error:
            refused.append(f"{row['path']} cannot be used: {error}")
            continue
        shown.append(row)
        pictures.append(Image.fromarray(outlined(made)))
        odd = f" (its mask is {made.mask_kind})" if made.mask_kind in ODD_MASKS else ""
        captions.append(f"{row['image_id']}, {row['dx']}{odd}: {row['caption']}")
    if not shown:
        raise InputError(f"nothing to show: {refused[0]}")
    contact_sheet(pictures, path, COLUMNS, captions, wrap=True)
    classes = pd.Series([row["dx"] for row in shown]).value_counts(sort=False)
    what = f"{counted(len(shown), 'image')} of {len(table):,} at {config.resolution} px ({_listed(classes)})"
    sheet = Picture(path, f"{what}, as a model would see {'them' if len(shown) > 1 else 'it'}", photographs=True)
    rest = Text("No manifest was written; leave out --preview to write it.")
    print(for_terminal([*map(Warning, refused), sheet, rest]))
    return path


def outlined(made: Processed) -> np.ndarray:
    """The image at `SIDE` pixels, uint8 (SIDE, SIDE, 3), single pixels enlarged as squares, with its mask's outline."""
    enlarged = len(made.image) < SIDE
    size, area = (SIDE, SIDE), cv2.INTER_NEAREST if enlarged else cv2.INTER_AREA
    image = np.ascontiguousarray(cv2.resize(made.image, size, interpolation=area))
    if made.mask is not None:
        mask = cv2.resize(made.mask, size, interpolation=cv2.INTER_NEAREST)
        edges, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, edges, -1, (0, 0, 0), 3)
        cv2.drawContours(image, edges, -1, OUTLINE, 1)
    return image


def _listed(classes: pd.Series) -> str:
    return ", ".join(f"{dx}: {n}" for dx, n in classes.items())
