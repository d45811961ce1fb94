"""From files to pixels: torch data sets over images of one size, and ranges of pixels."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from dermgen.config import InputError
from dermgen.data.cache import cached_array, key_of
from dermgen.data.image_files import read_pixels

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator


class PixelSet(Dataset):
    """Decoded images of one size as `{pixels, image_id}`; `pixels` is uint8 (3, resolution, resolution).

    Args:
        paths: of the images.
        image_ids: one for each.
        resolution: to which the shorter side is resized; the middle square is cut.
        interpolation: a name of torchvision's `InterpolationMode`; PIL resizes with antialiasing.
    """

    def __init__(self, paths: Sequence[str], image_ids: Sequence[str], resolution: int, interpolation: str = "bicubic"):
        self.paths, self.image_ids, self.resolution = list(paths), list(image_ids), resolution
        self.transform = resizing(resolution, interpolation)

    @classmethod
    def of(cls, table: "pd.DataFrame", resolution: int) -> "PixelSet":
        """The images of rows with `path` and `image_id`."""
        return cls(table["path"], table["image_id"], resolution)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"pixels": decode(self.paths[i], self.transform), "image_id": self.image_ids[i]}

    def stack(self, rows: Sequence[int] | None = None) -> torch.Tensor:
        """The pixels of these rows, or of all, uint8 (N, 3, resolution, resolution)."""
        rows = range(len(self)) if rows is None else rows
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda i: decode(self.paths[i], self.transform), rows)))


def resizing(resolution: int, interpolation: str, crop: bool = True) -> Callable[[Image.Image], Image.Image]:
    """Resize the shorter side to `resolution`, and cut the middle square."""
    resize = transforms.Resize(resolution, InterpolationMode[interpolation.upper()])
    return transforms.Compose([resize, transforms.CenterCrop(resolution)]) if crop else resize


def decode(path: str, transform: Callable[[Image.Image], Image.Image]) -> torch.Tensor:
    """The pixels of a transformed image, uint8 (3, H, W); errors as of `read_pixels`."""
    return TF.pil_to_tensor(transform(Image.fromarray(read_pixels(path))))


class LesionSet(Dataset):
    """Rows of a manifest as `{pixels, image_id, label}`; `pixels` is uint8 (3, resolution, resolution).

    `label` is the place of the row's class in `classes`, -1 where its class is unknown.
    """

    def __init__(self, rows: "pd.DataFrame", classes: Sequence[str], resolution: int):
        self.images = PixelSet.of(rows, resolution)
        self.labels = [classes.index(dx) if dx else -1 for dx in rows["dx"]]
        self.decoded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.decoded is None:
            return {**self.images[i], "label": self.labels[i]}
        pixels = torch.from_numpy(np.array(self.decoded[i]))
        return {"pixels": pixels, "image_id": self.images.image_ids[i], "label": self.labels[i]}

    def decode(self, cache_dir: Path, accelerator: "Accelerator", hash_of: Mapping[str, str]) -> None:
        """Decode and resize every image once, into a memory-mapped array on disk that is named by their content.

        Args:
            cache_dir: where the array is kept.
            accelerator: its processes share the work.
            hash_of: SHA-256 of each image's file, by image id.
        """
        hashes = [hash_of[image_id] for image_id in self.images.image_ids]
        path = cache_dir / "pixels" / f"{key_of('pixels', 'bicubic', self.images.resolution, *hashes)}.npy"

        def compute(rows: Sequence[int]) -> np.ndarray:
            return self.images.stack(rows).numpy()

        self.decoded = cached_array(path, len(self), compute, accelerator, 256, "decoding")


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors and numbers; image ids, and whole images of any shape, stay lists."""
    batch: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if isinstance(values[0], int):
            batch[name] = torch.tensor(values)
        else:
            batch[name] = values if name in ("image_id", "whole") else torch.stack(values)
    return batch


def to_unit_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] to float32 [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Float [-1, 1] to uint8 [0, 255], rounded to the nearest level; what a decoder overshoots is cut off.

    Raises:
        InputError: for NaN, which would become black.
    """
    if images.isnan().any():
        raise InputError("a network gave NaN for an image: its weights are damaged, or need a higher precision")
    return (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
