"""Images for training: lists of examples from a folder or a manifest, torch data sets over them, pixel ranges."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from dermgen.data import manifest, preprocess
from dermgen.data.cache import cached_array, key_of
from dermgen.data.names import is_text, printable
from dermgen.data.subsets import subset

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator


@dataclass(frozen=True)
class Example:
    """One training image: its file, its prompt, and its lesion mask ("" where it has none)."""

    path: str
    prompt: str
    image_id: str
    mask_path: str = ""


def folder_examples(folder: str | Path, prompt: str, what: str) -> list[Example]:
    """All images of a folder with one prompt, by name; hidden files and `Thumbs.db` are no images.

    Raises:
        InputError: if the folder is missing or has no images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{what}: no such folder: {folder}")
    paths = image_files(folder)
    if not paths:
        raise InputError(f"{what}: {folder} has no images ({', '.join(sorted(preprocess.FORMATS))})")
    if odd := [p for p in paths if not is_text(p)]:
        raise InputError(f"{what}: the file name {printable(odd[0])} is not UTF-8: rename the file")
    stems = Counter(p.stem for p in paths)
    return [Example(str(p), prompt, p.stem if stems[p.stem] == 1 else p.name) for p in paths]


def image_files(folder: Path) -> list[Path]:
    """Files of a folder with an image's ending, by name, hidden ones left out.

    Raises:
        InputError: if folders inside it have images too, which nobody would read.
    """
    inside = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for deeper in (p for p in inside if p.is_dir()):
        lost = next((p for p in deeper.rglob("*") if p.suffix.lower() in preprocess.FORMATS), None)
        if lost:
            raise InputError(
                f"{folder} has images in folders inside it (as {lost.relative_to(folder)}), which are not read: put "
                "them all into one folder, or make a manifest with `dermgen prepare`"
            )
    return [p for p in inside if p.suffix.lower() in preprocess.FORMATS and not p.is_dir()]


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
    table = manifest.read(folder)
    for code in exclude:
        manifest.select(table, dx=code, where=str(folder))
    table = manifest.select(table[~table["dx"].isin(list(exclude))], dx=dx, split=split, where=str(folder))
    if limit is not None and len(table) < limit:
        raise InputError(f"{limit} images asked for, {folder} has {len(table)} of {dx or 'all classes'} in {split!r}")
    if limit_per_class is not None:
        table = subset(table, limit_per_class, seed, "each")
    if number := limit or at_most:
        table = subset(table, number, seed)
    if prompt is None and (table["caption"] == "").any():
        raise InputError(f"{folder} has images without a caption: give --instance_prompt, or captions")
    return [
        Example(
            str(folder / row["file_name"]),
            prompt if prompt is not None else row["caption"],
            row["image_id"],
            str(folder / row["mask_file_name"]) if row["mask_file_name"] else "",
        )
        for row in table.to_dict("records")
    ]


def check_readable(examples: Sequence[Example]) -> None:
    """Raise `InputError` that names files which are missing or no whole images; each is read to its end.

    A PNG by its checksums, any other format by decoding it, since a JPEG does not tell that it was cut off.
    """

    def problem(path: str) -> str:
        if Path(path).suffix.lower() == ".png" and preprocess.is_whole_png(Path(path)):
            return ""
        try:
            preprocess.read_image(Path(path))
        except preprocess.BadImage as error:
            return f"{path} ({error})"
        return ""

    paths = [p for example in examples for p in (example.path, example.mask_path) if p]
    with ThreadPoolExecutor() as pool:
        bad = [found for found in pool.map(problem, paths) if found]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(examples)} images cannot be read: {', '.join(bad[:3])}; replace or remove them"
        )


class PixelSet(Dataset):
    """Decoded, resized images as `{pixels, image_id, prompt_id}`, with `mask` where the lesion's is asked for.

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
        resize = transforms.Resize(resolution, InterpolationMode[interpolation.upper()])
        self.transform = transforms.Compose([resize, transforms.CenterCrop(resolution)]) if crop else resize
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
        try:
            image = Image.fromarray(preprocess.read_image(Path(example.path)))
            name = "pixels" if self.crop else "whole"
            item = {name: TF.pil_to_tensor(self.transform(image)), "image_id": example.image_id}
            if self.masks:
                mask = torch.zeros(1, self.resolution, self.resolution, dtype=torch.uint8)
                if example.mask_path:
                    whole = Image.fromarray(preprocess.read_image(Path(example.mask_path))[..., 0])
                    mask = TF.pil_to_tensor(self.transform(whole))
                item["mask"] = mask
        except (preprocess.BadImage, OSError) as error:
            raise InputError(f"{example.path}: {error}") from error
        return item


class LesionSet(Dataset):
    """Rows of a manifest as `{pixels, image_id, label}`; `pixels` is uint8 (3, resolution, resolution).

    `label` is the place of the row's class in `classes`, -1 where its class is unknown.
    """

    def __init__(self, rows: "pd.DataFrame", classes: Sequence[str], resolution: int):
        examples = [Example(path, "", name) for path, name in zip(rows["path"], rows["image_id"], strict=True)]
        self.images = PixelSet(examples, [0] * len(examples), resolution, interpolation="bicubic")
        self.labels = [classes.index(dx) if dx else -1 for dx in rows["dx"]]
        self.decoded: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if self.decoded is None:
            return {**self.images[i], "label": self.labels[i]}
        pixels = torch.from_numpy(np.array(self.decoded[i]))
        return {"pixels": pixels, "image_id": self.images.examples[i].image_id, "label": self.labels[i]}

    def decode(self, cache_dir: Path, accelerator: "Accelerator", hash_of: Mapping[str, str]) -> None:
        """Decode and resize every image once, into a memory-mapped array on disk that is named by their content.

        Args:
            cache_dir: where the array is kept.
            accelerator: its processes share the work.
            hash_of: SHA-256 of each image's file, by image id.
        """
        hashes = [hash_of[e.image_id] for e in self.images.examples]
        path = cache_dir / "pixels" / f"{key_of('pixels', 'bicubic', self.images.resolution, *hashes)}.npy"

        def compute(rows: Sequence[int]) -> np.ndarray:
            with ThreadPoolExecutor() as pool:
                return np.stack(list(pool.map(lambda i: self.images[i]["pixels"].numpy(), rows)))

        self.decoded = cached_array(path, len(self), compute, accelerator, 256, "decoding")


def always_square(examples: Sequence[Example]) -> bool:
    """Whether every image is a square, so that no crop of it depends on chance; only headers are read."""
    for example in examples:
        with Image.open(example.path) as image:
            if image.width != image.height:
                return False
    return True


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
