"""Image steps: what goes in, what comes out, what is refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dermgen.data import preprocess
from dermgen.data.phantom import draw_lesion


def gradient(height=20, width=30):
    return np.stack(np.meshgrid(np.arange(width) * 8, np.arange(height) * 12), -1).astype(np.uint8)


def rgb(height=20, width=30):
    return np.dstack([gradient(height, width), np.full((height, width), 77, np.uint8)])


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(rgb())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    image.save(tmp_path / "a.png", exif=exif)
    read = preprocess.read_image(tmp_path / "a.png")
    assert np.array_equal(read, np.rot90(rgb(), -1))


def test_sixteen_bits_are_scaled_by_the_range_that_the_file_declares(tmp_path):
    values = np.array([[0, 1000], [2000, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "full.png")
    expected = np.round(values * (255 / 65535))
    assert np.array_equal(preprocess.read_image(tmp_path / "full.png")[..., 0], expected)
    data = (tmp_path / "full.png").read_bytes()
    chunk = b"sBIT" + bytes([12])
    at = data.index(b"IDAT") - 4
    declared = data[:at] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]
    (tmp_path / "twelve.png").write_bytes(declared)
    assert preprocess.read_image(tmp_path / "twelve.png")[..., 0].tolist() == [[0, 62], [125, 255]]
    Image.fromarray(values).save(tmp_path / "twelve.tif", tiffinfo={281: 4095})
    assert preprocess.read_image(tmp_path / "twelve.tif")[..., 2].tolist() == [[0, 62], [125, 255]]


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    grey = Image.fromarray(gradient()[..., 0])
    grey.save(tmp_path / "grey.png")
    grey.convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([rgb(), np.full((20, 30), 128, np.uint8)])).save(tmp_path / "alpha.png")
    assert np.array_equal(preprocess.read_image(tmp_path / "grey.png"), np.repeat(gradient()[..., :1], 3, 2))
    assert preprocess.read_image(tmp_path / "palette.png").shape == (20, 30, 3)
    assert np.array_equal(preprocess.read_image(tmp_path / "alpha.png"), rgb())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.write_bytes(b""), "zero bytes"),
        (lambda p: p.write_bytes(b"GIF is not what this is"), "not an image"),
        (lambda p: Image.fromarray(rgb()).save(p, format="PNG"), "wrong extension: PNG data named .jpg"),
        (
            lambda p: (Image.fromarray(rgb(200, 300)).save(p), p.write_bytes(p.read_bytes()[:900])),
            "truncated or damaged",
        ),
    ],
)
def test_bad_files_are_refused_with_their_reason(tmp_path, make, reason):
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(preprocess.BadImage, match=reason):
        preprocess.read_image(path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 12_000, 9_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(preprocess.BadImage, match="12000 x 9000 pixels are over 100 megapixels"):
        preprocess.read_image(tmp_path / "bomb.png")


def test_a_lesion_box_is_a_square_around_the_mask_inside_the_image():
    mask = np.zeros((100, 160), np.uint8)
    mask[40:60, 70:110] = 255
    assert preprocess.lesion_box(mask, 0.25) == (20, 60, 60)
    mask[:] = 0
    mask[0:10, 150:160] = 255
    top, left, side = preprocess.lesion_box(mask, 0.5)
    assert (top, left, side) == (0, 140, 20)
    mask[:] = 255
    assert preprocess.lesion_box(mask, 0.5) == (0, 30, 100)


def test_the_automatic_segmentation_finds_most_phantom_lesions():
    overlaps = []
    for lesion, code in enumerate(["mel", "nv", "bkl", "vasc", "df", "akiec", "bcc"] * 2):
        image, mask, _ = draw_lesion(code, 5, lesion, 160)[0]
        found = preprocess.segment_lesion(image)
        inside = mask > 127
        overlaps.append(0 if found is None else ((found > 127) & inside).sum() / ((found > 127) | inside).sum())
    assert np.median(overlaps) > 0.75
    assert sum(o > 0.4 for o in overlaps) >= 12


def test_plain_skin_has_no_lesion():
    assert preprocess.segment_lesion(np.full((80, 120, 3), 200, np.uint8)) is None


def test_hair_removal_takes_hair_away_and_leaves_the_rest():
    skin = (
        cv2.GaussianBlur(np.random.default_rng(0).normal(190, 40, (192, 256, 3)), (0, 0), 12)
        .clip(0, 255)
        .astype(np.uint8)
    )
    cv2.circle(skin, (128, 96), 40, (110, 70, 50), -1, cv2.LINE_AA)
    hairy = skin.copy()
    for k in range(6):
        cv2.line(hairy, (10 + 40 * k, 5), (60 + 35 * k, 185), (40, 28, 22), 1, cv2.LINE_AA)
    hair = np.abs(hairy.astype(int) - skin).max(2) > 40
    cleaned = preprocess.remove_hair(hairy)
    before, after = (np.abs(x.astype(int) - skin).mean(2) for x in (hairy, cleaned))
    assert after[hair].mean() < 0.25 * before[hair].mean()
    assert after[~hair].mean() < 2
    assert np.array_equal(preprocess.remove_hair(skin), skin)


def test_shades_of_grey_takes_a_colour_cast_away():
    scene = np.random.default_rng(0).integers(40, 200, (30, 40, 3)).astype(np.uint8)
    cast = np.round(scene * [1.0, 0.8, 0.6]).astype(np.uint8)
    difference = preprocess.shades_of_grey(cast).astype(int) - preprocess.shades_of_grey(scene)
    # Up to one brightness for the whole picture, the two agree.
    ratio = preprocess.shades_of_grey(cast).mean((0, 1)) / preprocess.shades_of_grey(scene).mean((0, 1))
    assert np.ptp(ratio) < 0.02
    assert np.abs(difference).max() < 60


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 255
    small = preprocess.resize(stripes, 16)[2:-2].astype(int)
    assert np.abs(small - 127).max() < 12
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :30] = 255
    assert np.array_equal(preprocess.resize_mask(mask, 16)[0], [255] * 8 + [0] * 8)
