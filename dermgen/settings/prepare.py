"""Settings of `dermgen prepare`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dermgen.config import SEEDS, InputError, check, option
from dermgen.data import captions

# Layouts of downloads that data/sources.py reads.
DOWNLOADS = ("ham10000", "isic2018", "isic2019", "isic2020", "imagefolder")


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Read a data set, clean and split it, and write a manifest folder. `dermgen prepare SOURCE --data_dir DIR …`"""

    source: str = option(
        None,
        f"what to read: {', '.join(DOWNLOADS)}, or the Hub id of a data set",
        required=True,
        positional=True,
        fixed=True,
    )
    data_dir: str | None = option(None, "the folder of the download; not needed for a Hub data set", free=True)
    output_dir: str = option(None, "the manifest folder to write", required=True, free=True)
    resolution: int = option(512, "height and width of the written images, in pixels", multiple_of=8)
    crop: Literal["lesion", "center"] = option("center", "square crop around the lesion, or the largest centred one")
    crop_margin: float = option(0.25, "room around the lesion for --crop lesion, as a fraction of its size", at_least=0)
    remove_hair: bool = option(False, "paint over dark hair")
    color_constancy: bool = option(False, "correct colours by the shades-of-grey method")
    split: list[float] | None = option(None, "fractions of train, val and test; default 0.7 0.15 0.15")
    allow_leaky_split: bool = option(False, "split by image, not by lesion and patient; results are marked LEAKY")
    find_duplicates: bool = option(True, "look for near-duplicates under different ids and join their groups")
    caption_template: str = option(
        captions.DEFAULT_TEMPLATE, "template of the captions, with the fields " + ", ".join(captions.FIELDS)
    )
    caption_synonyms: bool = option(
        False, "call a class by its name, a synonym or its malignancy, chosen at random for each image"
    )
    tokenizer: str | None = option(
        None, "model whose tokenizer the captions are checked against, an id or folder", free=True
    )
    image_column: str = option("image", "column of images in a Hub data set", fixed=True)
    label_column: str = option("label", "column of classes in a Hub data set")
    group_column: str | None = option(None, "column of lesions or patients, whose images stay in one split")
    no_groups: bool = option(
        False, "split by image if the data has no lesion or patient ids; results are marked NO GROUPS"
    )
    hub_split: str = option("train", "split of a Hub data set to read", fixed=True)
    license: str | None = option(None, "licence of the data, if the source does not state it")
    keep_split: bool = option(False, "keep the split of an image folder with train/ and test/ above its classes")
    partial: bool = option(False, "accept rows without an image, for a partial download", free=True)
    transparency: Literal["white", "refuse"] = option("white", "put transparent areas on white, or refuse the image")
    bit_depth: int | None = option(
        None, "significant bits of images with more than 8 bits that do not declare them, such as 12", within="[8, 32]"
    )
    preview: int | None = option(
        None, "only show this many images, with captions and masks, on a sheet beside output_dir", at_least=1, free=True
    )
    seed: int = option(0, "seed of the split, the synonyms and the preview", within=SEEDS)
    num_workers: int = option(os.cpu_count() or 1, "number of processes", at_least=1, free=True)

    def __post_init__(self):
        check(self)
        if self.source in DOWNLOADS and not self.data_dir:
            raise InputError(f"--data_dir is needed: the folder of the {self.source} download")
        if self.data_dir and not Path(self.data_dir).is_dir():
            raise InputError(f"no such folder: --data_dir {self.data_dir}")
        if self.data_dir and Path(self.output_dir).resolve().is_relative_to(Path(self.data_dir).resolve()):
            raise InputError(
                f"--output_dir {self.output_dir} is inside --data_dir, so the next run would read its own output: "
                "choose a folder outside it"
            )
        if self.split and (len(self.split) != 3 or min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6):
            raise InputError(f"split must be three fractions that sum to 1, got {self.split}")
        captions.check_template(self.caption_template)
