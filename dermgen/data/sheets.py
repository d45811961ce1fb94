"""Pictures of pictures: plain grids, and contact sheets with a caption under each image."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from dermgen.config import whole_file

LINE = 15  # pixels from one line of a caption to the next

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
    wrap: bool = False,
) -> None:
    """Write images of any sizes, each in a cell of the largest one's size, with an optional text under each.

    Args:
        images: the pictures.
        path: of the sheet; its folder is made.
        columns: pictures in a row.
        captions: one under each picture.
        largest: height and width in pixels to which larger pictures are reduced.
        margin: between pictures, in pixels.
        wrap: break captions into as many lines as they need; otherwise each is cut to one line.
    """
    if largest is not None:
        images = [_reduced(image, largest) for image in images]
    width, height = max(i.width for i in images), max(i.height for i in images)
    font = ImageFont.load_default(size=11)
    texts = [_lines(text, width, font, wrap) for text in captions] if captions is not None else []
    below = LINE * max(map(len, texts), default=0)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + below + margin) + margin), "white")
    pen = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x = margin + i % columns * (width + margin)
        y = margin + i // columns * (height + below + margin)
        sheet.paste(image.convert("RGB"), (x, y))
        for n, text in enumerate(texts[i] if texts else ()):
            pen.text((x, y + height + 1 + n * LINE), text, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        sheet.save(partial)


def _lines(text: str, width: int, font: ImageFont.FreeTypeFont, wrap: bool) -> list[str]:
    """A caption as lines of at most this width in pixels, of characters that a font can draw."""
    text = re.sub(r"[^\x20-\x7e\xa0-\uffff]|\s|[\ud800-\udfff]", " ", text)
    if not wrap:
        return [_cut(text, width, font)]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, width, font) for line in lines]


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _reduced(image: Image.Image, largest: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((largest, largest))
    return small
