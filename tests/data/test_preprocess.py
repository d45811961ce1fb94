"""Image steps give the expected pixels, and refuse files that they cannot interpret."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from dermgen import inspection
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
    with pytest.raises(
        preprocess.BadImage, match="samples up to 4095 only, without a declared range: give --bit_depth"
    ):
        preprocess.read_image(tmp_path / "full.png")
    assert preprocess.read_photo(tmp_path / "full.png", bit_depth=12)[0][..., 1].tolist() == [[0, 62], [125, 255]]
    Image.fromarray(values * 16).save(tmp_path / "sixteen.png")
    expected = np.round(values * 16 * (255 / 65535))
    assert np.array_equal(preprocess.read_image(tmp_path / "sixteen.png")[..., 0], expected)
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
    Image.fromarray(np.dstack([rgb(), np.full((20, 30), 255, np.uint8)])).save(tmp_path / "opaque.png")
    assert np.array_equal(preprocess.read_image(tmp_path / "grey.png"), np.repeat(gradient()[..., :1], 3, 2))
    assert preprocess.read_image(tmp_path / "palette.png").shape == (20, 30, 3)
    assert np.array_equal(preprocess.read_image(tmp_path / "opaque.png"), rgb())
    half, notes = preprocess.read_photo(tmp_path / "alpha.png")
    assert np.abs(half - (rgb() / 255 * 128 + 127)).max() <= 1
    assert notes == ("transparent parts put on white",)
    with pytest.raises(preprocess.BadImage, match="transparent parts"):
        preprocess.read_photo(tmp_path / "alpha.png", transparency="refuse")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda p: p.write_bytes(b""), "zero bytes"),
        (lambda p: p.write_bytes(b"GIF is not what this is"), "not an image"),
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


@pytest.mark.parametrize(
    ("file_format", "suffix"),
    [("JPEG", ".jfif"), ("JPEG", ".jpe"), ("GIF", ".gif"), ("JPEG2000", ".jp2"), ("WEBP", ".webp"), ("JPEG", ".png")],
)
def test_a_picture_is_read_by_its_content_whatever_the_ending_of_its_file(tmp_path, file_format, suffix):
    Image.fromarray(rgb(64, 64)).save(tmp_path / f"a{suffix}", format=file_format)
    pixels, notes = preprocess.read_photo(tmp_path / f"a{suffix}")
    assert np.abs(pixels.astype(int) - rgb(64, 64)).mean() < 20
    assert notes == (("JPEG data named .png",) if suffix == ".png" else ())


def test_colours_hidden_by_transparency_never_appear(tmp_path):
    hidden = np.dstack([np.full((20, 30, 3), (0, 255, 0), np.uint8), np.zeros((20, 30), np.uint8)])
    Image.fromarray(hidden).save(tmp_path / "a.webp", lossless=True, exact=True)
    Image.fromarray(hidden).convert("LA").save(tmp_path / "a.png")
    palette = Image.fromarray(np.zeros((20, 30), np.uint8), "P")
    palette.putpalette([0, 255, 0] * 256)
    palette.save(tmp_path / "b.png", transparency=0)
    for name in ("a.webp", "a.png", "b.png"):
        assert (preprocess.read_image(tmp_path / name) == 255).all()


def test_a_colour_profile_is_applied_and_a_damaged_one_is_noted(tmp_path):
    swapped = Image.fromarray(rgb())
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    swapped.save(tmp_path / "same.png", icc_profile=lab.tobytes())
    assert np.array_equal(preprocess.read_image(tmp_path / "same.png"), rgb())
    swapped.save(tmp_path / "wide.png", icc_profile=wide_gamut())
    pixels, notes = preprocess.read_photo(tmp_path / "wide.png")
    assert notes == ("colour profile to sRGB",)
    assert np.abs(pixels.astype(int) - rgb()).max() > 10
    swapped.save(tmp_path / "bad.png", icc_profile=b"no profile at all")
    pixels, notes = preprocess.read_photo(tmp_path / "bad.png")
    assert np.array_equal(pixels, rgb())
    assert notes == ("colour profile that does not fit, ignored",)


def wide_gamut() -> bytes:
    """An RGB profile with Adobe RGB's primaries and a gamma of 2.2, written by hand."""

    def number(x):
        return struct.pack(">i", round(x * 65536))

    def xyz(*v):
        return b"XYZ \0\0\0\0" + b"".join(map(number, v))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"wide\0" + b"\0" * 78 + b"\0"
    tags = [
        (b"desc", text),
        (b"cprt", b"text\0\0\0\0none\0\0\0\0"),
        (b"wtpt", xyz(0.9642, 1, 0.8249)),
        (b"rXYZ", xyz(0.60974, 0.31111, 0.01947)),
        (b"gXYZ", xyz(0.20528, 0.62567, 0.06087)),
        (b"bXYZ", xyz(0.14919, 0.06322, 0.74457)),
        *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    body, table, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags:
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + number(0.9642) + number(1) + number(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def test_an_impossible_number_in_exif_does_not_stop_the_orientation_from_being_applied(tmp_path):
    blob = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHII", 0x0112, 3, 1, 6 << 16)
    blob += struct.pack(">HHII", 0x011A, 10, 1, 38) + b"\0\0\0\0" + struct.pack(">ii", -1, 0)
    Image.fromarray(rgb()).save(tmp_path / "a.jpg", exif=blob, quality=100, subsampling=0)
    assert np.abs(preprocess.read_image(tmp_path / "a.jpg").astype(int) - np.rot90(rgb(), -1)).max() < 40
    assert inspection.read(tmp_path / "a.jpg")["exif"]


def test_a_mask_keeps_its_values(tmp_path):
    values = np.zeros((20, 30), np.uint8)
    values[5:10] = 1
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(preprocess.read_mask(tmp_path / "a.png"), values)
    Image.fromarray(values.astype(bool)).save(tmp_path / "b.png")
    assert np.array_equal(preprocess.read_mask(tmp_path / "b.png"), values * 255)
    Image.fromarray(values.astype(np.uint16) * 65535).save(tmp_path / "c.png")
    assert np.array_equal(preprocess.read_mask(tmp_path / "c.png"), values * 255)


def test_a_png_that_ends_early_is_not_whole(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(rgb(64, 64)).save(path)
    whole = path.read_bytes()
    assert preprocess.is_whole_png(path)
    for damaged in (b"", whole[:-20], whole[:60] + bytes(len(whole) - 60)):
        path.write_bytes(damaged)
        assert not preprocess.is_whole_png(path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(file_format, data):
        return struct.pack(">I", len(data)) + file_format + data + struct.pack(">I", zlib.crc32(file_format + data))

    for name, side in (("bomb.png", 12_000), ("larger.png", 60_000)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, 9_000, 8, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / name).write_bytes(data)
    assert not preprocess.is_whole_png(tmp_path / "larger.png")
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
        segmented = preprocess.segment_lesion(image)
        inside, guess = mask > 127, np.zeros(mask.shape, bool) if segmented is None else segmented > 127
        overlaps.append((guess & inside).sum() / (guess | inside).sum())
    assert np.median(overlaps) > 0.75
    assert sum(o > 0.4 for o in overlaps) >= 12


def test_plain_skin_has_no_lesion():
    assert preprocess.segment_lesion(np.full((80, 120, 3), 200, np.uint8)) is None


def test_hair_removal_removes_hair_and_leaves_the_rest():
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


def test_shades_of_grey_removes_a_colour_cast():
    scene = np.random.default_rng(0).integers(40, 200, (30, 40, 3)).astype(np.uint8)
    cast = np.round(scene * [1.0, 0.8, 0.6]).astype(np.uint8)
    difference = preprocess.shades_of_grey(cast).astype(int) - preprocess.shades_of_grey(scene)
    # The two agree except for the overall brightness.
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
