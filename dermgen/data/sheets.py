"""Pictures of pictures: plain grids, and contact sheets with a caption under each image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from dermgen.config import whole_file

if TYPE_CHECKING:  # workers of `dermgen prepare` import this module, and need no torch
    import torch


def save_grid(images: "torch.Tensor", path: Path, columns: int) -> None:
    """Write uint8 (N, 3, H, W) images as one PNG, `columns` to a row."""
    rows = [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]
    contact_sheet(rows, path, columns)


def contact_sheet(
    images: Sequence[Image.Image],
    path: Path,
    columns: int,
    captions: Sequence[str] | None = None,
    largest: int | None = None,
    margin: int = 4,
) -> None:
    """Write images of any sizes, each in a cell of the largest one's size, with an optional line under each.

    Args:
        images: the pictures.
        path: of the sheet; its folder is made.
        columns: pictures in a row.
        captions: one under each picture.
        largest: height and width in pixels to which larger pictures are reduced.
        margin: between pictures, in pixels.
    """
    if largest is not None:
        images = [_reduced(image, largest) for image in images]
    width, height = max(i.width for i in images), max(i.height for i in images)
    font = ImageFont.load_default(size=11)
    line = 15 if captions is not None else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + line + margin) + margin), "white")
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x = margin + i % columns * (width + margin)
        y = margin + i // columns * (height + line + margin)
        sheet.paste(image.convert("RGB"), (x, y))
        if captions is not None:
            text = re.sub(
                r"[^\x20-\x7e\xa0-\uffff]|\s|[\ud800-\udfff]", " ", captions[i]
            )  # one line that a font can draw
            while text and pen.textlength(text, font=font) > width:
                text = text[:-1]
            pen.text((x, y + height + 1), text, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        sheet.save(partial)


def _reduced(image: Image.Image, largest: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((largest, largest))
    return small
