"""The mark survives common changes of images, is invisible, and is not found in unmarked images."""

import hashlib
import io

import numpy as np
import pytest
import scipy.fft
from PIL import Image

from dermgen import watermark
from dermgen.config import InputError
from dermgen.data.phantom import draw_lesion
from dermgen.inspection import InspectConfig, inspect


@pytest.fixture(scope="module")
def lesions():
    """Square pictures of different sizes."""
    drawn = [draw_lesion(code, 1, i, 160)[0][0] for i, code in enumerate(("mel", "nv", "bcc", "vasc", "df", "bkl"))]
    sizes = (64, 128, 160)
    return [np.asarray(Image.fromarray(d[:, 20:180]).resize((n, n))) for d, n in zip(drawn, sizes * 2, strict=True)]


def jpeg(image, quality=90):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(image, factor):
    side = round(image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i,
        jpeg,
        lambda i: resized(i, 0.75),
        lambda i: resized(i, 2),
        lambda i: i[:, ::-1],
        lambda i: np.rot90(i),
        lambda i: (i * 0.9).astype(np.uint8),
    ],
    ids=["as it is", "JPEG 90", "three quarters", "twice as large", "mirrored", "turned", "darker"],
)
def test_the_mark_is_found_in_a_marked_image_after_a_change_and_not_in_an_unmarked_one(change, lesions):
    for image in lesions:
        assert watermark.detect(change(image)) < watermark.THRESHOLD
        assert watermark.detect(np.ascontiguousarray(change(watermark.embed(image)))) > watermark.THRESHOLD


def test_the_mark_changes_pixels_by_a_few_grey_levels_only(lesions):
    for image in lesions:
        change = watermark.embed(image).astype(float) - image
        assert 0.3 < np.sqrt((change**2).mean()) <= watermark.STRONGEST + 0.3  # rounding
        assert np.abs(change).max() < 16


def test_without_a_mark_the_score_is_that_of_chance():
    """Of noise each score has mean 0 and variance 1, whatever the picture's spectrum."""
    rng = np.random.default_rng(0)
    for power in (0, 1):  # white, and as smooth as photographs are
        scores = []
        for _ in range(200):
            noise = np.fft.rfft2(rng.normal(size=(64, 64)))
            radius = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None]) + 1 / 64
            picture = np.fft.irfft2(noise / radius**power)
            picture = 128 + 30 * picture / picture.std()
            scores.append(watermark._score(np.repeat(picture[..., None], 3, 2).clip(0, 255).astype(np.uint8)))
        assert abs(np.mean(scores)) < 4 / np.sqrt(200)
        assert 0.85 < np.std(scores) < 1.15


def test_an_image_that_an_earlier_version_marked_is_found():
    """The pattern written down once more: signs from SHA-256 at 4 to 40 half-waves, as images out there have it."""
    digests = b"".join(hashlib.sha256(f"dermgen watermark {i}".encode()).digest() for i in range(7))
    signs = np.unpackbits(np.frombuffer(digests, np.uint8))[:1600].reshape(40, 40) * 2.0 - 1
    assert signs[10, :12].tolist() == [-1, 1, 1, -1, -1, -1, -1, -1, 1, -1, -1, 1]
    radius = np.hypot(*np.meshgrid(np.arange(40), np.arange(40), indexing="ij"))
    spectrum = np.zeros((96, 96))
    spectrum[:40, :40] = np.where((radius >= 4) & (radius < 40), signs, 0)
    pattern = scipy.fft.idctn(spectrum, norm="ortho")
    grey = np.full((96, 96, 3), 128.0)
    marked = grey + 2 * pattern[..., None] / np.sqrt((pattern**2).mean())
    assert watermark.detect(marked.round().astype(np.uint8)) > watermark.THRESHOLD
    other = np.roll(signs, 1, axis=1)  # another pattern of the same strength is not ours
    spectrum[:40, :40] = np.where((radius >= 4) & (radius < 40), other, 0)
    pattern = scipy.fft.idctn(spectrum, norm="ortho")
    marked = grey + 2 * pattern[..., None] / np.sqrt((pattern**2).mean())
    assert watermark.detect(marked.round().astype(np.uint8)) < watermark.THRESHOLD


def test_a_tiny_image_cannot_be_marked():
    with pytest.raises(InputError, match="at least 64 x 64 pixels, these have 16 x 64"):
        watermark.embed(np.zeros((16, 64, 3), np.uint8))


def test_inspect_reports_text_watermark_and_exif(lesions, tmp_path, capsys):
    import torch

    from dermgen.generation.generate import write_synthetic

    marked = torch.from_numpy(watermark.embed(lesions[1])).permute(2, 0, 1)
    write_synthetic(marked, tmp_path / "ours.png", {"model": "lora", "model_sha256": "ab" * 32, "seed": 17})
    exif = Image.Exif()
    exif[0x010F] = "camera"
    Image.open(tmp_path / "ours.png").save(tmp_path / "passed_on.jpg", quality=90, exif=exif)
    Image.fromarray(lesions[2]).save(tmp_path / "theirs.png")
    ours, passed_on, theirs = inspect(InspectConfig(files=[str(tmp_path)]))
    assert ours["facts"]["seed"] == 17
    assert passed_on["facts"] is None
    assert [f["watermark"] > watermark.THRESHOLD for f in (ours, passed_on, theirs)] == [True, True, False]
    assert [f["exif"] for f in (ours, passed_on, theirs)] == [False, True, False]
    text = capsys.readouterr().out
    assert "generated by lora, weights abababababab; dermgen" in text
    assert text.count("watermark  found: synthetic") == 2
    assert "this does not show that the image is real" in text
    summary = "3 images: 1 with a record of dermgen, 2 with the watermark, 1 with neither; 1 with EXIF"
    assert text.splitlines()[-1] == summary
    inspect(InspectConfig(files=[str(tmp_path / "ours.png")]))
    assert "1 image" not in capsys.readouterr().out


def test_inspect_names_a_file_that_it_cannot_read(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(InputError, match="a.png: not an image"):
        inspect(InspectConfig(files=[str(tmp_path / "a.png")]))
    with pytest.raises(InputError, match="no such file"):
        inspect(InspectConfig(files=[str(tmp_path / "b.png")]))


def test_inspect_ignores_another_programs_text(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("dermgen", "{not json")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png", pnginfo=info)
    assert inspect(InspectConfig(files=[str(tmp_path / "a.png")]))[0]["facts"] is None
