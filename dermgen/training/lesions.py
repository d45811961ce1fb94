"""Which images of a manifest a model is trained on from scratch, which are held out, and what their classes are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.image_files import check_readable
from dermgen.data.subsets import subset
from dermgen.labels import from_labels
from dermgen.settings.training import FromScratchConfig

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Lesions:
    """Rows of one manifest.

    Attributes:
        folder: the manifest.
        train: the images to train on.
        val: the held-out ones, of any class.
        classes: codes of the training images, in order.
    """

    folder: str
    train: "pd.DataFrame"
    val: "pd.DataFrame"
    classes: list[str]

    @property
    def val_of_classes(self) -> "pd.DataFrame":
        """The held-out images of the training classes; all if the training images have no classes."""
        return self.val[self.val["dx"].isin(self.classes)] if self.classes else self.val

    def sample_labels(self, conditional: bool, count: int) -> list[str]:
        """Labels of `count` sample images, class after class; "" if no class can be requested."""
        return [self.classes[i * len(self.classes) // count] for i in range(count)] if conditional else [""] * count

    def held_out_labels(self, conditional: bool, count: int) -> list[str]:
        """Labels of `count` samples to be measured, in the class shares of the held-out images."""
        if not conditional or self.val.empty:
            return [""] * count
        held_out = list(self.val_of_classes["dx"])
        return sorted(held_out[i * len(held_out) // count] for i in range(count))


def read_lesions(config: FromScratchConfig, folder: str | None = None, only: Sequence[str] | None = None) -> Lesions:
    """The manifest's rows that the config selects, or those of another `folder` or of `only` some classes.

    Raises:
        InputError: for a manifest with synthetic images or leaking splits, an unknown class, too few images for a
            batch, or images that cannot be read.
    """
    where, only = folder or config.data_dir, only or config.only_classes or ()
    table = manifest.read_real(where, need_classes=config.class_conditional)
    for code in (*only, *(config.exclude_classes or ())):
        manifest.select(table, dx=code, where=where)
    if only:
        table = table[table["dx"].isin(only)]
    table = table[~table["dx"].isin(config.exclude_classes or ())]
    train = manifest.select(table, split="train", where=where)
    if config.max_images_per_class is not None:
        train = subset(train, config.max_images_per_class, config.seed, "each")
    val = subset(table[table["split"] == "val"], config.validation_images, config.seed)
    train, val = train.reset_index(drop=True), val.reset_index(drop=True)
    if len(train) < config.train_batch_size:
        raise InputError(
            f"{where} has {counted(len(train), 'training image')} of {', '.join(only) or 'all classes'}, fewer than a "
            f"batch of {config.train_batch_size}: lower --train_batch_size"
        )
    classes = [c for c in from_labels(train["dx"]).codes if c in set(train["dx"])]
    if config.class_conditional and (absent := sorted(set(table["dx"]) - set(classes))):
        raise InputError(f"{where}: {', '.join(absent)} has no images in the train split")
    if config.class_conditional and len(classes) < 2:
        raise InputError(f"class_conditional needs at least 2 classes, {where} has {len(classes)}: leave it out")
    check_readable([*train["path"], *val["path"]])
    return Lesions(where, train, val, classes)
