"""Images with prompts and lesion masks, which DreamBooth trains on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from dermgen.blocks import counted
from dermgen.config import InputError
from dermgen.data import manifest
from dermgen.data.image_files import folder_images
from dermgen.data.loading import decode, resizing
from dermgen.data.subsets import subset


@dataclass(frozen=True)
class Example:
    """One training image: its file, its prompt, and its lesion mask ("" where it has none)."""

    path: str
    prompt: str
    image_id: str
    mask_path: str = ""


def files_of(examples: Sequence[Example]) -> list[str]:
    """The paths of all images and masks."""
    return [path for example in examples for path in (example.path, example.mask_path) if path]


def folder_examples(folder: str | Path, prompt: str, what: str) -> list[Example]:
    """All images of a folder with one prompt, see `folder_images`."""
    return [Example(path, prompt, image_id) for image_id, path in folder_images(folder, what)]


def manifest_examples(
    folder: str | Path,
    split: str,
    dx: str | None = None,
    exclude: Sequence[str] = (),
    prompt: str | None = None,
    limit: int | None = None,
    limit_per_class: int | None = None,
    at_most: int | None = None,
    seed: int = 0,
) -> list[Example]:
    """Images of one split of a manifest, each with its caption or with one `prompt` for all.

    Args:
        folder: a manifest folder.
        split: train, val or test.
        dx: only this class.
        exclude: without these classes.
        prompt: in place of the captions.
        limit: a random subset of this many, with the classes in their shares.
        limit_per_class: a random subset of at most this many of each class.
        at_most: `limit`, or all where there are fewer.
        seed: of the subsets, see `subsets.choose`.

    Raises:
        InputError: if a class is unknown, nothing is left, or fewer than `limit` are there.
    """
    folder = Path(folder)
    table = manifest.read_images(folder)
    for code in exclude:
        manifest.select(table, dx=code, where=str(folder))
    table = manifest.select(table[~table["dx"].isin(list(exclude))], dx=dx, split=split, where=str(folder))
    if limit is not None and len(table) < limit:
        raise InputError(
            f"{counted(limit, 'image')} asked for, {folder} has {len(table)} of {dx or 'all classes'} in {split!r}"
        )
    if limit_per_class is not None:
        table = subset(table, limit_per_class, seed, "each")
    if number := limit or at_most:
        table = subset(table, number, seed)
    if prompt is None and (table["caption"] == "").any():
        raise InputError(f"{folder} has images without a caption: give --instance_prompt, or captions")
    return [
        Example(
            row["path"],
            prompt if prompt is not None else row["caption"],
            row["image_id"],
            str(folder / row["mask_file_name"]) if row["mask_file_name"] else "",
        )
        for row in table.to_dict("records")
    ]


class PromptedSet(Dataset):
    """Decoded, resized images as `{pixels, image_id, prompt_id}`, with `mask` where the lesion's is requested.

    `pixels` is uint8 (3, resolution, resolution). Without a fixed crop there is `whole` in its place, (3, H, W) with
    the shorter side at `resolution`, for `random_crop` on the batch. `mask` is uint8 (1, resolution, resolution),
    zero where there is none.

    Args:
        examples: the images.
        prompt_ids: one integer per example.
        resolution: of the shorter side, in pixels.
        crop: cut the middle square; otherwise the image is returned whole.
        interpolation: a name of torchvision's `InterpolationMode`; PIL resizes with antialiasing.
        masks: load lesion masks as well; needs `crop`.
        keep: bytes of decoded images that stay in memory, for a set that is read again and again.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        prompt_ids: Sequence[int],
        resolution: int,
        crop: bool = True,
        interpolation: str = "lanczos",
        masks: bool = False,
        keep: int = 0,
    ):
        self._kept: dict[int, dict[str, Any]] = {}
        self._room = keep
        self.examples, self.prompt_ids, self.masks, self.crop = examples, prompt_ids, masks, crop
        self.transform = resizing(resolution, interpolation, crop)
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self._kept.get(i) or self._decode(self.examples[i])
        if i not in self._kept:
            size = sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor))
            if size <= self._room:
                self._kept[i] = item
                self._room -= size
        return {**item, "prompt_id": self.prompt_ids[i]}

    def _decode(self, example: Example) -> dict[str, Any]:
        name = "pixels" if self.crop else "whole"
        item = {name: decode(example.path, self.transform), "image_id": example.image_id}
        if self.masks:
            empty = torch.zeros(1, self.resolution, self.resolution, dtype=torch.uint8)
            item["mask"] = decode(example.mask_path, self.transform)[:1] if example.mask_path else empty
        return item


def always_square(examples: Sequence[Example]) -> bool:
    """Whether every image is a square, so that no crop of it depends on chance; only headers are read."""
    for example in examples:
        with Image.open(example.path) as image:
            if image.width != image.height:
                return False
    return True
