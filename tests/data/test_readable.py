"""Files that would break a training are named before it starts."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermgen import inspection
from dermgen.config import InputError
from dermgen.data.image_files import check_readable, folder_images


def test_a_cut_off_jpeg_is_named_before_training_and_a_whole_folder_passes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg", "c.png", "d.png"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
    check_readable([path for _, path in folder_images(tmp_path, "data")])
    jpeg = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "f.png").write_bytes(jpeg[: len(jpeg) // 2])  # has no checksums, whatever it is called
    with pytest.raises(InputError, match=r"1 of 5 images cannot be read: .*f.png .truncated"):
        check_readable([path for _, path in folder_images(tmp_path, "data")])
    (tmp_path / "f.png").unlink()
    for name in ("b.jpg", "d.png"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "e.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(InputError, match=r"3 of 5 images cannot be read: .*b.jpg .truncated.*d.png.*e.jpg .broken"):
        check_readable([path for _, path in folder_images(tmp_path, "data")])


def test_each_file_of_a_folder_has_an_id_of_its_own_whatever_the_endings(tmp_path):
    names = ["a.jpg", "b.png", "x.jpg", "x.jpg.png", "x.png"]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [i for i, _ in folder_images(tmp_path, "data")] == ["a", "b", "x.jpg", "x.jpg.png", "x.png"]


def test_a_file_name_that_is_not_utf8_is_one_sentence_and_can_be_inspected(tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xfc.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(odd)
    with pytest.raises(InputError, match="the file name .*odd.udcfc.png is not UTF-8: rename the file"):
        folder_images(tmp_path, "instance_data_dir")
    inspection.as_text(inspection.read(odd)).encode()
